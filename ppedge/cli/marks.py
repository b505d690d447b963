"""The commands `ppedge notes pin`, `unpin`, `mute` and `unmute`: what notes bear on answers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from ppedge.cli.naming import Choice, kept_option, selecting_options
from ppedge.cli.terminal import Words
from ppedge.defaults import persona_dir
from ppedge.store.persona import MUTE, PIN, Persona, handle


def _command(name: str, said: str, mark: int, *, undo: bool, doc: str) -> click.Command:
    """A command that marks the chosen notes, or takes that mark from those that have it."""

    @click.command(name, help=doc)
    @click.argument("ids", type=Words(), nargs=-1, metavar="[ID]...")
    @selecting_options
    @kept_option
    @click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
    def command(*, folder: Path | None, as_json: bool, **chosen: Any) -> None:
        choice = Choice(**chosen)
        if choice.is_all:
            raise click.UsageError("give ids, --text, --only or a time")
        with Persona.open(folder or persona_dir("default"), create=False) as persona:
            marks = persona.marks()
            names = [handle(note) for note in choice.of(persona)]
            due = [each for each in names if (marks.get(each, 0) == mark) == undo]
            change: Callable[..., None] = persona.pin if mark == PIN else persona.mute
            (persona.unmark if undo else change)(*due)
        if as_json:
            click.echo(json.dumps({said: due, "notes": len(names)}, ensure_ascii=False))
        else:
            click.echo(f"{said} {len(due)} of {len(names)} notes")

    return command


pin = _command(
    "pin",
    "pinned",
    PIN,
    undo=False,
    doc="""Have notes always among the earlier turns that an answer follows.

    As many as fit, and they weigh more in all else. A note that was muted is not any more.

    \b
    ppedge notes pin a1 a7
    ppedge notes pin --only tag:favourite
    """,
)
unpin = _command(
    "unpin", "unpinned", PIN, undo=True, doc="Undo `ppedge notes pin`; the notes stay."
)
mute = _command(
    "mute",
    "muted",
    MUTE,
    undo=False,
    doc="""Keep notes, but let them bear on nothing: as if they were not there.

    A note that was pinned is not any more.

    \b
    ppedge notes mute a3
    ppedge notes mute --until 2015-12-31
    """,
)
unmute = _command(
    "unmute", "unmuted", MUTE, undo=True, doc="Undo `ppedge notes mute`; the notes count again."
)
