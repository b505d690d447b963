"""The log of the program `llm`, a SQLite database: the prompts that its owner typed.

It is read in one go and let go of again, so that `llm` may write to it meanwhile; nothing is
changed in it or beside it.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ppedge.errors import HistoryError
from ppedge.notes.importers.files import disk_errors, peek
from ppedge.notes.importers.job import MAX_NOTE_CHARACTERS, TOO_LONG, Job, moment
from ppedge.notes.importers.llm_templates import read_templates, typed
from ppedge.notes.reader import Note

_MAGIC: Final = b"SQLite format 3\0"
_WAL: Final = b"\x02\x02"  # at bytes 18 and 19 of a database that is written by way of a log
_WAIT_SECONDS: Final = 5.0
_MAX_PROMPTS: Final = 1_000_000
_TEMPLATE: Final = "only a template"

# Kinds of log by the tables that they have, the newest first; one file may hold several. Each gives
# (id, time, part) of every prompt; a part is text, or JSON of text and references to fragments.
_TURNS: Final = """
    SELECT turns.id, turns.datetime_utc, parts.text, parts.payload
    FROM turns
    JOIN messages ON messages.hash = turns.parent_message_hash AND messages.role = 'user'
    JOIN parts ON parts.message_hash = messages.hash AND parts.type = 'text'
    ORDER BY turns.rowid, parts.position"""
_RESPONSES: Final = "SELECT id, datetime_utc, prompt, NULL FROM responses ORDER BY rowid"
_LOGS: Final = "SELECT 'logs-' || id, datetime_utc, prompt, NULL FROM logs ORDER BY rowid"
_KINDS: Final[tuple[tuple[dict[str, set[str]], str], ...]] = (
    (
        {
            "turns": {"id", "datetime_utc", "parent_message_hash"},
            "messages": {"hash", "role"},
            "parts": {"message_hash", "position", "type", "text", "payload"},
        },
        _TURNS,
    ),
    ({"responses": {"id", "model", "prompt", "datetime_utc"}}, _RESPONSES),
    ({"logs": {"id", "model", "prompt", "datetime_utc"}}, _LOGS),
)


@dataclass
class _Prompt:
    """What was typed at one moment."""

    time: object
    texts: list[str]


# A message that names what is damaged may itself be no UTF-8.
_ERRORS: Final = (sqlite3.Error, UnicodeDecodeError)


def matches(path: Path) -> bool:
    """Whether it is a SQLite database with the tables of such a log."""
    if peek(path, len(_MAGIC)) != _MAGIC:
        return False
    try:
        with closing(_opened(path)) as database:
            return bool(_queries(database))
    except (HistoryError, *_ERRORS):
        return False


def read(path: Path, job: Job) -> Iterator[Note]:
    """Yield the owner's prompts, under the ids and times that the log gives them.

    What came from fragments and from the templates beside the log is taken out of them.
    """
    with disk_errors(path), path.open("rb") as file:
        magic = file.read(len(_MAGIC))
    if magic != _MAGIC:
        raise HistoryError(
            f"{path}: not a SQLite database; give the file that `llm logs path` names"
        )
    templates = read_templates(path.parent / "templates")
    # In the order in which they were typed, whatever tables they are in.
    for name, prompt in sorted(_prompts(path).items(), key=lambda pair: moment(pair[1].time) or 0):
        text = "\n".join(prompt.texts)
        own = typed(templates, text) if len(text) <= MAX_NOTE_CHARACTERS else text
        if text.strip() and not own.strip():
            job.passed[_TEMPLATE] += 1
        elif len(own) > MAX_NOTE_CHARACTERS:
            job.passed[TOO_LONG] += 1
        elif (note := job.note(own, id=name, time=prompt.time, source="llm")) is not None:
            yield note


def _prompts(path: Path) -> dict[str, _Prompt]:
    """Every prompt of a log by its id, oldest first in each of its kinds of tables.

    Raises:
        HistoryError: the log cannot be read.
    """
    found: dict[str, _Prompt] = {}
    try:
        with closing(_opened(path)) as database:
            queries = _queries(database)
            if not queries:
                raise HistoryError(f"{path}: a SQLite database, but not a log of `llm`")
            for query in queries:
                _read_kind(database, query, found)
    except _ERRORS as error:
        raise HistoryError(f"{path}: {_reason(error)}") from None
    if len(found) > _MAX_PROMPTS:
        raise HistoryError(f"{path}: more than {_MAX_PROMPTS} prompts; not a log of one person")
    return found


def _read_kind(database: sqlite3.Connection, query: str, found: dict[str, _Prompt]) -> None:
    before = set(found)  # A prompt may be in the tables of two versions.
    for row in database.execute(f"{query} LIMIT {2 * _MAX_PROMPTS}"):
        name, time, text, payload = row
        if isinstance(name, str) and name not in before:
            prompt = found.setdefault(name, _Prompt(time, []))
            prompt.texts.append(_literal(text, payload))


def _literal(text: object, payload: object) -> str:
    """What of a part is no fragment."""
    if isinstance(text, str):
        return text
    try:
        pieces = json.loads(payload)["text_ref"] if isinstance(payload, str) else []
        return "".join(p.get("literal", "") for p in pieces).removeprefix("\n")
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return ""


# --- the database ------------------------------------------------------------------------------


def _opened(path: Path) -> sqlite3.Connection:
    """The database, for reading only.

    Raises:
        HistoryError: the disk refuses.
        sqlite3.Error: SQLite does.
    """
    with disk_errors(path), path.open("rb") as file:
        file.seek(18)
        waits = file.read(2) == _WAL
    # Without a log beside it nobody writes to it; SQLite would make one, and leave it there.
    immutable = waits and not path.with_name(f"{path.name}-wal").exists()
    options = "mode=ro&immutable=1" if immutable else "mode=ro"
    uri = f"{path.absolute().as_uri()}?{options}"
    database = sqlite3.connect(uri, uri=True, timeout=_WAIT_SECONDS, check_same_thread=False)
    database.text_factory = _text
    # A database from elsewhere may hold views and triggers of anybody's making.
    database.execute("PRAGMA trusted_schema = OFF")
    database.execute("PRAGMA query_only = ON")
    return database


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace")


def _queries(database: sqlite3.Connection) -> list[str]:
    """The queries for the tables that are there; a view or a virtual table is none."""
    plain = {
        name
        for name, sql in database.execute(
            "SELECT name, sql FROM sqlite_master WHERE type = 'table'"
        )
        if isinstance(sql, str) and sql.upper().startswith("CREATE TABLE")
    }
    return [
        query
        for tables, query in _KINDS
        if all(
            table in plain and columns <= _columns(database, table)
            for table, columns in tables.items()
        )
    ]


def _columns(database: sqlite3.Connection, table: str) -> set[str]:
    return {row[1] for row in database.execute(f"PRAGMA table_info({table})")}


def _reason(error: Exception) -> str:
    """What is wrong and what to do, in one line."""
    said = " ".join(str(error).split())
    if "locked" in said:
        return "another program is writing to it; try again in a moment"
    if "unable to open" in said or "readonly" in said:
        return f"cannot be opened ({said}); run `llm logs` once, so that it mends its log"
    return f"the database is damaged ({said}); take a copy from a backup"
