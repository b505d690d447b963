"""The command `ppedge notes import`: other programs' files into the notes that are kept."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import click

from ppedge.cli.naming import kept_option
from ppedge.cli.terminal import Progress, TextChoice, Words
from ppedge.defaults import open_plug, persona_dir
from ppedge.errors import HistoryError
from ppedge.notes.importers import FORMATS, NEED_ADDRESS, detect, importer
from ppedge.notes.importers.job import Job
from ppedge.notes.reader import Note
from ppedge.store.opening import is_made
from ppedge.store.persona import ChangeReport, Persona, handle

_CLASH = "id that came before with other text"
_SHOWN_ERRORS = 20


@dataclass
class Source:
    """One file or folder on its way into the store.

    Attributes:
        path: the file or folder.
        format: its format; "" where that could not be found out.
        job: what is passed over, and what is damaged.
        found: notes read.
        report: what became of them.
    """

    path: Path
    format: str
    job: Job
    found: int = 0
    report: ChangeReport = field(default_factory=ChangeReport)

    def notes(self, seen: dict[str, int]) -> Iterator[Note]:
        """Yield the notes; damage ends it, and goes to ``job``.

        Args:
            seen: the ids of this import so far, each with a hash of what it stands for. Two notes
                of one id would take each other's place at every import.
        """
        try:
            for note in importer(self.format).read(self.path, self.job) if self.format else ():
                self.found += 1
                content = _content(note)
                if note.id and seen.setdefault(note.id, content) != content:
                    self.job.passed[_CLASH] += 1
                else:
                    yield note
        except HistoryError as error:
            self.job.damaged.append(error)

    def fields(self) -> dict[str, Any]:
        """What --json says of it."""
        return {
            "file": str(self.path),
            "format": self.format or None,
            "found": self.found,
            "added": self.report.added,
            "changed": self.report.changed,
            "unchanged": self.report.unchanged,
            "skipped": dict(self.job.passed),
            "damaged": [str(error) for error in self.job.damaged],
        }


@click.command("import")
@click.argument(
    "paths",
    nargs=-1,
    required=True,
    type=click.Path(exists=True, path_type=Path),
    metavar="PATH...",
)
@click.option(
    "--format",
    "name",
    type=TextChoice(FORMATS),
    help="Format of every PATH; by default it is found out.",
)
@click.option(
    "--me",
    type=Words(),
    multiple=True,
    metavar="ADDRESS",
    help="An address of yours, for mail: only what it sent is read. May be repeated.",
)
@kept_option
@click.option("--plug", metavar="PATH", help="Plug, a folder or .zip; or set PPEDGE_PLUG.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--dry-run", is_flag=True, help="Read everything, and store nothing.")
def import_command(
    *,
    paths: tuple[Path, ...],
    name: str | None,
    me: tuple[str, ...],
    folder: Path | None,
    plug: str | None,
    as_json: bool,
    dry_run: bool,
) -> None:
    """Add what you wrote in other programs; also `ppedge notes import`.

    PATHS are files, folders and exports, as docs/import.md says. Importing again adds only what is
    new. What is damaged is reported and passed over; the exit code is then 1.

    \b
    ppedge notes import ~/vault conversations.json twitter.zip
    ppedge notes import --me anna@example.org sent.mbox
    """
    sources = [_source(path, name, me) for path in paths]
    store = folder or persona_dir("default")
    tell = _silent if as_json else _tell
    report = (_try_out if dry_run else _import)(sources, store, plug, tell)
    if as_json:
        files = [source.fields() for source in sources]
        totals = {"files": files, **asdict(report), "dry_run": dry_run}
        click.echo(json.dumps(totals, ensure_ascii=False))
    else:
        counts = ", ".join(f"{key} {count}" for key, count in asdict(report).items() if count)
        click.echo(("would be: " if dry_run else "") + (counts or "none"))
    if any(source.job.damaged for source in sources):
        raise click.exceptions.Exit(1)


def _source(path: Path, name: str | None, me: tuple[str, ...]) -> Source:
    """What ``path`` is; a usage error if that is unknown, or if it needs an address."""
    source = Source(path, name or "", Job(me))
    if not (path.is_file() or path.is_dir()):
        source.format = ""
        source.job.damaged.append(HistoryError(f"{path}: neither a file nor a folder"))
        return source
    if not name:
        try:
            source.format = detect(path) or ""
        except HistoryError as error:
            source.job.damaged.append(error)
            return source
        if not source.format:
            raise click.UsageError(
                f"{path}: of no format that is known ({', '.join(FORMATS)}); "
                "name the one that it is with --format"
            )
    if source.format in NEED_ADDRESS and not me:
        raise click.UsageError(
            f"{path}: {source.format} holds mail of others too; name your address with --me"
        )
    return source


# --- to do it, and to try it out ---


def _import(
    sources: list[Source], folder: Path, plug_path: str | None, tell: Callable[[Source], None]
) -> ChangeReport:
    plug = open_plug(plug_path)
    seen: dict[str, int] = {}
    with Persona.open(folder, plug.space) as persona:
        for source in sources:
            with Progress() as progress:
                notes = source.notes(seen)
                source.report = persona.add(notes, plug.encode_notes, progress=progress)
            tell(source)
        return _total(sources, len(persona))


def _try_out(
    sources: list[Source], folder: Path, plug_path: str | None, tell: Callable[[Source], None]
) -> ChangeReport:
    known: dict[str, int] = {}
    if is_made(folder):
        with Persona.open(folder, create=False, read_only=True) as persona:
            known = {handle(note): _content(note) for note in persona.notes()}
    seen: dict[str, int] = {}
    for source in sources:
        for note in source.notes(seen):
            before = known.get(handle(note))
            known[handle(note)] = _content(note)
            source.report.added += before is None
            source.report.changed += before not in (None, _content(note))
            source.report.unchanged += before == _content(note)
        tell(source)
    return _total(sources, len(known))


def _total(sources: list[Source], n_notes: int) -> ChangeReport:
    total: Counter[str] = Counter()
    for source in sources:
        total.update(asdict(source.report))
    return ChangeReport(**{**total, "notes": n_notes})


def _content(note: Note) -> int:
    """A number for all of a note that is kept; good within one process only."""
    return hash((note.digest, note.time, note.tags, note.source))


# --- to say what came of it ---


def _silent(source: Source) -> None:
    """Say nothing: --json says it at the end."""


def _tell(source: Source) -> None:
    """Say on stderr what became of a file or folder."""
    counts = {"found": source.found, **asdict(source.report)}
    told = [f"{key} {counts[key]}" for key in ("found", "added", "changed", "unchanged")]
    said = [source.format or "not read", *(words for words in told if not words.endswith(" 0"))]
    if passed := source.job.passed:
        reasons = ", ".join(f"{reason} {count}" for reason, count in passed.most_common())
        said.append(f"skipped {passed.total()} ({reasons})")
    damaged = source.job.damaged
    if damaged:
        said.append(f"damaged {len(damaged)}")
    click.echo(_one_line(f"ppedge: {source.path}: {', '.join(said)}"), err=True)
    for error in damaged[:_SHOWN_ERRORS]:
        click.echo(_one_line(f"ppedge: damaged: {error}"), err=True)
    if len(damaged) > _SHOWN_ERRORS:
        click.echo(f"ppedge: damaged: and {len(damaged) - _SHOWN_ERRORS} more", err=True)


def _one_line(text: str) -> str:
    return "".join(char if char.isprintable() else "?" for char in text)
