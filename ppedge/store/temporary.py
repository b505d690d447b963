"""Folders for notes that are not to stay: gone with the process, or else at the next start."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ppedge.store.files import open_private, try_lock

PREFIX = "ppedge-"
_ALIVE = "alive"  # locked as long as the process lives that made the folder
_NEW = f"{_ALIVE}.new"
_YOUNG_SECONDS = 60


@contextmanager
def temporary_folder(parent: Path | None = None, prefix: str = PREFIX) -> Iterator[Path]:
    """A private folder that is removed at the end of the block.

    A process that is killed leaves its folder; whoever makes one next removes it.

    Args:
        parent: where it is made; None: among the system's temporary files.
        prefix: how its name begins.
    """
    sweep(parent, prefix)
    folder = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
    try:
        # Under its name only once it is locked, so that nobody takes it for a dead one's.
        with open_private(folder / _NEW, os.O_RDWR | os.O_CREAT) as file:
            try_lock(file)
            (folder / _NEW).replace(folder / _ALIVE)
            try:
                yield folder
            finally:
                _empty(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def sweep(parent: Path | None = None, prefix: str = PREFIX) -> None:
    """Remove folders of processes that were killed; see `temporary_folder`."""
    where = Path(tempfile.gettempdir()) if parent is None else parent
    for folder in where.glob(f"{prefix}*"):
        # Somebody else's, or gone meanwhile: not ours to say anything about.
        with contextlib.suppress(OSError):
            if folder.is_symlink() or not _is_own(folder):
                continue
            if _is_old_and_bare(folder):
                shutil.rmtree(folder, ignore_errors=True)
                continue
            with (folder / _ALIVE).open("r+b", buffering=0) as file:
                dead = try_lock(file)
                if dead:
                    _empty(folder)
            if dead:
                shutil.rmtree(folder, ignore_errors=True)


def _empty(folder: Path) -> None:
    """Remove all but what says whose it is: that goes last, or a kill here would hide the rest."""
    with contextlib.suppress(OSError):
        for entry in folder.iterdir():
            if entry.name == _ALIVE:
                continue
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry, ignore_errors=True)
            else:
                with contextlib.suppress(OSError):
                    entry.unlink()


def _is_old_and_bare(folder: Path) -> bool:
    """Whether a kill hit the very beginning or end of a folder's life."""
    if time.time() - folder.stat().st_mtime < _YOUNG_SECONDS:
        return False
    return {entry.name for entry in folder.iterdir()} <= {_NEW}


def _is_own(folder: Path) -> bool:
    return not hasattr(os, "getuid") or folder.stat().st_uid == os.getuid()
