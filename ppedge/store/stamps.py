"""What is known of a store, so that it need not be found out again by reading everything.

- *synced*: which file's content it was last made equal to;
- *checked*: with which files it was last found whole.

Either is one line beside the row files, with their version in its name: it goes, like them, when
any note goes. It counts only as long as the store has not changed since. What is cut short or of
another form is as good as none.

    ppedge synced 1 <version of the store> <SHA-256: 64 hex digits>\\n
"""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Iterable
from pathlib import Path
from typing import IO, ClassVar, Final

from ppedge.store.files import disk_errors, file_versions, part_of, write_whole
from ppedge.version import __version__

_BLOCK_BYTES: Final = 1 << 18

# A change within this time of another may leave a file with the same times.
_SETTLED_NANOSECONDS: Final = 2_000_000_000


def content_digest(stream: IO[bytes]) -> str:
    """SHA-256 (hex) of a file from its beginning, to which it is set back.

    ppedge's version is part of it: another one may read other notes from the same bytes.
    """
    total = hashlib.sha256(f"{__version__}\n".encode())
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
    newest, told = 0, [__version__]
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
        return file_versions(folder, re.compile(cls._KIND + r"\.(\d+)(?:\.part)?"))

    def says(self, store_version: int, digest: str) -> bool:
        """Whether this was written of the store, which has not changed since."""
        line = self._line(store_version, digest)
        try:
            with self._path.open("rb") as file:
                return file.read(len(line) + 1) == line  # It may be anything, of any length.
        except OSError:
            return False

    def write(self, store_version: int, digest: str) -> None:
        """Say it from now on.

        Raises:
            StoreError: the disk refuses.
        """
        with disk_errors(self._path):
            write_whole(self._path, self._line(store_version, digest))

    def remove(self) -> None:
        """Remove it, as far as it is there."""
        for path in (self._path, part_of(self._path)):
            with disk_errors(path):
                path.unlink(missing_ok=True)

    def _line(self, store_version: int, digest: str) -> bytes:
        return f"ppedge {self._KIND} 1 {store_version} {digest}\n".encode()


class SyncedFile(Stamp):
    """Which file's content (`content_digest`) a store was last made equal to."""

    _KIND = "synced"


class CheckedFile(Stamp):
    """With which files (`files_digest`) a store was last found whole."""

    _KIND = "checked"


STAMPS: Final = (SyncedFile, CheckedFile)
"""All of them."""
