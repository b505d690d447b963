"""Row files: the vectors of a persona store.

A row file is one generation of the store's vectors: a header page (one line of JSON, padded to
4096 bytes), then one row per note, ``key`` and ``value`` side by side as little-endian float16.
Row 0 is the plug's null note. A generation only ever grows at its end; any other change writes
the next generation, so a reader's memory map never changes under it.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ppedge.errors import StoreError
from ppedge.files import disk_errors, open_private, write_all

HEADER_BYTES = 4096
_FORMAT = "ppedge rows 1"
_NAME = re.compile(r"rows\.(\d+)")


@dataclass(frozen=True, slots=True)
class Layout:
    """Whose vectors a store holds, and how wide they are.

    Attributes:
        d_key: width of a key.
        d_value: width of a value.
        encoder_sha256: hash of the note encoder that made them.
        plug_sha256: hash of the plug that they belong to.
    """

    d_key: int
    d_value: int
    encoder_sha256: str
    plug_sha256: str

    @property
    def row_bytes(self) -> int:
        """Bytes of one row on disk."""
        return 2 * (self.d_key + self.d_value)

    def file_bytes(self, n_notes: int) -> int:
        """Bytes of a row file that holds ``n_notes`` notes and the null note."""
        return HEADER_BYTES + (n_notes + 1) * self.row_bytes


@dataclass(frozen=True, eq=False, slots=True)
class Space:
    """What a plug asks of the store that holds its vectors.

    Attributes:
        d_key: width of a key.
        d_value: width of a value.
        encoder_sha256: hash of the note encoder.
        plug_sha256: hash of the plug.
        null_key: float16 [d_key], key of the null note (row 0).
        null_value: float16 [d_value], value of the null note.
    """

    d_key: int
    d_value: int
    encoder_sha256: str
    plug_sha256: str
    null_key: NDArray[np.float16]
    null_value: NDArray[np.float16]

    @property
    def layout(self) -> Layout:
        """The space without its null note."""
        return Layout(self.d_key, self.d_value, self.encoder_sha256, self.plug_sha256)

    @property
    def null_row(self) -> bytes:
        """Row 0 as stored."""
        return pack_row(self.layout, self.null_key, self.null_value, "the null note")


def pack_row(
    layout: Layout,
    key: NDArray[np.floating],
    value: NDArray[np.floating],
    whose: str,
) -> bytes:
    """Round one note's vectors to float16 and lay them out as a row.

    Args:
        layout: the store's layout.
        key: floating [d_key].
        value: floating [d_value].
        whose: names the note in the error.

    Returns:
        ``layout.row_bytes`` bytes.

    Raises:
        StoreError: a wrong shape, or a number that is not finite as float16.
    """
    for name, vector, width in (("key", key, layout.d_key), ("value", value, layout.d_value)):
        if np.shape(vector) != (width,):
            raise StoreError(
                f"{name} of {whose} has shape {np.shape(vector)}, expected ({width},); "
                "the encoder does not fit this store"
            )
    with np.errstate(over="ignore"):
        row = np.concatenate([key, value]).astype("<f2")
    if not np.isfinite(row).all():
        raise StoreError(f"vectors of {whose} do not fit float16; the encoder gave NaN or too much")
    return row.tobytes()


class RowFile:
    """One generation of a store's vectors on disk."""

    def __init__(self, folder: Path, generation: int, layout: Layout) -> None:
        """Name the file; nothing is opened."""
        self.path = folder / f"rows.{generation}"
        self.generation = generation
        self.layout = layout

    @staticmethod
    def generations(folder: Path) -> list[int]:
        """Generations of which a file is in ``folder``."""
        found = (_NAME.fullmatch(entry.name) for entry in folder.iterdir())
        return sorted(int(match[1]) for match in found if match)

    def write(self, blocks: Iterable[bytes]) -> None:
        """Write the whole file (``blocks`` begin with the null row) and make it durable."""
        with disk_errors(self.path):
            # A new inode: a reader may still map the file of an earlier attempt.
            self.path.unlink(missing_ok=True)
            with open_private(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL) as file:
                write_all(file, self._header())
                for block in blocks:
                    write_all(file, block)
                os.fsync(file.fileno())

    def append(self, n_notes: int, data: bytes) -> None:
        """Write rows after the ``n_notes`` that the file holds; durable only after `sync`."""
        with disk_errors(self.path), open_private(self.path, os.O_RDWR) as file:
            file.seek(self.layout.file_bytes(n_notes))
            write_all(file, data)

    def sync(self) -> None:
        """Make appended rows durable."""
        with disk_errors(self.path), open_private(self.path, os.O_RDWR) as file:
            os.fsync(file.fileno())

    def truncate(self, n_notes: int) -> None:
        """Drop what an interrupted append left after ``n_notes`` notes."""
        size = self.layout.file_bytes(n_notes)
        with disk_errors(self.path):
            if self.path.stat().st_size > size:
                os.truncate(self.path, size)

    def read(self, row: int) -> bytes:
        """Read one row, as far as the file has it."""
        with disk_errors(self.path), suppress(FileNotFoundError), self.path.open("rb") as file:
            file.seek(self.layout.file_bytes(row - 1))
            return file.read(self.layout.row_bytes)
        return b""

    def problem(self, n_notes: int) -> str:
        """Say why the file cannot hold ``n_notes`` notes of this layout; "" if it can."""
        try:
            with self.path.open("rb") as file:
                header = file.read(HEADER_BYTES)
                size = os.fstat(file.fileno()).st_size
        except FileNotFoundError:
            return "is missing"
        if header != self._header():
            return "has a damaged header, or belongs to another store"
        if size < self.layout.file_bytes(n_notes):
            return (
                f"is cut short: {size} bytes, but {n_notes} notes need "
                f"{self.layout.file_bytes(n_notes)}"
            )
        return ""

    def map(self, n_notes: int) -> NDArray[np.float16]:
        """Map the rows into memory, unread.

        Returns:
            float16 [n_notes + 1, d_key + d_value], read-only.
        """
        width = self.layout.d_key + self.layout.d_value
        mapped = np.memmap(self.path, "<f2", "r", HEADER_BYTES, (n_notes + 1, width))
        return mapped.view(np.ndarray)

    def complete_rows(self, n_notes: int) -> int:
        """How many of ``n_notes`` notes' rows, and the null row, the file has in full."""
        size = self.path.stat().st_size if self.path.exists() else 0
        return max(0, min(n_notes + 1, (size - HEADER_BYTES) // self.layout.row_bytes))

    def _header(self) -> bytes:
        fields = {"format": _FORMAT, "generation": self.generation, **asdict(self.layout)}
        return json.dumps(fields).encode().ljust(HEADER_BYTES - 1) + b"\n"
