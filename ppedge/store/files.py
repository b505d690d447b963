"""The persona store's dealings with the file system: private files, durability, one writer."""

from __future__ import annotations

import errno
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from ppedge.errors import StoreError

DIRECTORY_MODE = 0o700
FILE_MODE = 0o600

_NO_ROOM = {errno.ENOSPC, errno.EFBIG, errno.EDQUOT}
_POLL_SECONDS = 0.05

if sys.platform == "win32":
    import msvcrt

    def try_lock(file: IO[bytes]) -> bool:
        """Lock a file until it is closed; False if another process has."""
        # The locked byte lies past the text, which Windows would otherwise hide from readers.
        file.seek(1 << 16)
        try:
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True
else:
    import fcntl

    def try_lock(file: IO[bytes]) -> bool:
        """Lock a file until it is closed; False if another process has."""
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn an ``OSError`` in the block into a `StoreError` that says what to do."""
    try:
        yield
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror or error}; {_advice(error)}") from error


def _advice(error: OSError) -> str:
    if error.errno in _NO_ROOM:
        return "free some disk space and run it again (what was stored before is intact)"
    if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        return (
            "make the folder readable and writable for you, "
            "or choose another with --persona or PPEDGE_HOME"
        )
    if error.errno in (errno.ENOTDIR, errno.EEXIST):
        return (
            "a file stands where the folder, or one above it, would be made; "
            "choose another folder with --persona or PPEDGE_HOME"
        )
    return "check the disk, then run `ppedge notes verify`"


def make_private_directory(folder: Path) -> None:
    """Create ``folder`` and its parents; ``folder`` itself, if new or empty, gets mode 0700."""
    folder.mkdir(parents=True, exist_ok=True, mode=DIRECTORY_MODE)
    if not any(folder.iterdir()):
        folder.chmod(DIRECTORY_MODE)


def open_private(path: Path, flags: int) -> IO[bytes]:
    """Open ``path`` unbuffered with ``os.open`` flags; a new file has mode 0600."""
    flags |= getattr(os, "O_BINARY", 0)
    mode = "r+b" if flags & os.O_RDWR else "wb"
    return os.fdopen(os.open(path, flags, FILE_MODE), mode, buffering=0)


def write_all(file: IO[bytes], data: bytes | memoryview) -> None:
    """Write every byte of ``data``; a raw file may take only a part at a time."""
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]


def sync_directory(folder: Path) -> None:
    """Make the folder's entries (new names, removed names) durable."""
    if sys.platform == "win32":
        return  # NTFS journals names itself, and a folder cannot be opened for syncing there.
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def writer_lock(path: Path, timeout: float) -> Iterator[None]:
    """Hold the store's writer lock; the system lets go of it if the process dies.

    Args:
        path: the lock file; it holds the process id of its last holder.
        timeout: seconds to wait for another holder.

    Raises:
        StoreError: another process still held the lock after ``timeout``.
    """
    deadline = time.monotonic() + timeout
    with disk_errors(path):
        file = open_private(path, os.O_RDWR | os.O_CREAT)
    with file:
        while not try_lock(file):
            if time.monotonic() >= deadline:
                file.seek(0)
                holder = file.read(20).decode("ascii", "replace").strip() or "unknown"
                raise StoreError(
                    f"{path.parent}: another process (id {holder}) is changing this persona; "
                    f"waited {timeout:g} s; run it again when that process is done"
                )
            time.sleep(_POLL_SECONDS)
        with disk_errors(path):
            file.seek(0)
            file.truncate()
            write_all(file, str(os.getpid()).encode())
        yield
