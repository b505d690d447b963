"""Row files: the vectors of a persona store.

One file version of the vectors is a file of keys and a file of values. Each is a header page (one
line of JSON, padded to 4096 bytes), then one little-endian float16 row per note; row 0 is the
plug's null note. Two files, because pooling reads two plain streams a quarter faster than rows
of key and value side by side. A file version only ever grows at its end; any other change writes
the next file version, so a reader's memory map never changes under it.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ppedge.errors import StoreError
from ppedge.store.files import disk_errors, file_versions, open_private, write_all

HEADER_BYTES = 4096
_FORMAT = "ppedge rows 1"
_NAME = re.compile(r"(?:keys|values)\.(\d+)")


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
    def width(self) -> int:
        """Numbers of a key and a value together."""
        return self.d_key + self.d_value


@dataclass(frozen=True, eq=False, slots=True)
class Space:
    """What a plug asks of the store that holds its vectors.

    Attributes:
        d_key: width of a key.
        d_value: width of a value.
        encoder_sha256: hash of the note encoder.
        plug_sha256: hash of all of the plug that vectors hang on.
        null_key: float16 [d_key], key of the null note (row 0).
        null_value: float16 [d_value], value of the null note.
        formerly: the plug's hash by which stores knew it up to version 0.1.
    """

    d_key: int
    d_value: int
    encoder_sha256: str
    plug_sha256: str
    null_key: NDArray[np.float16]
    null_value: NDArray[np.float16]
    formerly: str = ""

    def fits(self, layout: Layout) -> bool:
        """Whether a store of this layout holds this plug's vectors."""
        return layout in (self.layout, replace(self.layout, plug_sha256=self.formerly))

    def within(self, layout: Layout) -> Space:
        """This space by the hash that a store which it fits knows it by."""
        return replace(self, plug_sha256=layout.plug_sha256) if self.fits(layout) else self

    @property
    def layout(self) -> Layout:
        """The space without its null note."""
        return Layout(self.d_key, self.d_value, self.encoder_sha256, self.plug_sha256)

    @property
    def null_row(self) -> bytes:
        """Row 0, packed as by `pack_row`."""
        return pack_row(self.layout, self.null_key, self.null_value, "the null note")


def pack_row(
    layout: Layout,
    key: NDArray[np.floating],
    value: NDArray[np.floating],
    whose: str,
) -> bytes:
    """Round one note's vectors to little-endian float16 and put them side by side.

    Args:
        layout: the store's layout.
        key: floating [d_key].
        value: floating [d_value].
        whose: names the note in the error.

    Returns:
        ``2 * layout.width`` bytes: key, then value.

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


Block = tuple[NDArray[np.float16], NDArray[np.float16]]
"""Some rows: keys float16 [any, d_key] and values float16 [any, d_value]."""


def as_block(row: bytes, layout: Layout) -> Block:
    """A row of `pack_row` as a block of one."""
    both = np.frombuffer(row, "<f2")[np.newaxis]
    return both[:, : layout.d_key], both[:, layout.d_key :]


class _Matrix:
    """One of the two files of a file version: rows of ``width`` float16 numbers."""

    def __init__(self, folder: Path, content: str, file_version: int, layout: Layout) -> None:
        self.path = folder / f"{content}.{file_version}"
        self.width = layout.d_key if content == "keys" else layout.d_value
        fields = {"format": _FORMAT, "content": content, "generation": file_version}
        header = json.dumps({**fields, **asdict(layout)})
        self.header = header.encode().ljust(HEADER_BYTES - 1) + b"\n"

    def position(self, row: int) -> int:
        """Where a row begins."""
        return HEADER_BYTES + 2 * self.width * row

    def size(self) -> int:
        """Bytes in the file; 0 if it is missing."""
        return self.path.stat().st_size if self.path.exists() else 0

    def append(self, n_rows: int, data: bytes) -> None:
        with disk_errors(self.path), open_private(self.path, os.O_RDWR) as file:
            file.seek(self.position(n_rows))
            write_all(file, data)

    def sync(self) -> None:
        with disk_errors(self.path), open_private(self.path, os.O_RDWR) as file:
            os.fsync(file.fileno())

    def truncate(self, n_rows: int) -> None:
        with disk_errors(self.path):
            if self.size() > self.position(n_rows):
                os.truncate(self.path, self.position(n_rows))

    def read(self, row: int) -> bytes:
        with disk_errors(self.path), suppress(FileNotFoundError), self.path.open("rb") as file:
            file.seek(self.position(row))
            return file.read(2 * self.width)
        return b""

    def problem(self, n_rows: int) -> str:
        try:
            with self.path.open("rb") as file:
                header = file.read(HEADER_BYTES)
                size = os.fstat(file.fileno()).st_size
        except FileNotFoundError:
            return f"{self.path} is missing"
        if header != self.header:
            return f"{self.path} has a damaged header, or belongs to another store"
        if size < self.position(n_rows):
            return f"{self.path} is cut short: {size} bytes of {self.position(n_rows)}"
        return ""

    def map(self, n_rows: int) -> NDArray[np.float16]:
        shape = (n_rows, self.width)
        return np.memmap(self.path, "<f2", "r", HEADER_BYTES, shape).view(np.ndarray)


class RowFiles:
    """One file version of a store's vectors on disk; rows are counted with the null note's."""

    def __init__(self, folder: Path, file_version: int, layout: Layout) -> None:
        """Name the files; nothing is opened."""
        self.file_version = file_version
        self.layout = layout
        self._keys = _Matrix(folder, "keys", file_version, layout)
        self._values = _Matrix(folder, "values", file_version, layout)
        self._both = (self._keys, self._values)

    @staticmethod
    def file_versions(folder: Path) -> set[int]:
        """Generations of which a file is in ``folder``."""
        return file_versions(folder, _NAME)

    @property
    def paths(self) -> list[Path]:
        """Of keys and values."""
        return [each.path for each in self._both]

    def write(self, blocks: Iterable[Block]) -> None:
        """Write both files whole and make them durable.

        Args:
            blocks: the rows in order, the null note's first.
        """
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
        self.remove()  # A new inode: a reader may still map the file of an earlier attempt.
        with (
            disk_errors(self._keys.path.parent),
            open_private(self._keys.path, flags) as keys,
            open_private(self._values.path, flags) as values,
        ):
            write_all(keys, self._keys.header)
            write_all(values, self._values.header)
            for key_rows, value_rows in blocks:
                write_all(keys, np.ascontiguousarray(key_rows).data.cast("B"))
                write_all(values, np.ascontiguousarray(value_rows).data.cast("B"))
            os.fsync(keys.fileno())
            os.fsync(values.fileno())

    def append(self, n_rows: int, rows: Sequence[bytes]) -> None:
        """Write packed rows after the first ``n_rows``; durable only after `sync`."""
        middle = 2 * self.layout.d_key
        self._keys.append(n_rows, b"".join(row[:middle] for row in rows))
        self._values.append(n_rows, b"".join(row[middle:] for row in rows))

    def sync(self) -> None:
        """Make appended rows durable."""
        for matrix in self._both:
            matrix.sync()

    def truncate(self, n_rows: int) -> None:
        """Drop what an interrupted append left after ``n_rows`` rows."""
        for matrix in self._both:
            matrix.truncate(n_rows)

    def remove(self) -> None:
        """Remove both files, as far as they are there."""
        for matrix in self._both:
            with disk_errors(matrix.path):
                matrix.path.unlink(missing_ok=True)

    def read(self, row: int) -> bytes:
        """Read one row, packed, as far as the files have it."""
        return self._keys.read(row) + self._values.read(row)

    def problem(self, n_rows: int) -> str:
        """Say why the files cannot hold ``n_rows`` rows of this layout; "" if they can."""
        return self._keys.problem(n_rows) or self._values.problem(n_rows)

    def is_exactly(self, n_rows: int) -> bool:
        """Whether nothing comes after the first ``n_rows`` rows."""
        return all(matrix.size() == matrix.position(n_rows) for matrix in self._both)

    def complete_rows(self, n_rows: int) -> int:
        """How many of ``n_rows`` rows both files have in full."""
        found = ((m.size() - HEADER_BYTES) // (2 * m.width) for m in self._both)
        return max(0, min(n_rows, *found))

    def map(self, n_rows: int) -> tuple[NDArray[np.float16], NDArray[np.float16]]:
        """Map the rows into memory, unread.

        Returns:
            Keys float16 [n_rows, d_key] and values float16 [n_rows, d_value], read-only.
        """
        return self._keys.map(n_rows), self._values.map(n_rows)
