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
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import IO, Final

from ppedge.store.files import disk_errors, open_private, write_all

_FORM: Final = "ppedge synced 1"
_BLOCK_BYTES: Final = 1 << 18
_NAME: Final = re.compile(r"synced\.(\d+)(?:\.part)?")


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


class SyncedFile:
    """The line of one file version of a store."""

    def __init__(self, folder: Path, file_version: int) -> None:
        """Name it; nothing is opened."""
        self._path = folder / f"synced.{file_version}"

    @staticmethod
    def file_versions(folder: Path) -> set[int]:
        """Generations of which a line is in ``folder``."""
        found = (_NAME.fullmatch(entry.name) for entry in folder.iterdir())
        return {int(match[1]) for match in found if match}

    def says(self, store_version: int, digest: str) -> bool:
        """Whether the store was made equal to that content, and has not changed since."""
        try:
            return self._path.read_bytes() == _line(store_version, digest)
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
                    write_all(file, _line(store_version, digest))
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


def _line(store_version: int, digest: str) -> bytes:
    return f"{_FORM} {store_version} {digest}\n".encode()
