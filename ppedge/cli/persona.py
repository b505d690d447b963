"""The commands `ppedge persona ...`: the kept personas, by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from ppedge.cli.terminal import Progress, Words
from ppedge.defaults import open_plug, profiles
from ppedge.errors import StoreError
from ppedge.store.files import name_from_disk
from ppedge.store.opening import is_made
from ppedge.store.persona import Persona

_name = click.argument("name", type=Words(), metavar="NAME")
_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")


@click.group("persona")
def persona() -> None:
    """Keep several personas apart: one for work, one for home.

    \b
    ppedge notes add work.jsonl --persona work
    ppedge personalize --persona work "Reply to Ann: see you at nine?"
    ppedge persona list

    A name is of letters, digits, spaces and - _ . ; upper and lower case are the same. The persona
    that is meant without a name is called default.
    """


@persona.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object per line.")
def list_(as_json: bool) -> None:
    """List the personas.

    One a line: name, notes, how many of them are pinned and muted, and bytes on disk.
    """
    for name in profiles().names():
        fields = _fields(name)
        if as_json:
            click.echo(json.dumps(fields, ensure_ascii=False))
        elif problem := fields["problem"]:
            click.echo(f"{name}  cannot be read: {problem}")
        else:
            counts = [f"{fields[key]} {key}" for key in ("notes", "pinned", "muted", "bytes")]
            click.echo(f"{name}  {', '.join(counts)}")


def _fields(name: str) -> dict[str, Any]:
    folder = profiles().existing(name)
    fields: dict[str, Any] = {"name": name, "path": str(folder)}
    empty = {"notes": 0, "pinned": 0, "muted": 0, "bytes": 0, "problem": None}
    try:
        if not is_made(folder):
            return fields | empty
        with Persona.open(folder, create=False, read_only=True) as store:
            stats = store.stats()
    except StoreError as error:
        return fields | dict.fromkeys(empty) | {"problem": str(error)}
    found = {"notes": stats.notes, "pinned": stats.pinned, "muted": stats.muted}
    return fields | found | {"bytes": stats.disk_bytes, "problem": None}


@persona.command()
@_name
def new(name: str) -> None:
    """Make a persona without notes. `ppedge notes add --persona NAME` makes one too."""
    profiles().create(name)
    click.echo(f"made {name}; give it notes with `ppedge notes add FILE --persona '{name}'`")


@persona.command()
@_name
@click.argument("new", type=Words(), metavar="NEW")
def rename(name: str, new: str) -> None:
    """Give a persona another name."""
    profiles().rename(name, new)
    click.echo(f"{name} is now called {new}")


@persona.command()
@_name
@click.option("--yes", is_flag=True, help="Do not ask.")
def delete(name: str, yes: bool) -> None:
    """Delete a persona with all that was made of it.

    Its notes, their vectors, and what models read of them. Files that the notes came from, and
    exports, are yours to delete.
    """
    kept = profiles()
    found = name_from_disk(kept.existing(name).name)
    if not yes:
        notes = _fields(found)["notes"]
        what = "what cannot be read of it" if notes is None else f"its {notes} notes"
        click.confirm(f'Delete persona "{found}" and {what}?', abort=True, err=True)
    kept.delete(found)
    click.echo(f"deleted {found}")


@persona.command()
@_name
@click.argument("file", type=click.Path(path_type=Path), metavar="FILE")
@_json
def export(name: str, file: Path, as_json: bool) -> None:
    """Write a persona to one FILE.

    Its notes, pins and mutes, to a .zip that is not there yet.
    """
    n_notes = profiles().export(name, file)
    if as_json:
        click.echo(json.dumps({"file": str(file), "notes": n_notes}, ensure_ascii=False))
    else:
        click.echo(f"exported {n_notes} notes to {file}", err=True)


@persona.command("import")
@click.argument("file", type=click.Path(path_type=Path), metavar="FILE")
@_name
@click.option("--plug", metavar="PATH", help="Plug, a folder or .zip; or set PPEDGE_PLUG.")
@_json
def import_(file: Path, name: str, plug: str | None, as_json: bool) -> None:
    """Make a persona of an export.

    FILE is what `ppedge persona export` wrote; NAME must be new.
    """
    opened = open_plug(plug)
    with Progress() as progress:
        report = profiles().import_(
            file, name, opened.space, opened.encode_notes, progress=progress
        )
    if as_json:
        fields = {"name": name, "notes": report.notes, "encoded": report.encoded}
        click.echo(json.dumps(fields, ensure_ascii=False))
    else:
        click.echo(f"made {name} with {report.notes} notes")
