"""The commands `ppedge notes ...`: a person's notes, kept, listed and forgotten."""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeVar

import click

from ppedge.cli.imports import import_command
from ppedge.cli.marks import mute, pin, unmute, unpin
from ppedge.cli.naming import Choice, kept_option, selecting_options
from ppedge.cli.terminal import Progress, Words, tell_skipped
from ppedge.defaults import open_plug, persona_dir
from ppedge.notes.reader import Note, format_time, read_notes
from ppedge.store.files import ANOTHER_FILE, FILE_MODE, disk_errors
from ppedge.store.persona import MUTE, PIN, ChangeReport, Persona, Problem, handle

if TYPE_CHECKING:
    from ppedge.plug.no_plug import NoPlug
    from ppedge.plug.plug import Plug

_Command = TypeVar("_Command", bound=Callable[..., Any])

_MARKS = {PIN: "pin", MUTE: "mute"}
_PREVIEW = 5


def _options(*options: Callable[[_Command], _Command]) -> Callable[[_Command], _Command]:
    def apply(command: _Command) -> _Command:
        for option in reversed(options):
            command = option(command)
        return command

    return apply


_persona = kept_option
_plug = click.option("--plug", metavar="PATH", help="Plug, a folder or .zip; or set PPEDGE_PLUG.")
_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
_reading = _options(
    click.argument("file", metavar="FILE"),
    _persona,
    _plug,
    click.option("--skip-bad", is_flag=True, help="Pass over bad lines."),
    _json,
)


@click.group("notes")
def notes() -> None:
    """Keep, list and forget the notes that ppedge learns your voice from.

    \b
    ppedge notes add notes.jsonl
    ppedge notes list --text "dear anna"
    ppedge notes forget --before 2020-01-01
    """


@notes.command()
@_reading
def add(*, file: str, folder: Path | None, plug: str | None, skip_bad: bool, as_json: bool) -> None:
    """Add the notes in FILE (JSON Lines; - is stdin) to those already kept.

    A note with a known id and new content replaces the old one. Adding a file again does nothing.
    """
    _change(
        Persona.add, file=file, folder=folder, plug_path=plug, skip_bad=skip_bad, as_json=as_json
    )


@notes.command()
@_reading
def sync(
    *, file: str, folder: Path | None, plug: str | None, skip_bad: bool, as_json: bool
) -> None:
    """Make the store hold exactly the notes in FILE (JSON Lines; - is stdin).

    Notes that are no longer in FILE are forgotten.
    """
    _change(
        Persona.sync, file=file, folder=folder, plug_path=plug, skip_bad=skip_bad, as_json=as_json
    )


def _change(
    change: Callable[..., ChangeReport],
    *,
    file: str,
    folder: Path | None,
    plug_path: str | None,
    skip_bad: bool,
    as_json: bool,
) -> None:
    plug = _open_plug(plug_path)
    stdin = file == "-"
    source = sys.stdin.buffer if stdin else Path(file)
    reader = read_notes(source, skip_bad=skip_bad, name="stdin" if stdin else file)
    with Persona.open(_folder(folder), plug.space) as persona, Progress() as progress:
        report = change(persona, reader, plug.encode_notes, progress=progress)
    tell_skipped(reader)
    fields = {**asdict(report), "skipped": len(reader.skipped)}
    if as_json:
        _print_json(fields)
    else:
        click.echo(
            ", ".join(f"{name} {count}" for name, count in fields.items() if count) or "none"
        )


@notes.command()
@click.argument("ids", type=Words(), nargs=-1, metavar="[ID]...")
@selecting_options
@click.option("--all", "everything", is_flag=True, help="Forget all notes.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option(
    "--receipt", type=click.Path(path_type=Path), metavar="FILE", help="Save the receipt."
)
@_persona
@_json
def forget(
    *,
    everything: bool,
    yes: bool,
    receipt: Path | None,
    folder: Path | None,
    as_json: bool,
    **chosen: Any,
) -> None:
    """Forget the notes that meet every criterion given, and print a receipt.

    No byte of them is left in the store. The file that they came from is yours to change.
    """
    choice = Choice(**chosen)
    if everything != choice.is_all:
        raise click.UsageError("give ids, --text, --only or a time, or else --all")
    with _open_store(folder) as persona, ExitStack() as stack:
        found = choice.of(persona)
        if found and not yes:
            _preview(found)
            click.confirm(f"Forget {len(found)} of {len(persona)} notes?", abort=True, err=True)
        # Opened first, so that a receipt which cannot be written stops the forgetting.
        out = stack.enter_context(_create(receipt)) if receipt else None
        criteria = choice.criteria if choice.scope.is_all else {"ids": [*map(handle, found)]}
        done = asdict(persona.forget(**criteria, everything=everything))
        if out:
            out.write(json.dumps(done, ensure_ascii=False) + "\n")
    if as_json:
        _print_json(done)
        return
    click.echo(f"forgot {len(done['ids'])} notes, {done['notes']} are left")
    for name in done["ids"]:
        click.echo(f"  {_one_line(name)}")
    click.echo(f"time   {done['time']}")
    click.echo(f"before {done['store_before']}")
    click.echo(f"after  {done['store_after']}")


@notes.command("list")
@selecting_options
@_persona
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per line.")
def list_(*, folder: Path | None, as_json: bool, **chosen: Any) -> None:
    """List the notes, one a line: id, time, mark (pin or mute), and how the text begins."""
    choice = Choice(**chosen)
    with _open_store(folder) as persona:
        marks = persona.marks()
        for note in choice.of(persona):
            mark = _MARKS.get(marks.get(handle(note), 0), "")
            if as_json:
                _print_json({**asdict(note), "id": handle(note), "mark": mark or None})
            else:
                click.echo(_note_row(note, mark))


@notes.command()
@_persona
@_json
def stats(folder: Path | None, as_json: bool) -> None:
    """Print the store in figures."""
    with _open_store(folder) as persona:
        fields = {**asdict(persona.stats()), "store_hash": persona.store_hash()}
    if as_json:
        _print_json(fields)
        return
    for name in ("earliest", "latest"):
        fields[name] = "-" if fields[name] is None else format_time(fields[name])
    for name, value in fields.items():
        click.echo(f"{name.replace('_', ' ') + ':':<16}{value}")


@notes.command()
@_persona
@_plug
@click.option("--repair", "mend", is_flag=True, help="Encode damaged notes again.")
@_json
def verify(*, folder: Path | None, plug: str | None, mend: bool, as_json: bool) -> None:
    """Read the whole store and say what is wrong; exit code 1 if anything is.

    With --plug, also check that the store belongs to that plug.
    """
    if mend:
        _repair(folder, plug, as_json)
        return
    space = _open_plug(plug).space if plug else None
    with Persona.open(_folder(folder), space, create=False, damaged=True) as persona:
        _report(persona.verify(), len(persona), None, as_json)


@notes.command()
@_persona
@_plug
@_json
def repair(folder: Path | None, plug: str | None, as_json: bool) -> None:
    """Encode damaged notes again from their text; all, if the store is of another plug."""
    _repair(folder, plug, as_json)


@notes.command()
@click.argument("file", default="-", metavar="[FILE]")
@_persona
@_json
def export(file: str, folder: Path | None, as_json: bool) -> None:
    """Write the notes to FILE (- is stdout) as JSON Lines that `ppedge notes add` reads.

    With --json, FILE is needed, and the number of notes is printed.
    """
    if as_json and file == "-":
        raise click.UsageError("--json prints a report: name a FILE for the notes")
    with _open_store(folder) as persona:
        if file == "-":
            out = io.TextIOWrapper(sys.stdout.buffer, encoding="utf-8", newline="\n")
            try:
                persona.export(out)
            finally:
                out.detach()
            return
        with _create(Path(file)) as copy:
            n_notes = persona.export(copy)
    if as_json:
        _print_json({"file": file, "notes": n_notes})
    else:
        click.echo(f"exported {n_notes} notes to {file}", err=True)


notes.add_command(import_command)
for command in (pin, unpin, mute, unmute):
    notes.add_command(command)


# --- shared ---


def _folder(folder: Path | None) -> Path:
    return folder or persona_dir("default")


def _open_store(folder: Path | None) -> Persona:
    return Persona.open(_folder(folder), create=False)


def _open_plug(path: str | None) -> Plug | NoPlug:
    return open_plug(path)


def _repair(folder: Path | None, plug_path: str | None, as_json: bool) -> None:
    plug = _open_plug(plug_path)
    with Persona.open(_folder(folder), plug.space, create=False, damaged=True) as persona:
        with Progress() as progress:
            encoded = persona.repair(plug.encode_notes, progress=progress)
        _report(persona.verify(), len(persona), encoded, as_json)


def _report(problems: list[Problem], n_notes: int, encoded: int | None, as_json: bool) -> None:
    if as_json:
        fields = {"notes": n_notes, "problems": [asdict(problem) for problem in problems]}
        _print_json(fields if encoded is None else {**fields, "encoded": encoded})
    else:
        for problem in problems:
            click.echo(_one_line(problem.message))
        mended = "" if encoded is None else f", {encoded} encoded again"
        click.echo(f"{n_notes} notes{mended}: {len(problems) or 'no'} problems")
        if encoded is None and any(problem.repairable for problem in problems):
            click.echo("run `ppedge notes repair` to encode damaged notes again", err=True)
    if problems:
        raise click.exceptions.Exit(1)


@contextmanager
def _create(path: Path) -> Iterator[IO[str]]:
    def private(name: str, flags: int) -> int:
        return os.open(name, flags, FILE_MODE)

    with (
        disk_errors(path, ANOTHER_FILE),
        open(path, "w", encoding="utf-8", newline="\n", opener=private) as out,
    ):
        yield out


def _preview(found: list[Note]) -> None:
    for note in islice(found, _PREVIEW):
        click.echo(f"  {_note_row(note, '')}", err=True)
    if len(found) > _PREVIEW:
        click.echo(f"  ... and {len(found) - _PREVIEW} more", err=True)


def _note_row(note: Note, mark: str) -> str:
    time = "-" if note.time is None else format_time(note.time)
    return f"{_one_line(handle(note))}  {time}  {mark or '-'}  {_one_line(note.output)}"


def _one_line(text: str, limit: int = 200) -> str:
    """``text`` without line breaks or control characters, cut to ``limit`` characters."""
    shown = "".join(c if c.isprintable() else " " for c in text[: limit + 1])
    return shown if len(shown) <= limit else shown[: limit - 3] + "..."


def _print_json(fields: dict[str, Any]) -> None:
    click.echo(json.dumps(fields, ensure_ascii=False))
