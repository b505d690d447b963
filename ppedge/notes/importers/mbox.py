"""An mbox: the mail that its owner sent."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from ppedge.errors import HistoryError
from ppedge.notes.importers.files import disk_errors, peek
from ppedge.notes.importers.job import Job
from ppedge.notes.importers.mail import MAX_MAIL, TOO_LARGE, mail_note
from ppedge.notes.reader import Note

# With a clock in it: a text may well say "From the start" after an empty line.
_FROM = re.compile(rb"From .*\d\d:\d\d")
_ESCAPED = re.compile(rb">+From ")
_LINE = 1 << 20


def matches(path: Path) -> bool:
    """Whether the file begins with the line that parts the messages of an mbox."""
    return _FROM.match(peek(path, 1024).lstrip()) is not None


def read(path: Path, job: Job) -> Iterator[Note]:
    """Yield a note for each message of the owner; see `mail_note`."""
    for message in _messages(path):
        if len(message) > MAX_MAIL:
            job.passed[TOO_LARGE] += 1
        elif (note := mail_note(message, job)) is not None:
            yield note


def _messages(path: Path) -> Iterator[bytes]:
    """Yield the messages; one beyond `MAX_MAIL` comes cut short, and still beyond it."""
    lines: list[bytes] = []
    size, begun, after_blank = 0, False, True
    with disk_errors(path), path.open("rb") as stream:
        while line := stream.readline(_LINE):
            if not begun and not line.strip():
                continue
            if not begun and not line.startswith(b"From "):
                raise HistoryError(f'{path}, line 1: no "From " line; not an mbox')
            if not begun or (after_blank and _FROM.match(line)):
                if begun:
                    yield b"".join(lines)
                lines, size, begun = [], 0, True
            elif size <= MAX_MAIL:
                lines.append(line[1:] if _ESCAPED.match(line) else line)
                size += len(line)
            after_blank = not line.strip()
    if begun:
        yield b"".join(lines)
