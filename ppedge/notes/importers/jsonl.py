"""JSON Lines, as `ppedge notes add` reads them and `ppedge notes export` writes them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

from ppedge.notes.importers.files import is_of, peek
from ppedge.notes.importers.job import TOO_SHORT, Job, too_short
from ppedge.notes.reader import MAX_LINE_BYTES, Note, read_notes

_EMPTY = re.compile(r'field "(text|output|title|tag)" (is empty|has nothing that can be seen);')


def matches(path: Path) -> bool:
    """Whether the name ends in .jsonl, or the first line is a JSON object."""
    if path.is_dir():
        return False
    if is_of(path, (".jsonl", ".ndjson")):
        return True
    first = peek(path, MAX_LINE_BYTES).lstrip().split(b"\n", 1)[0]
    try:
        return first.startswith(b"{") and isinstance(json.loads(first), dict)
    except (ValueError, RecursionError):
        return False


def read(path: Path, job: Job) -> Iterator[Note]:
    """Yield the notes; a bad line is damage, and the others are read."""
    reader = read_notes(path, skip_bad=True)
    for note in reader:
        if too_short(note.output):
            job.passed[TOO_SHORT] += 1
        else:
            yield note
    for error in reader.skipped:
        if _EMPTY.search(str(error)):
            job.passed[TOO_SHORT] += 1
        else:
            job.damaged.append(error)
