"""What a JSON body may hold: each field checks a value, and says so in JSON Schema too.

One description for both, so that /openapi.json cannot promise what the server refuses.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from ppedge.server.errors import bad

Schema = dict[str, Any]


class Field(Protocol):
    """One kind of value."""

    def schema(self) -> Schema:
        """JSON Schema of it."""

    def read(self, value: Any, name: str) -> Any:
        """The value, checked.

        Raises:
            ApiError: 400, with ``name`` in its line.
        """


def parse(body: bytes) -> Any:
    """Parse JSON strictly.

    Raises:
        ApiError: 400; it is not UTF-8, not JSON, or deeper than anything that is asked here.
    """
    try:
        return json.loads(body.decode("utf-8"), parse_constant=_no_constant)
    except UnicodeDecodeError:
        raise bad("the body is not UTF-8; send JSON as UTF-8") from None
    except RecursionError:
        raise bad("the body is nested too deeply") from None
    except ValueError as error:
        # Not the decoder's own line: that would show parts of what was sent.
        at = f" at line {error.lineno}" if isinstance(error, json.JSONDecodeError) else ""
        raise bad(f"the body is not JSON{at}; send one JSON object") from None


def _no_constant(name: str) -> Any:
    raise ValueError(name)


@dataclass(frozen=True, slots=True)
class Text:
    """A string of so many characters."""

    least: int = 0
    most: int = 1_000_000

    def schema(self) -> Schema:
        """See `Field`."""
        return {"type": "string", "minLength": self.least, "maxLength": self.most}

    def read(self, value: Any, name: str) -> str:
        """See `Field`."""
        if not isinstance(value, str):
            raise bad(f"{name} must be a string, not {_kind(value)}", name)
        if not self.least <= len(value) <= self.most:
            raise bad(f"{name} must have {self.least} to {self.most} characters", name)
        try:
            value.encode("utf-8")
        except UnicodeEncodeError:
            raise bad(f"{name} holds half a surrogate pair; send whole characters", name) from None
        return value


@dataclass(frozen=True, slots=True)
class Integer:
    """A whole number in a range."""

    least: int
    most: int

    def schema(self) -> Schema:
        """See `Field`."""
        return {"type": "integer", "minimum": self.least, "maximum": self.most}

    def read(self, value: Any, name: str) -> int:
        """See `Field`."""
        # JSON has one kind of number: 5.0 is 5.
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if not isinstance(value, int) or isinstance(value, bool):
            raise bad(f"{name} must be a whole number, not {_kind(value)}", name)
        if not self.least <= value <= self.most:
            raise bad(f"{name} must be {self.least} to {self.most}", name)
        return value


@dataclass(frozen=True, slots=True)
class Number:
    """A number in a range, its least value included or not."""

    least: float
    most: float
    above: bool = False

    def schema(self) -> Schema:
        """See `Field`."""
        key = "exclusiveMinimum" if self.above else "minimum"
        return {"type": "number", key: self.least, "maximum": self.most}

    def read(self, value: Any, name: str) -> float:
        """See `Field`."""
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise bad(f"{name} must be a number, not {_kind(value)}", name)
        fits = self.least < value if self.above else self.least <= value
        if not (fits and value <= self.most and math.isfinite(value)):
            first = f"above {self.least:g} and at most" if self.above else f"{self.least:g} to"
            raise bad(f"{name} must be {first} {self.most:g}", name)
        return float(value)


@dataclass(frozen=True, slots=True)
class Flag:
    """True or false."""

    def schema(self) -> Schema:
        """See `Field`."""
        return {"type": "boolean"}

    def read(self, value: Any, name: str) -> bool:
        """See `Field`."""
        if not isinstance(value, bool):
            raise bad(f"{name} must be true or false, not {_kind(value)}", name)
        return value


@dataclass(frozen=True, slots=True)
class Only:
    """One of a few values, which are all that is supported here.

    Attributes:
        values: those.
        advice: what to do instead of another.
    """

    values: tuple[Any, ...]
    advice: str = ""

    def schema(self) -> Schema:
        """See `Field`."""
        return {"enum": list(self.values)}

    def read(self, value: Any, name: str) -> Any:
        """See `Field`."""
        for each in self.values:
            # For Python, true is 1.
            if isinstance(each, bool) == isinstance(value, bool) and each == value:
                return each
        can = " or ".join(json.dumps(each) for each in self.values)
        rest = f"; {self.advice}" if self.advice else ""
        raise bad(f"{name} can only be {can} here{rest}", name)


@dataclass(frozen=True, slots=True)
class Anything:
    """A value that changes nothing of an answer, such as a client's own mark."""

    def schema(self) -> Schema:
        """See `Field`."""
        return {}

    def read(self, value: Any, name: str) -> Any:
        """See `Field`."""
        return value


@dataclass(frozen=True, slots=True)
class ListOf:
    """A list of so many values of one kind."""

    each: Field
    least: int
    most: int

    def schema(self) -> Schema:
        """See `Field`."""
        return {
            "type": "array",
            "items": self.each.schema(),
            "minItems": self.least,
            "maxItems": self.most,
        }

    def read(self, value: Any, name: str) -> list[Any]:
        """See `Field`."""
        if not isinstance(value, list):
            raise bad(f"{name} must be a list, not {_kind(value)}", name)
        if not self.least <= len(value) <= self.most:
            raise bad(f"{name} must have {self.least} to {self.most} entries", name)
        return [self.each.read(each, f"{name}[{i}]") for i, each in enumerate(value)]


@dataclass(frozen=True, slots=True)
class OneOrMore:
    """A string, or a list; always read as a list."""

    one: Text
    more: ListOf

    def schema(self) -> Schema:
        """See `Field`."""
        return {"anyOf": [self.one.schema(), self.more.schema()]}

    def read(self, value: Any, name: str) -> list[Any]:
        """See `Field`."""
        if isinstance(value, str):
            return [self.one.read(value, name)]
        if not isinstance(value, list):
            raise bad(f"{name} must be a string or a list, not {_kind(value)}", name)
        return self.more.read(value, name)


@dataclass(frozen=True, slots=True)
class Form:
    """A JSON object with known fields; a field that is null is one that is not there.

    Attributes:
        fields: by name.
        required: those that must be there.
    """

    fields: Mapping[str, Field]
    required: Sequence[str] = ()

    def schema(self) -> Schema:
        """See `Field`."""
        return {
            "type": "object",
            "properties": {
                name: field.schema() if name in self.required else _or_null(field.schema())
                for name, field in self.fields.items()
            },
            "required": list(self.required),
            "additionalProperties": False,
        }

    def read(self, value: Any, name: str = "") -> dict[str, Any]:
        """See `Field`; what is null or missing is not in the result."""
        within = f"{name}." if name else ""
        if not isinstance(value, dict):
            raise bad(
                f"{name or 'the body'} must be a JSON object, not {_kind(value)}", name or None
            )
        # In this order a part that is an image is told to be one, and not to lack a text.
        given = {
            key: field.read(value[key], within + key)
            for key, field in self.fields.items()
            if value.get(key) is not None
        }
        for key in value:
            if key not in self.fields:
                shown = within + "".join(c if c.isprintable() else "?" for c in key[:60])
                raise bad(f"{shown} is not known here; leave it out", shown)
        for key in self.required:
            if key not in given:
                raise bad(f"{within}{key} is missing", within + key)
        return given


def _or_null(schema: Schema) -> Schema:
    return {"anyOf": [schema, {"type": "null"}]} if schema else schema


def _kind(value: Any) -> str:
    """What JSON calls the value's type."""
    kinds = {bool: "a boolean", str: "a string", list: "a list", dict: "an object"}
    return "null" if value is None else kinds.get(type(value), "a number")
