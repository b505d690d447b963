"""JSON files, packed by gzip or not, read whole or one element at a time.

with Source(path) as source: value = json.load(source.stream)
for number, element in elements(path): ...
"""

from __future__ import annotations

import gzip
import io
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ijson


class DataError(ValueError):
    """A data file cannot be read; one line that says which, where and what is wanted."""


def read(path: Path) -> Any:
    """The value of a JSON file.

    Raises:
        DataError: the file cannot be read, or holds no JSON.
    """
    with Source(path) as source:
        try:
            return json.loads(source.stream.read())
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path}: not valid JSON: {error}") from None


def elements(path: Path) -> Iterator[tuple[int, Any]]:
    """Yield (number from 1, value) of a JSON array's elements; one is in memory at a time.

    Raises:
        DataError: (while iterating) the file cannot be read, or holds no JSON array.
    """
    number = 0
    with Source(path) as source:
        if source.first() != b"[":
            raise DataError(f"{path} does not start a JSON array ('[')")
        try:
            for element in ijson.items(source.stream, "item", use_float=True):
                number += 1
                yield number, element
        except (ijson.JSONError, UnicodeDecodeError) as error:
            said = " ".join(str(error).split())
            raise DataError(f"{path}: not valid JSON after element {number}: {said}") from None


def kind(value: object) -> str:
    """What a decoded JSON value is, in words, for errors; None counts as a missing field."""
    kinds = {dict: "an object", list: "a list", str: "text", bool: "true or false"}
    return "missing or null" if value is None else kinds.get(type(value), "a number")


class Source:
    """A file opened for reading, unpacked if it is packed; a context manager.

    ``NAME.gz`` is opened where ``NAME`` is not there. Whether a file is packed is seen from its
    first bytes, not from its name.

    Attributes:
        stream: the unpacked bytes.

    Raises:
        DataError: the file is not there or cannot be read, on entering or while it is read.
    """

    def __init__(self, path: Path) -> None:
        packed = path.with_name(path.name + ".gz")
        self._path = path if path.exists() or not packed.exists() else packed

    def __enter__(self) -> Source:
        """Open the file."""
        try:
            self._file = self._path.open("rb")
        except FileNotFoundError:
            name = self._path.name
            raise DataError(f"neither {self._path} nor {name}.gz beside it exists") from None
        except OSError as error:
            raise DataError(f"{self._path}: cannot be read: {error.strerror}") from None
        self.stream: io.BufferedReader = self._file
        if self._file.peek(2)[:2] == b"\x1f\x8b":
            self.stream = io.BufferedReader(gzip.GzipFile(fileobj=self._file))
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        """Close the file; name it where reading it failed."""
        self._file.close()
        if isinstance(error, OSError | EOFError | zlib.error):
            raise DataError(f"{self._path}: cannot be read to its end: {error}") from None

    def first(self) -> bytes:
        """The first byte that is no space, left unread; a byte order mark is passed over."""
        if self.stream.peek(3)[:3] == b"\xef\xbb\xbf":
            self.stream.read(3)
        while (byte := self.stream.peek(1)[:1]) and byte.isspace():
            self.stream.read(1)
        return byte
