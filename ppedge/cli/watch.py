"""The command `ppedge watch`: keeps a persona in step with a folder of notes."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Final

import click

from ppedge.cli.naming import kept_option
from ppedge.cli.terminal import Number, Progress, TextChoice
from ppedge.defaults import open_plug, persona_dir
from ppedge.errors import PpedgeError
from ppedge.notes.importers.watched import WATCHED_FORMATS
from ppedge.store.reports import ChangeReport
from ppedge.store.watching import SETTLE_SECONDS, FolderWatch, WatchEndedError

_PATIENCE: Final = 10
"""Looks that --once gives a file which is being written to."""


@click.command()
@click.argument(
    "folder_of_notes",
    metavar="FOLDER",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
)
@kept_option
@click.option(
    "--format",
    "formats",
    type=TextChoice(WATCHED_FORMATS),
    multiple=True,
    help="Take only files of this format; may be given again. By default all of them.",
)
@click.option("--plug", metavar="PATH", help="Plug, a folder or .zip; or set PPEDGE_PLUG.")
@click.option("--once", is_flag=True, help="Bring it into step once, and end.")
@click.option(
    "--interval",
    type=Number(0.1, 3600),
    default=2.0,
    show_default=True,
    help="Seconds between two looks at the folder.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object for each change.")
def watch(
    *,
    folder_of_notes: Path,
    folder: Path | None,
    formats: tuple[str, ...],
    plug: str | None,
    once: bool,
    interval: float,
    as_json: bool,
) -> None:
    """Keep a persona in step with FOLDER: notes come, change and go as its files do.

    \b
    ppedge watch ~/vault
    ppedge watch ~/vault --persona work --once

    Files by the end of their name: .md, .txt, .jsonl, .csv. Notes that came from elsewhere stay as
    they are. Ctrl-C ends it with exit code 130. With --once the exit code is 1 if a file could not
    be read, or the folder is empty.
    """
    opened = open_plug(plug)
    watched = FolderWatch(
        folder_of_notes,
        folder or persona_dir("default"),
        opened.space,
        opened.encode_notes,
        _tell,
        formats=formats or WATCHED_FORMATS,
    )
    if once:
        _once(watched, as_json)
    else:
        _tell(f"watching {watched.folder} for {watched.persona}; Ctrl-C ends it")
        _on_and_on(watched, interval, as_json)


def _once(watched: FolderWatch, as_json: bool) -> None:
    total = ChangeReport()
    for looked in range(_PATIENCE):
        if looked:
            time.sleep(SETTLE_SECONDS)
        total = _sum(total, _step(watched))
        # What is missing counts when it was missing twice.
        if looked and not watched.restless:
            break
    for name in sorted(watched.restless):
        _tell(f"not read: {name} is being written to; run it again when that is done")
    _show(total, as_json)
    if watched.restless or watched.failed or watched.refused:
        raise click.exceptions.Exit(1)


def _on_and_on(watched: FolderWatch, interval: float, as_json: bool) -> None:
    trouble = ""
    while True:
        try:
            report = _step(watched)
        except WatchEndedError:
            raise
        except PpedgeError as error:
            # It may pass: a drive comes back, another process is done, a disk has room again.
            if str(error) != trouble:
                trouble = str(error)
                _tell(f"{trouble}; trying again")
        else:
            if trouble:
                trouble = ""
                _tell("it works again")
            if report:
                _show(report, as_json)
        time.sleep(interval)


def _step(watched: FolderWatch) -> ChangeReport | None:
    with Progress() as progress:
        return watched.step(progress)


def _sum(total: ChangeReport, report: ChangeReport | None) -> ChangeReport:
    if report is None:
        return total
    added = {name: count + getattr(total, name) for name, count in asdict(report).items()}
    return ChangeReport(**{**added, "notes": report.notes})


def _show(report: ChangeReport, as_json: bool) -> None:
    fields = asdict(report)
    if as_json:
        click.echo(json.dumps(fields))
    else:
        shown = ", ".join(f"{name} {count}" for name, count in fields.items() if count)
        click.echo(shown or "nothing to do")


def _tell(line: str) -> None:
    clean = "".join(char if char.isprintable() else "?" for char in line)
    click.echo(f"ppedge: {clean}", err=True)
