"""Markdown: one file, or a folder of them as Obsidian, Logseq and others keep it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from ppedge.notes.importers.files import decode, holds, is_of, read_bytes, read_each
from ppedge.notes.importers.job import Job
from ppedge.notes.reader import Note
from ppedge.notes.tags import inline_tags, listed_tags

_SUFFIXES = (".md", ".markdown")
_MAX_BYTES = 16 << 20
_FRONT_LINES = 500
_PAIR = re.compile(r"([A-Za-z_][\w -]*):(?:\s+(.*))?$")
# A nested value, an item of a list, a comment: passed over.
_OTHER_YAML = re.compile(r"\s|-|#|$")
_TAG_KEYS = ("tags", "tag")
_TAGS = "\n"  # which no key of a front matter is
_ITEM = re.compile(r"\s*-\s+(.+)")


def matches(path: Path) -> bool:
    """Whether it is a Markdown file by its name, or a folder that holds one."""
    return holds(path, _SUFFIXES) if path.is_dir() else is_of(path, _SUFFIXES)


def read(path: Path, job: Job) -> Iterator[Note]:
    """Yield a note for each file; its id is its path, and its front matter has date and title.

    Its tags are those of the front matter, and then the ``#tags`` of the text.
    """

    def read_file(file: Path, name: str) -> Iterator[Note]:
        fields, body = _split(decode(read_bytes(file, _MAX_BYTES), str(file)))
        time = fields.get("date") or fields.get("created")
        tags = [*fields.get(_TAGS, "").split("\n"), *inline_tags(body)]
        title = fields.get("title", "")
        note = job.note(body, input=title, id=name, time=time, tags=tags, source=name)
        if note is not None:
            yield note

    return read_each(path, _SUFFIXES, job, read_file)


def _split(text: str) -> tuple[dict[str, str], str]:
    """The simple ``key: value`` lines of a front matter, and the text behind it.

    Its tags, written in a line or as a list below, are under `_TAGS`, one a line.
    """
    lines = text.lstrip("\ufeff").split("\n")
    if lines[0].rstrip() != "---":
        return {}, text
    fields: dict[str, str] = {}
    tags: list[str] = []
    key = ""
    for number, written in enumerate(lines[1:_FRONT_LINES], start=1):
        line = written.rstrip()
        if line in ("---", "..."):
            return fields | {_TAGS: "\n".join(tags)}, "\n".join(lines[number + 1 :])
        if pair := _PAIR.match(line):
            key, value = pair[1].strip().lower(), (pair[2] or "").strip()
            fields[key] = _unquote(value)
            tags += listed_tags(value) if key in _TAG_KEYS else []
        elif key in _TAG_KEYS and (item := _ITEM.match(line)):
            tags.append(_unquote(item[1].strip()))
        elif not _OTHER_YAML.match(line):
            break
    # A rule across the page, or a front matter without an end: all of it is text.
    return {}, text


def _unquote(value: str) -> str:
    quoted = len(value) > 1 and value[0] == value[-1] and value[0] in "\"'"
    return value[1:-1] if quoted else value
