"""The persona store's dealings with the file system: private files, durability, one writer."""

from __future__ import annotations

import errno
import os
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from ppedge.errors import StoreError

DIRECTORY_MODE = 0o700
FILE_MODE = 0o600

_NO_ROOM = {errno.ENOSPC, errno.EFBIG, errno.EDQUOT}
# Where no folder can be: behind a link to itself, on a drive that is not there, under a name that
# the file system does not take.
_NO_PLACE = {
    errno.ENAMETOOLONG,
    errno.ELOOP,
    errno.EINVAL,
    errno.EILSEQ,
    errno.ENODEV,
    errno.ENXIO,
    errno.EOPNOTSUPP,
}
ANOTHER_FILE = "name a file in a folder that is there and that you may write to"
_ANOTHER_PLACE = "choose another folder with --persona or PPEDGE_HOME"
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
def disk_errors(path: Path, otherwise: str = "") -> Iterator[None]:
    """Turn an ``OSError`` in the block into a `StoreError` that says what to do.

    Args:
        path: what the block works on.
        otherwise: what to do where the disk is not full; by default, what helps a store.
    """
    try:
        yield
    except OSError as error:
        advice = otherwise if otherwise and error.errno not in _NO_ROOM else _advice(error)
        raise StoreError(f"{path}: {error.strerror or error}; {advice}") from error


def _advice(error: OSError) -> str:
    if error.errno in _NO_ROOM:
        return "free some disk space and run it again (what was stored before is intact)"
    if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        return (
            "make the folder readable and writable for you, "
            "or choose another with --persona or PPEDGE_HOME"
        )
    if error.errno in (errno.ENOTDIR, errno.EEXIST):
        return f"a file stands where the folder, or one above it, would be made; {_ANOTHER_PLACE}"
    if error.errno in _NO_PLACE:
        return f"no folder can be there; {_ANOTHER_PLACE}"
    return "check the disk, then run `ppedge notes verify`"


def make_private_directory(folder: Path) -> None:
    """Create ``folder`` and its parents; ``folder`` itself, if new or empty, gets mode 0700.

    Raises:
        StoreError: no folder can be made there.
        OSError: the disk says anything else.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=DIRECTORY_MODE)
    except OSError as error:
        if error.errno != errno.ENOENT:  # As within /proc.
            raise
        raise StoreError(
            f"{folder}: {error.strerror}; the folder cannot be made; {_ANOTHER_PLACE}"
        ) from error
    if not any(folder.iterdir()):
        folder.chmod(DIRECTORY_MODE)


def name_on_disk(name: str) -> str:
    """A name as a path takes it: its bytes are UTF-8, whatever encoding the locale names."""
    return os.fsdecode(name.encode())


def name_from_disk(entry: str) -> str:
    """The name that `name_on_disk` wrote; one that it cannot have written comes as it is."""
    try:
        return os.fsencode(entry).decode()
    except UnicodeError:
        return entry


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


def write_whole(path: Path, *parts: bytes) -> None:
    """Write a file that is there whole or not at all: under another name first.

    Raises:
        OSError: the disk refuses; what was at ``path`` stays.
    """
    unfinished = part_of(path)
    try:
        with open_private(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC) as file:
            for part in parts:
                write_all(file, part)
        unfinished.replace(path)
    except BaseException:
        with suppress(OSError):
            unfinished.unlink(missing_ok=True)
        raise


def part_of(path: Path) -> Path:
    """What `write_whole` calls a file until it is whole."""
    return path.with_name(f"{path.name}.part")


def file_versions(folder: Path, name: re.Pattern[str]) -> set[int]:
    """Versions of the files in ``folder`` whose names match; the version is the first group."""
    found = (name.fullmatch(entry.name) for entry in folder.iterdir())
    return {int(match[1]) for match in found if match}


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
