"""Which file's content a store was last made equal to: the same need not be read again.

One line beside the row files, with their version in its name: it goes, like them, when any note
goes. It holds a hash of the whole file and counts only as long as the store has not changed since.
What is cut short or of another form is as good as none.

    ppedge synced 1 <version of the store> <SHA-256: 64 hex digits>\\n
"""

from __future__ import annotations

import hashlib
import os
import re
import time
from collections.abc import Iterable
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import IO, ClassVar, Final

from ppedge.store.files import disk_errors, open_private, write_all

_BLOCK_BYTES: Final = 1 << 18

# A change within this time of another may leave a file with the same times.
_SETTLED_NANOSECONDS: Final = 2_000_000_000


def content_digest(stream: IO[bytes]) -> str:
    """SHA-256 (hex) of a file from its beginning, to which it is set back.

    ppedge's version is part of it: another one may read other notes from the same bytes.
    """
    total = hashlib.sha256(f"{version('ppedge')}\n".encode())
    stream.seek(0)
    while block := stream.read(_BLOCK_BYTES):
        total.update(block)
    stream.seek(0)
    return total.hexdigest()


def files_digest(paths: Iterable[Path]) -> str:
    """SHA-256 (hex) of when files were last changed, and how; "" where that is not certain.

    Args:
        paths: files; each is known by its number, size and times, and may be missing.
    """
    newest, told = 0, [version("ppedge")]
    for path in paths:
        try:
            found = path.stat()
        except FileNotFoundError:
            told.append("")
            continue
        except OSError:
            return ""
        newest = max(newest, found.st_mtime_ns, found.st_ctime_ns)
        told.append(f"{found.st_ino} {found.st_size} {found.st_mtime_ns} {found.st_ctime_ns}")
    if time.time_ns() - newest < _SETTLED_NANOSECONDS:
        return ""
    return hashlib.sha256("\n".join(told).encode()).hexdigest()


class Stamp:
    """A line of one file version of a store."""

    _KIND: ClassVar[str]

    def __init__(self, folder: Path, file_version: int) -> None:
        """Name it; nothing is opened."""
        self._path = folder / f"{self._KIND}.{file_version}"

    @classmethod
    def file_versions(cls, folder: Path) -> set[int]:
        """Generations of which a line is in ``folder``."""
        name = re.compile(cls._KIND + r"\.(\d+)(?:\.part)?")
        found = (name.fullmatch(entry.name) for entry in folder.iterdir())
        return {int(match[1]) for match in found if match}

    def says(self, store_version: int, digest: str) -> bool:
        """Whether this was written of the store, which has not changed since."""
        try:
            return self._path.read_bytes() == self._line(store_version, digest)
        except OSError:
            return False

    def write(self, store_version: int, digest: str) -> None:
        """Say it from now on.

        Raises:
            StoreError: the disk refuses.
        """
        part = self._part()
        with disk_errors(self._path):
            try:
                with open_private(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC) as file:
                    write_all(file, self._line(store_version, digest))
                part.replace(self._path)
            except BaseException:
                with suppress(OSError):
                    part.unlink(missing_ok=True)
                raise

    def remove(self) -> None:
        """Remove it, as far as it is there."""
        for path in (self._path, self._part()):
            with disk_errors(path):
                path.unlink(missing_ok=True)

    def _part(self) -> Path:
        return self._path.with_name(f"{self._path.name}.part")

    def _line(self, store_version: int, digest: str) -> bytes:
        return f"ppedge {self._KIND} 1 {store_version} {digest}\n".encode()


class SyncedFile(Stamp):
    """Which file's content (`content_digest`) a store was last made equal to."""

    _KIND = "synced"


class CheckedFile(Stamp):
    """With which files (`files_digest`) a store was last found whole."""

    _KIND = "checked"
