"""The archive of Twitter or X: the owner's tweets, without retweets."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ppedge.errors import HistoryError
from ppedge.notes.importers.archives import beginning, objects, parse_json, texts
from ppedge.notes.importers.job import Job
from ppedge.notes.reader import Note

_NAME = re.compile(r"(^|/)data/tweets?(-part\d+)?\.js$")
_PREFIX = re.compile(r"\s*window\.YTD\.tweets?\.part\d+\s*=\s*")
_LINK = re.compile(r"https?://t\.co/\w+")
_OF_OTHERS = "retweets"


def matches(path: Path) -> bool:
    """Whether it is tweets.js, or an export with one."""
    data = beginning(path, _NAME)[:200]
    return _PREFIX.match(data.decode("utf-8", "replace")) is not None


def read(path: Path, job: Job) -> Iterator[Note]:
    """Yield the owner's tweets, as they were typed and without shortened links."""
    for where, text in texts(path, _NAME):
        prefix = _PREFIX.match(text)
        if prefix is None:
            raise HistoryError(f"{where}: does not begin with window.YTD.tweets; not tweets.js")
        for entry in objects(parse_json(text[prefix.end() :], where), where):
            note = _note(entry.get("tweet", entry), job)
            if note is not None:
                yield note


def _note(tweet: Any, job: Job) -> Note | None:
    fields = tweet if isinstance(tweet, dict) else {}
    text = fields.get("full_text") or fields.get("text")
    if not isinstance(text, str):
        text = ""
    if text.startswith("RT @") or "retweeted_status" in fields:
        job.passed[_OF_OTHERS] += 1
        return None
    typed = re.sub(r" {2,}", " ", _LINK.sub("", html.unescape(text)))
    return job.note(typed, id=fields.get("id_str"), time=_mail_date(fields.get("created_at")))


def _mail_date(value: object) -> object:
    """``Wed Oct 10 20:19:24 +0000 2018`` in the order of a mail's date; else as it came."""
    match str(value).split():
        case [_, month, day, clock, zone, year]:
            return f"{day} {month} {year} {clock} {zone}"
    return value
