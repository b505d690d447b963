"""Folders for notes that are not to stay: gone with the process, or else at the next start."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ppedge.store.files import open_private, try_lock

PREFIX = "ppedge-"
_ALIVE = "alive"  # locked as long as the process lives that made the folder


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """A private folder that is removed at the end of the block.

    A process that is killed leaves its folder; whoever makes one next removes it.
    """
    _sweep()
    with tempfile.TemporaryDirectory(prefix=PREFIX, ignore_cleanup_errors=True) as name:
        folder = Path(name)
        # Under its name only once it is locked, so that nobody takes it for a dead one's.
        new = folder / f"{_ALIVE}.new"
        with open_private(new, os.O_RDWR | os.O_CREAT) as file:
            try_lock(file)
            new.replace(folder / _ALIVE)
            yield folder


def _sweep() -> None:
    """Remove folders of processes that were killed."""
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        # Somebody else's, or gone meanwhile: not ours to say anything about.
        with contextlib.suppress(OSError):
            if folder.is_symlink() or not _is_own(folder):
                continue
            with (folder / _ALIVE).open("r+b", buffering=0) as file:
                dead = try_lock(file)
            if dead:
                shutil.rmtree(folder, ignore_errors=True)


def _is_own(folder: Path) -> bool:
    return not hasattr(os, "getuid") or folder.stat().st_uid == os.getuid()
