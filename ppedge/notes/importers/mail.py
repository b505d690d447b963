"""One message of mail as a note: who wrote it, when, about what, and the words of its own."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from email import policy
from email.errors import MessageError
from email.header import decode_header, make_header
from email.message import Message
from email.parser import BytesParser
from email.utils import getaddresses

from ppedge.notes.importers.job import MAX_NOTE_CHARACTERS, TOO_LONG, Job
from ppedge.notes.importers.mail_text import cut_quotes, text_of_html, unflow
from ppedge.notes.reader import Note

MAX_MAIL = 64 << 20
"""Longest message that is read, in bytes."""

TOO_LARGE, OF_OTHERS, UNREADABLE = "mail too large", "mail of others", "mail nobody can parse"
_MAX_DEPTH = 20
_MAX_HEADER = 10_000
# The parser of the standard library is made for mail as it should be; these come of other mail.
_PARSE_ERRORS = (
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    AssertionError,
    RecursionError,
    MessageError,
)


def mail_note(data: bytes, job: Job) -> Note | None:
    """Make a note of a message that the owner sent, or count why it is none.

    Args:
        data: the message, headers and all.
        job: has the owner's addresses.

    Returns:
        The note: what was written without what it answers and without signature, the subject as
        its input, the Message-ID as its id.
    """
    try:
        message = BytesParser(policy=policy.compat32).parsebytes(data)
        if not _senders(message) & {address.strip().lower() for address in job.me}:
            job.passed[OF_OTHERS] += 1
            return None
        text = _body(message, 0)
        if len(text) > MAX_NOTE_CHARACTERS:
            job.passed[TOO_LONG] += 1
            return None
        return job.note(
            cut_quotes(text),
            input=_header(message, "Subject"),
            id=_header(message, "Message-ID"),
            time=_header(message, "Date"),
        )
    except _PARSE_ERRORS:
        job.passed[UNREADABLE] += 1
        return None


def _senders(message: Message) -> set[str]:
    written = [str(value)[:_MAX_HEADER] for value in message.get_all("From", [])[:1]]
    found = getaddresses(written)
    return {address.strip().lower() for _, address in found if address}


def _header(message: Message, name: str) -> str:
    value = str(message.get(name, ""))[:_MAX_HEADER]
    # One that is not as it should be stays as it was written.
    with suppress(MessageError, ValueError, LookupError):
        value = str(make_header(decode_header(value)))
    return re.sub(r"\s+", " ", value).strip()


def _body(part: Message, depth: int) -> str:
    """The text of a part, of its plain form where it has several."""
    kind = part.get_content_type()
    if depth > _MAX_DEPTH or _is_attached(part):
        return ""
    if kind in ("text/plain", "text/html"):
        text = _decoded(part)
        if len(text) > MAX_NOTE_CHARACTERS:
            return text  # It will be counted as too long.
        if kind == "text/html":
            return text_of_html(text)
        flowed = str(part.get_param("format", "")).lower() == "flowed"
        delete = str(part.get_param("delsp", "")).lower() == "yes"
        return unflow(text, delete_space=delete) if flowed else text
    texts = [text for text in _bodies(part, depth) if text.strip()]
    if kind == "multipart/alternative":
        return texts[0] if texts else ""
    return "\n\n".join(texts)


def _bodies(part: Message, depth: int) -> Iterator[str]:
    inner = part.get_payload()
    if part.get_content_maintype() != "multipart" or not isinstance(inner, list):
        return  # A forwarded message among others, which is somebody else's.
    parts = [each for each in inner if isinstance(each, Message)]
    # The plain form stands first by custom only.
    for each in sorted(parts, key=lambda each: each.get_content_type() == "text/html"):
        yield _body(each, depth + 1)


def _is_attached(part: Message) -> bool:
    return part.get_content_disposition() == "attachment" or part.get_filename() is not None


def _decoded(part: Message) -> str:
    payload = part.get_payload(decode=True)
    data = payload if isinstance(payload, bytes) else b""
    for charset in (part.get_content_charset() or "utf-8", "utf-8"):
        try:
            return data.decode(charset).replace("\r\n", "\n")
        except (LookupError, ValueError):
            continue
    return data.decode("cp1252", "replace").replace("\r\n", "\n")
