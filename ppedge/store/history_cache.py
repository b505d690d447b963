"""The store that follows a history file: all in it comes from that file, so it can be made anew."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path
from typing import IO

from ppedge.errors import StoreError
from ppedge.notes.reader import NoteReader
from ppedge.store.files import DIRECTORY_MODE, disk_errors, make_private_directory, writer_lock
from ppedge.store.persona import ChangeReport, Encode, Persona, Progress, Space
from ppedge.store.stamps import content_digest

_LOCK_SECONDS = 30.0
_LOCK = "lock"


def ensure_keepable(folder: Path) -> None:
    """Make the folder of a store, or find that it can be written.

    Raises:
        StoreError: it cannot be made or written; the message names the way out.
    """
    with disk_errors(folder):
        make_private_directory(folder)
        if not os.access(folder, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(folder))


def open_history_cache(folder: Path, space: Space) -> Persona:
    """Open the store in ``folder``; empty it first if it is damaged, or another plug's.

    It is read to its end, unless that was done before with the same files: an answer must not come
    from damaged vectors.

    Raises:
        StoreError: it cannot be made there.
    """
    persona = _sound(folder, space)
    if persona is None:
        _clear(folder, space)
        persona = Persona.open(folder, space)
    return persona


def sync_history(
    persona: Persona,
    reader: NoteReader,
    file: IO[bytes] | None,
    encode: Encode,
    progress: Progress,
) -> ChangeReport:
    """Make the store hold what a history holds; one that has not changed is not read again.

    Args:
        persona: the store.
        reader: reads the notes.
        file: what it reads them from; None where that can be read only once.
        encode: encodes notes in the store's space.
        progress: called as notes are done.

    Raises:
        HistoryError, StoreError: as ``reader`` and `Persona.sync`.
    """
    before = content_digest(file) if file is not None and file.seekable() else ""
    if before and persona.is_synced(before):
        return ChangeReport(notes=len(persona))

    def content() -> str:
        # Not of a file that was changed while it was read, nor of one with lines to tell of.
        same = before and not reader.skipped and file and content_digest(file) == before
        return before if same else ""

    return persona.sync(reader, encode, progress=progress, content=content)


def _sound(folder: Path, space: Space, *, create: bool = True) -> Persona | None:
    try:
        persona = Persona.open(folder, space, create=create)
    except StoreError as error:
        if isinstance(error.__cause__, OSError):
            raise  # The disk's trouble is no damage; it may pass.
        return None
    try:
        if not persona.verify_changed():
            return persona
    except StoreError:
        pass
    persona.close()
    return None


def _clear(folder: Path, space: Space) -> None:
    if not folder.is_dir():
        return  # Opening it again says why it cannot be made.
    with writer_lock(folder / _LOCK, _LOCK_SECONDS):
        persona = _sound(folder, space, create=False)
        if persona is not None:  # Another process was changing it when we looked.
            persona.close()
            return
        with disk_errors(folder):
            folder.chmod(DIRECTORY_MODE)
            for entry in folder.iterdir():
                # The lock stays: others may be waiting for it.
                if entry.is_dir() and not entry.is_symlink():
                    shutil.rmtree(entry)
                elif entry.name != _LOCK:
                    entry.unlink()
