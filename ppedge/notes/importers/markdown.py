"""Markdown: one file, or a folder of them as Obsidian, Logseq and others keep it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from ppedge.notes.importers.files import decode, holds, is_of, read_bytes, read_each
from ppedge.notes.importers.job import Job
from ppedge.notes.reader import Note

_SUFFIXES = (".md", ".markdown")
_MAX_BYTES = 16 << 20
_FRONT_LINES = 500
_PAIR = re.compile(r"([A-Za-z_][\w -]*):(?:\s+(.*))?$")
# A nested value, an item of a list, a comment: passed over.
_OTHER_YAML = re.compile(r"\s|-|#|$")


def matches(path: Path) -> bool:
    """Whether it is a Markdown file by its name, or a folder that holds one."""
    return holds(path, _SUFFIXES) if path.is_dir() else is_of(path, _SUFFIXES)


def read(path: Path, job: Job) -> Iterator[Note]:
    """Yield a note for each file; its id is its path, and its front matter has date and title."""

    def read_file(file: Path, name: str) -> Iterator[Note]:
        fields, body = _split(decode(read_bytes(file, _MAX_BYTES), str(file)))
        time = fields.get("date") or fields.get("created")
        note = job.note(body, input=fields.get("title", ""), id=name, time=time)
        if note is not None:
            yield note

    return read_each(path, _SUFFIXES, job, read_file)


def _split(text: str) -> tuple[dict[str, str], str]:
    """The simple ``key: value`` lines of a front matter, and the text behind it."""
    lines = text.lstrip("\ufeff").split("\n")
    if lines[0].rstrip() != "---":
        return {}, text
    fields: dict[str, str] = {}
    for number, written in enumerate(lines[1:_FRONT_LINES], start=1):
        line = written.rstrip()
        if line in ("---", "..."):
            return fields, "\n".join(lines[number + 1 :])
        if pair := _PAIR.match(line):
            fields[pair[1].strip().lower()] = _unquote((pair[2] or "").strip())
        elif not _OTHER_YAML.match(line):
            break
    # A rule across the page, or a front matter without an end: all of it is text.
    return {}, text


def _unquote(value: str) -> str:
    quoted = len(value) > 1 and value[0] == value[-1] and value[0] in "\"'"
    return value[1:-1] if quoted else value
