"""What the commands take from a person, and tell them on stderr while they work."""

from __future__ import annotations

import math
import os
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ppedge.closable import Closable
from ppedge.notes.reader import Note, NoteReader

if TYPE_CHECKING:
    FloatType = click.ParamType[float]
    PathType = click.ParamType[Path]
    TextType = click.ParamType[str]
    TextChoice = click.Choice[str]
else:
    # They take no type parameters at run time before click 8.4.
    FloatType = PathType = TextType = click.ParamType
    TextChoice = click.Choice

RENAMED_PARTS = {"literal": "ngrams"}  # since 0.1
_SHOWN_ERRORS = 5
_SECONDS_BETWEEN = 0.1


class Number(click.FloatRange):
    """A finite number of a range: ``FloatRange`` alone lets "nan" and, unbounded, "inf" pass."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Return the number, or end the command as a usage error."""
        number: float = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number.", param, ctx)
        return number


class Part(TextChoice):
    """A part of a persona; one by its name up to version 0.1 is taken with a warning."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the name, or end the command as a usage error."""
        if value in RENAMED_PARTS:
            click.echo(f"ppedge: part {value} is now called {RENAMED_PARTS[value]}", err=True)
            value = RENAMED_PARTS[value]
        return super().convert(value, param, ctx)


class Words(TextType):
    """Text of the command line: UTF-8, also where the locale names another encoding."""

    name = "text"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the text, or end the command as a usage error where its bytes are not UTF-8."""
        try:
            return as_utf8(str(value))
        except UnicodeError as error:
            self.fail(f"it holds a broken character ({error}); give it as UTF-8", param, ctx)


def as_utf8(text: str) -> str:
    """Text of the command line, read as UTF-8 where the locale could not decode it.

    Raises:
        UnicodeError: its bytes are not UTF-8.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        # A locale that cannot decode a byte leaves it as a surrogate, from which it comes back.
        return os.fsencode(text).decode()
    return text


class Progress(Closable):
    """Counts notes on stderr, on one line of a terminal; says nothing elsewhere."""

    def __init__(self) -> None:
        """Begin a count."""
        self._shown = 0.0
        self._line = ""

    def __call__(self, done: int, total: int | None) -> None:
        """Show ``done`` notes of ``total`` (None when that is not known)."""
        now = time.monotonic()
        if sys.stderr.isatty() and (done == total or now - self._shown > _SECONDS_BETWEEN):
            self._shown = now
            self._line = (
                f"ppedge: notes {done}" if total is None else f"ppedge: notes {done}/{total}"
            )
            click.echo(f"\r{self._line}", nl=False, err=True)

    def close(self) -> None:
        """End the line, if one was begun."""
        if self._line:
            click.echo(err=True)


def note_fields(note: Note) -> dict[str, Any]:
    """A note as --json shows it: without what it has not."""
    return {name: value for name, value in asdict(note).items() if value not in ("", None, ())}


def tell_skipped(reader: NoteReader) -> None:
    """Say which lines of a history were passed over."""
    for error in reader.skipped[:_SHOWN_ERRORS]:
        click.echo(f"ppedge: skipped: {error}", err=True)
    if reader.skipped:
        click.echo(f"ppedge: skipped {len(reader.skipped)} bad lines", err=True)
