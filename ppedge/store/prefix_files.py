"""What was made of a person's notes for a model, kept beside the store: the state that their turns
leave it in, and what was counted of their manner.

A file holds what was computed of some notes, so it is as private as they are: it carries the
store's file version in its name and goes, like the row files, when any note goes. It is written
whole under another name first, and begins with its key and a checksum; what does not match is
not used.

    ppedge <kind> 1 <key: 64 hex digits> <SHA-256 of the rest: 64 hex digits>\\n<bytes>
"""

from __future__ import annotations

import hashlib
import os
import re
from contextlib import suppress
from pathlib import Path
from typing import Final, Literal

from ppedge.store.files import disk_errors, file_versions, write_whole

Kind = Literal["prefix", "manner"]
"""What a file is of: the state that turns leave a model in, or what was counted of a manner."""

KEPT: Final = 3
"""Files of a kind in one store, those used last; each model, form and scope has its own."""

_HEAD_BYTES: Final = len("ppedge prefix 1 ") + 64 + 1 + 64 + 1
_NAME: Final = re.compile(r"(?:prefix|manner)\.(\d+)\.[0-9a-f]{16}(?:\.part)?")


class PrefixFiles:
    """The prefix files of one file version of a store."""

    def __init__(self, folder: Path, file_version: int) -> None:
        """Name them; nothing is opened."""
        self._folder = folder
        self._file_version = file_version

    @staticmethod
    def file_versions(folder: Path) -> set[int]:
        """Generations of which a file is in ``folder``."""
        return file_versions(folder, _NAME)

    def read(self, kind: Kind, key: str, *, used: bool = False) -> memoryview | None:
        """What is kept under a key, not copied; None where there is none that is whole.

        Args:
            kind: what it is of.
            key: 64 hex digits.
            used: count it as the newest from now on, so that others make way before it.
        """
        path = self._path(kind, key)
        try:
            data = path.read_bytes()
        except OSError:
            return None
        # Megabytes: a slice of bytes would be a copy.
        end = data.find(b"\n", 0, _HEAD_BYTES)
        state = memoryview(data)[end + 1 :]
        whole = end > 0 and data[:end] == _head(kind, key, state)
        if whole and used:
            with suppress(OSError):
                os.utime(path)
        return state if whole else None

    def write(self, kind: Kind, key: str, state: bytes) -> None:
        """Keep something, and drop all but the newest of its kind.

        Raises:
            StoreError: the disk refuses.
        """
        path = self._path(kind, key)
        with disk_errors(path):
            write_whole(path, _head(kind, key, state) + b"\n", state)
            alike = [each for each in self._all() if each.name.startswith(kind)]
            kept = sorted(alike, key=lambda each: each.stat().st_mtime_ns)
            for old in kept[:-KEPT]:
                old.unlink(missing_ok=True)

    def remove(self) -> None:
        """Remove every file of the file version."""
        for path in self._all():
            with disk_errors(path):
                path.unlink(missing_ok=True)

    def _all(self) -> list[Path]:
        found = ((path, _NAME.fullmatch(path.name)) for path in self._folder.iterdir())
        return [path for path, match in found if match and int(match[1]) == self._file_version]

    def _path(self, kind: Kind, key: str) -> Path:
        return self._folder / f"{kind}.{self._file_version}.{key[:16]}"


def _head(kind: Kind, key: str, state: bytes | memoryview) -> bytes:
    return f"ppedge {kind} 1 {key} {hashlib.sha256(state).hexdigest()}".encode()
