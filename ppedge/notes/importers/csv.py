"""CSV, as spreadsheets and data exports write it: a header row, then a note a row."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path

from ppedge.errors import HistoryError
from ppedge.notes.importers.files import decode, is_of, read_bytes
from ppedge.notes.importers.job import MAX_NOTE_CHARACTERS, Job
from ppedge.notes.reader import Note

# Of several columns for one thing, the one that is named first here counts.
_COLUMNS: dict[str, tuple[str, ...]] = {
    "output": ("output", "text", "body", "content", "message", "note", "full_text", "comment"),
    "input": ("input", "prompt", "title", "subject", "question"),
    "id": ("id", "uuid", "guid"),
    "time": ("time", "date", "created_at", "created", "timestamp", "datetime"),
}
_DELIMITERS = ",;\t|"


def matches(path: Path) -> bool:
    """Whether the name ends in .csv or .tsv: no content tells CSV from prose."""
    return not path.is_dir() and is_of(path, (".csv", ".tsv"))


def read(path: Path, job: Job) -> Iterator[Note]:
    """Yield a note for each row that has text in it."""
    text = decode(read_bytes(path), str(path)).replace("\0", "")
    if not text.strip():
        return
    text = text.lstrip("\r\n")
    # The limit is Python's, for the whole process; by default it is less than a note may have.
    csv.field_size_limit(max(csv.field_size_limit(), MAX_NOTE_CHARACTERS))
    delimiter = _delimiter(text.splitlines()[0])
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    columns: dict[str, int] | None = None
    while True:
        try:
            row = next(rows, None)
        except csv.Error as error:
            raise HistoryError(f"{path}, line {rows.line_num}: not valid CSV: {error}") from None
        if row is None:
            return
        if columns is None:
            columns = _columns(row, path)
        elif any(row):
            fields = {name: row[i] for name, i in columns.items() if i < len(row)}
            note = job.note(fields.pop("output", ""), **fields)
            if note is not None:
                yield note


def _delimiter(header: str) -> str:
    """The character that parts the header into the most names that are known."""

    def known(delimiter: str) -> int:
        names = {_plain(name) for name in header.split(delimiter)}
        return sum(any(name in names for name in wanted) for wanted in _COLUMNS.values())

    return max(_DELIMITERS, key=lambda delimiter: (known(delimiter), header.count(delimiter)))


def _columns(header: list[str], path: Path) -> dict[str, int]:
    names = [_plain(name) for name in header]
    found = {
        field: names.index(next(name for name in wanted if name in names))
        for field, wanted in _COLUMNS.items()
        if any(name in names for name in wanted)
    }
    if "output" not in found:
        wanted = ", ".join(_COLUMNS["output"])
        raise HistoryError(
            f"{path}, line 1: no column of text; name one of the header's columns: {wanted}"
        )
    return found


def _plain(name: str) -> str:
    return name.strip().strip('"').strip().lower().replace(" ", "_")
