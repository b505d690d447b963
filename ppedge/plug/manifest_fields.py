"""A plug's JSON, which may come from anybody: bounded, and read field by field."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Container, Iterator
from typing import Any, TypeVar

from ppedge.errors import PlugError

MAX_MANIFEST_BYTES = 1 << 20
_MAX_DEPTH = 16
_SHA256 = re.compile(r"[0-9a-f]{64}")

_Kind = TypeVar("_Kind")


def load_json(data: bytes, where: str) -> object:
    """Decode JSON of bounded size and depth, whose text and numbers can be printed again.

    Raises:
        PlugError: it is not.
    """
    if len(data) > MAX_MANIFEST_BYTES:
        raise PlugError(f"{where}: larger than {MAX_MANIFEST_BYTES} bytes; no plug is")
    try:
        raw: object = json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise PlugError(f"{where}: not valid JSON: {error}") from None
    level = [raw]
    for _ in range(_MAX_DEPTH):
        level = [part for value in level for part in _parts(value, where)]
    if level:
        raise PlugError(f"{where}: nested more than {_MAX_DEPTH} deep; no plug is")
    return raw


def _parts(value: object, where: str) -> Iterator[object]:
    """What a JSON value is made of; refuses half a surrogate pair, and a number out of range."""
    if isinstance(value, dict):
        yield from value
        yield from value.values()
    elif isinstance(value, list):
        yield from value
    elif isinstance(value, float) and not math.isfinite(value):
        raise PlugError(f"{where}: holds a number that is not finite")
    elif isinstance(value, str) and any("\ud800" <= char <= "\udfff" for char in value):
        raise PlugError(f"{where}: holds half a surrogate pair in {json.dumps(value)[:60]}")


class Fields:
    """A JSON object whose fields are read one by one, each error naming the field.

    Attributes:
        raw: the object.
        where: names it in every error.
    """

    def __init__(self, raw: object, where: str) -> None:
        """Refuse what is no object."""
        if not isinstance(raw, dict):
            raise PlugError(f"{where}: must be an object, not {type(raw).__name__}")
        self.raw: dict[str, Any] = raw
        self.where = where

    def wrong(self, name: str, wanted: str) -> PlugError:
        """Return the error that ``name`` is not what is ``wanted``."""
        found = json.dumps(self.raw[name])[:60]
        return PlugError(f"{self.where}: field '{name}' must be {wanted}, not {found}")

    def missing(self, name: str) -> PlugError:
        """Return the error that ``name`` is not there."""
        return PlugError(f"{self.where}: field '{name}' is missing")

    def get(self, name: str, kind: type[_Kind], default: _Kind | None = None) -> _Kind:
        """Return a value of exactly type ``kind``; without a default it must be there."""
        if name not in self.raw:
            if default is None:
                raise self.missing(name)
            return default
        value = self.raw[name]
        if type(value) is not kind:
            raise self.wrong(name, f"of type {kind.__name__}")
        return value

    def inside(self, name: str) -> Fields:
        """Return the object ``name``."""
        return Fields(self.get(name, dict), f"{self.where}: {name}")

    def text(self, name: str) -> str:
        """Return a line of text to show to people."""
        value = self.get(name, str)
        if not value.isprintable() or not 1 <= len(value) <= 200:
            raise self.wrong(name, "1 to 200 printable characters")
        return value

    def count(self, name: str, low: int, high: int, default: int | None = None) -> int:
        """Return an integer from ``low`` to ``high``."""
        value = self.get(name, int, default)
        if not low <= value <= high:
            raise self.wrong(name, f"{low} to {high}")
        return value

    def number(self, name: str, *, above_0: bool, default: float | None = None) -> float:
        """Return a number of at least 0, or above it, and below a million."""
        if name not in self.raw and default is not None:
            return default
        value = self._float(name)
        if value is None or not 0 <= value < 1e6 or (above_0 and value == 0):
            least = "above 0" if above_0 else "of at least 0"
            raise self.wrong(name, f"a number {least} and below a million")
        return value

    def signed(self, name: str, limit: float) -> float:
        """Return a number from -``limit`` to ``limit``."""
        value = self._float(name)
        if value is None or not abs(value) <= limit:
            raise self.wrong(name, f"a number from -{limit:g} to {limit:g}")
        return value

    def _float(self, name: str) -> float | None:
        if name not in self.raw:
            raise self.missing(name)
        value = self.raw[name]
        # True is an int to isinstance; an integer may be too long for a float.
        if type(value) is bool or not isinstance(value, int | float) or abs(value) > 1e9:
            return None
        return float(value)

    def sha256(self, name: str) -> str:
        """Return a SHA-256 in hex."""
        value = self.get(name, str)
        if not _SHA256.fullmatch(value):
            raise self.wrong(name, "64 lower-case hex digits")
        return value

    def file(self, name: str, files: Container[str]) -> str:
        """Return the name of one of the plug's files."""
        value = self.text(name)
        if value not in files:
            raise self.wrong(name, "one of the names in 'files'")
        return value
