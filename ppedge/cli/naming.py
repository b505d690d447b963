"""How the commands take a persona's name, and a scope of its notes."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ppedge.cli.terminal import FloatType, PathType, Words, as_utf8
from ppedge.defaults import find_persona, is_name, is_store_or_empty
from ppedge.errors import HistoryError, StoreError
from ppedge.notes.reader import Note, parse_time
from ppedge.store.scope import Scope, parse_scope

if TYPE_CHECKING:
    from ppedge.store.persona import Persona

_Command = TypeVar("_Command", bound=Callable[..., Any])
_DAY = re.compile(r"\d{4}-\d\d-\d\d")


class PersonaPath(PathType):
    """A kept persona by name, or a folder; see `ppedge.defaults.find_persona`."""

    name = "persona"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """Turn the argument into a folder, or end the command as a usage error."""
        if isinstance(value, Path):
            return value
        # As a path it stays as it is: a folder's name may be any bytes.
        with suppress(UnicodeError):
            value = as_utf8(value) if is_name(value) else value
        try:
            folder, name = find_persona(value)
        except StoreError as error:
            self.fail(f"{error}; a folder is written with a separator, as in ./{value}", param, ctx)
        if name and is_store_or_empty(Path(value)):
            click.echo(
                f"ppedge: {value} is a kept persona, and a folder here: the persona is meant "
                f"(./{value} is the folder)",
                err=True,
            )
        return folder


class Moment(FloatType):
    """A point in time: ISO 8601, or Unix seconds."""

    name = "time"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Turn the argument into Unix seconds."""
        try:
            return parse_time(_number(value), "time")
        except HistoryError as error:
            self.fail(str(error), param, ctx)


class LastMoment(Moment):
    """A point in time as the end of a span: a day without a time is in it to its end."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Turn the argument into Unix seconds, the first that are not in the span."""
        if _DAY.fullmatch(str(value).strip()):
            # Where it is no day of the calendar, what follows says so.
            with suppress(ValueError, OverflowError):
                value = (date.fromisoformat(str(value).strip()) + timedelta(days=1)).isoformat()
        return super().convert(value, param, ctx)


class Term(Words):
    """``tag:NAME`` or ``folder:NAME``."""

    name = "term"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the term, or end the command as a usage error."""
        term = super().convert(value, param, ctx)
        try:
            parse_scope((term,))
        except StoreError as error:
            self.fail(str(error), param, ctx)
        return term


def _number(value: str) -> float | str:
    try:
        return float(value)
    except ValueError:
        return value


def persona_option(help_text: str) -> Callable[[_Command], _Command]:
    """``--persona NAME_OR_DIR``, as ``folder``.

    Args:
        help_text: what stands for it where it is not given.
    """
    return click.option(
        "--persona",
        "folder",
        type=PersonaPath(),
        metavar="NAME_OR_DIR",
        help="A kept persona by its name, or a folder by its path; a bare word is a name, unless "
        f"only a store here is called so. {help_text}",
    )


kept_option = persona_option("By default the persona called default.")


def scope_options(command: _Command) -> _Command:
    """``--only``, ``--since`` and ``--until``; `given_scope` makes a scope of them."""
    for option in (
        click.option(
            "--until", type=LastMoment(), help="Only notes until this time, a day to its end."
        ),
        click.option("--since", type=Moment(), help="Only notes of this time or later."),
        click.option(
            "--only",
            type=Term(),
            multiple=True,
            metavar="TERM",
            help="Only notes of tag:NAME or folder:NAME; of several tags, or folders, one is "
            "enough.",
        ),
    ):
        command = option(command)
    return command


def selecting_options(command: _Command) -> _Command:
    """``--text``, ``--before``, ``--after`` and those of a scope; `chosen` applies them."""
    for option in (
        click.option("--after", type=Moment(), help="Notes written at this time or later."),
        click.option("--before", type=Moment(), help="Notes written before this time."),
        click.option(
            "--text",
            type=Words(),
            metavar="WORDS",
            help="Notes that hold these words, in any case.",
        ),
    ):
        command = option(command)
    return scope_options(command)


@dataclass(frozen=True, slots=True)
class Choice:
    """Which notes a command is about.

    Attributes:
        ids: ids or handles.
        text, before, after: as of `Persona.notes`.
        only, since, until: as of `ppedge.store.scope.parse_scope`.
    """

    ids: tuple[str, ...] = ()
    text: str | None = None
    before: float | None = None
    after: float | None = None
    only: tuple[str, ...] = ()
    since: float | None = None
    until: float | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be met.

        Raises:
            UsageError: as `given_scope`.
        """
        given_scope(self.only, self.since, self.until)

    @property
    def is_all(self) -> bool:
        """Whether nothing was said."""
        return self == Choice()

    @property
    def scope(self) -> Scope:
        """What of it is a scope."""
        return given_scope(self.only, self.since, self.until)

    def of(self, persona: Persona) -> list[Note]:
        """The notes that meet all of it, in order.

        Raises:
            StoreError: as `Persona.notes`.
        """
        return list(persona.scoped(self.scope).notes(**self.criteria))

    @property
    def criteria(self) -> dict[str, Any]:
        """What of it is no scope, as `Persona.notes` takes it."""
        fields = {"text": self.text, "before": self.before, "after": self.after}
        return {"ids": self.ids or None, **fields}


def given_scope(only: tuple[str, ...], since: float | None, until: float | None) -> Scope:
    """The scope of the options.

    Raises:
        UsageError: no time lies between since and until.
    """
    try:
        return parse_scope(only, since, until)
    except StoreError as error:
        raise click.UsageError(str(error)) from None
