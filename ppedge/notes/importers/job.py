"""What an importer is told, and what it has to say besides notes."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

from ppedge.errors import HistoryError
from ppedge.notes.reader import MAX_ID_CHARACTERS, Note, parse_time
from ppedge.notes.tags import MAX_SOURCE_CHARACTERS, clean_tags
from ppedge.notes.text import is_blank

MAX_NOTE_CHARACTERS = 1 << 20
"""Longest note that is imported."""

TOO_SHORT, TOO_LONG = "too short", "too long"
_NUMBER = re.compile(r"\d+(\.\d+)?")
_LEAST_SECONDS, _LEAST_MILLISECONDS = 1e8, 1e11  # 1973, 5138 in seconds
_HALF_PAIR = re.compile("[\ud800-\udfff]")


@dataclass
class Job:
    """One import of one file or folder.

    Attributes:
        me: the owner's mail addresses.
        passed: how often something was passed over, by the reason.
        damaged: what could not be read, one error for each place.
        name: what a single file is called in ids, if not by its name alone.
    """

    me: Collection[str] = ()
    passed: Counter[str] = field(default_factory=Counter)
    damaged: list[HistoryError] = field(default_factory=list)
    name: str = ""

    def note(
        self,
        output: object,
        *,
        input: object = "",
        id: object = "",
        time: object = None,
        tags: Iterable[str] = (),
        source: object = "",
    ) -> Note | None:
        """Make a note of what a file holds, or count why it is none.

        Args:
            output: what the owner wrote.
            input: what it was written from or about; anything but text counts as nothing.
            id: text or an integer; anything else counts as none.
            time: ISO 8601, Unix seconds, or a date as in mail; anything else counts as unknown.
            tags: what it is about; odd ones are left out.
            source: where it came from; anything but text counts as unknown.
        """
        text = clean(output)
        if too_short(text):
            self.passed[TOO_SHORT] += 1
            return None
        given = clean(input)
        if len(text) + len(given) > MAX_NOTE_CHARACTERS:
            self.passed[TOO_LONG] += 1
            return None
        where = clean(source)[:MAX_SOURCE_CHARACTERS]
        return Note(text, given, note_id(id), moment(time), clean_tags(map(clean, tags)), where)


def clean(value: object) -> str:
    """Text without what neither UTF-8 nor a C string can hold, nor space around it."""
    if not isinstance(value, str):
        return ""
    text = value.replace("\r\n", "\n").replace("\r", "\n").replace("\0", "")
    return _HALF_PAIR.sub("\ufffd", text).strip()


def too_short(text: str) -> bool:
    """Whether fewer than two characters of a text can be seen."""
    seen = 0
    for char in text:
        seen += not is_blank(char)
        if seen > 1:
            return False
    return True


def note_id(value: object) -> str:
    """An id that a store takes; a very long one by its hash."""
    if isinstance(value, bool) or not isinstance(value, str | int):
        return ""
    try:
        text = clean(str(value))
    except ValueError:  # An integer of thousands of digits.
        return ""
    if len(text) <= MAX_ID_CHARACTERS:
        return text
    return "sha256-" + hashlib.sha256(text.encode()).hexdigest()


def moment(value: object) -> float | None:
    """Unix seconds of a time in any of the usual forms; None where it is none."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int | float):
        return _in_seconds(value)
    text = value.strip() if isinstance(value, str) else ""
    if _NUMBER.fullmatch(text) and len(text) != len("20240501"):
        return _in_seconds(float(text))
    try:
        return parse_time(text)
    except (HistoryError, OverflowError):
        pass
    # Late: it takes longer to import than the rest of the command together.
    from email.utils import parsedate_to_datetime

    try:
        # A date without a zone comes back naive, and naive means UTC.
        return parse_time(parsedate_to_datetime(text).isoformat())
    except (HistoryError, ValueError, TypeError, OverflowError, IndexError):
        return None


def _in_seconds(number: float) -> float | None:
    """A count of seconds or milliseconds; None for what is more likely a year or a mistake."""
    if _LEAST_MILLISECONDS < number < 1000 * _LEAST_MILLISECONDS:
        number /= 1000
    return float(number) if _LEAST_SECONDS < number < _LEAST_MILLISECONDS else None
