"""Plain text: a file, or a folder of them; one note each, or more with lines of ``---`` between."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from ppedge.notes.importers.files import decode, holds, is_of, read_bytes, read_each
from ppedge.notes.importers.job import Job
from ppedge.notes.reader import Note

_SUFFIXES = (".txt", ".text")
_MAX_BYTES = 64 << 20
_BETWEEN = re.compile(r"^---[ \t]*$", re.M)


def matches(path: Path) -> bool:
    """Whether it is a text file by its name, or a folder that holds one."""
    return holds(path, _SUFFIXES) if path.is_dir() else is_of(path, _SUFFIXES)


def read(path: Path, job: Job) -> Iterator[Note]:
    """Yield the notes; the id of one that has its file to itself is the file's path."""

    def read_file(file: Path, name: str) -> Iterator[Note]:
        text = decode(read_bytes(file, _MAX_BYTES), str(file))
        parts = _BETWEEN.split(text.replace("\r\n", "\n").replace("\r", "\n"))
        for part in parts:
            note = job.note(part, id="" if len(parts) > 1 else name, source=name)
            if note is not None:
                yield note

    return read_each(path, _SUFFIXES, job, read_file)
