"""Notes, and the readers that turn files into notes."""

from __future__ import annotations

import hashlib
import io
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, NoReturn

from ppedge.errors import HistoryError
from ppedge.notes.tags import check_source, check_tags
from ppedge.notes.text import check_text, conversion, is_blank, other_encoding

MAX_LINE_BYTES = 1 << 20
"""Longest accepted line of a history file, in bytes; it bounds the reader's memory."""

MAX_ID_CHARACTERS = 1024

_EARLIEST = datetime(1, 1, 1, tzinfo=UTC).timestamp()
_LATEST = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC).timestamp()

# (input field or None, output field), tried in order. After ppedge's own two forms come those
# of the LaMP profiles (lamp-benchmark.github.io); a bare "text" is last, as many hold one.
_RECORD_FORMS: tuple[tuple[str | None, str], ...] = (
    ("input", "output"),
    ("text", "title"),
    ("abstract", "title"),
    ("description", "tag"),
    ("text", "score"),
    (None, "text"),
)
_ACCEPTED = (
    '{"text"}, {"input", "output"}, or a LaMP record '
    '({"text", "title"}, {"title", "abstract"}, {"description", "tag"}, {"text", "score"})'
)


@dataclass(frozen=True, slots=True)
class Note:
    """One item of a person's history.

    Attributes:
        output: what the person wrote; never empty.
        input: what it answered or was written from ("" when there was nothing).
        id: the caller's id; "" means that the note is known by its content hash.
        time: when it was written, Unix seconds (UTC), or None.
        tags: what it is about; the model never sees them, `ppedge.store.scope.Scope` does.
        source: where it came from, such as ``vault/Journal/day.md``; "" where that is not known.
    """

    output: str
    input: str = ""
    id: str = ""
    time: float | None = None
    tags: tuple[str, ...] = ()
    source: str = ""

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of what the encoder sees: ``input`` and ``output``."""
        framed = f"{len(self.input)}:{self.input}{self.output}"
        return hashlib.sha256(framed.encode("utf-8", "surrogatepass")).hexdigest()


def note_from_fields(fields: Mapping[str, object]) -> Note:
    """Make a note of one record's fields.

    Accepted are ``text``; ``input`` with ``output``; and the LaMP profile records. ``id`` (text
    or integer), ``time`` (ISO 8601, naive meaning UTC, or Unix seconds), ``tags`` (a list of
    texts) and ``source`` (text) are optional. A field that is null counts as absent; other fields
    are ignored.

    Args:
        fields: one JSON object, decoded.

    Returns:
        The note.

    Raises:
        HistoryError: the fields fit no accepted record, or one of them has a bad value.
    """
    present = {name for name, value in fields.items() if value is not None}
    for input_field, output_field in _RECORD_FORMS:
        if output_field in present and (input_field is None or input_field in present):
            break
    else:
        names = [_quote(name) for name in fields]
        found = ", ".join(names[:8] + ["..."] * (len(names) > 8)) or "no field"
        raise HistoryError(f"the record has {found}; expected {_ACCEPTED}")
    output = _text(fields, output_field, number=output_field == "score")
    if is_blank(output):
        what = "has nothing that can be seen" if output.strip() else "is empty"
        _bad_field(output_field, what, "write something there, or remove the record")
    return Note(
        output=output,
        input="" if input_field is None else _text(fields, input_field),
        id=_note_id(fields["id"]) if "id" in present else "",
        time=parse_time(fields["time"]) if "time" in present else None,
        tags=check_tags(fields["tags"], _refuse("tags")) if "tags" in present else (),
        source=check_source(_text(fields, "source"), _refuse("source"))
        if "source" in present
        else "",
    )


def parse_time(value: object, field: str = "time") -> float:
    """Read a moment given as ISO 8601 text or as Unix seconds.

    Args:
        value: text such as ``2024-05-01``, ``2024-05-01T09:30:00+02:00`` (without an offset:
            UTC), or a number of seconds since 1970-01-01 UTC.
        field: name used in the error.

    Returns:
        Unix seconds (UTC), between the years 1 and 9999.

    Raises:
        HistoryError: the value is neither, or lies outside those years.
    """
    hint = 'write ISO 8601 ("2024-05-01T09:30:00+02:00") or Unix seconds'
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        _bad_field(field, f"is {_kind(value)}", hint)
    if isinstance(value, str):
        try:
            moment = datetime.fromisoformat(value.strip())
        except ValueError:
            _bad_field(field, f"is {_quote(value)}", hint)
        seconds: float = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    else:
        seconds = value
        if _LATEST < seconds <= 1000 * _LATEST:
            hint = "it looks like milliseconds: divide it by 1000"
    if not _EARLIEST <= seconds <= _LATEST:
        _bad_field(field, f"is {_quote(value)}, outside the years 1 to 9999", hint)
    return float(seconds)


def format_time(time: float) -> str:
    """Unix seconds as ISO 8601 in UTC, such as ``2024-05-01T07:30:00+00:00``."""
    return datetime.fromtimestamp(time, UTC).isoformat()


def note_line(note: Note) -> str:
    """One note as one line of JSON that `read_notes` reads back to the same note."""
    fields: dict[str, object] = {"id": note.id} if note.id else {}
    if note.time is not None:
        fields["time"] = note.time
    if note.input:
        fields["input"] = note.input
        fields["output"] = note.output
    else:
        fields["text"] = note.output
    if note.tags:
        fields["tags"] = note.tags
    if note.source:
        fields["source"] = note.source
    return json.dumps(fields, ensure_ascii=False)


def read_notes(
    source: str | Path | IO[bytes] | IO[str], *, skip_bad: bool = False, name: str | None = None
) -> NoteReader:
    """Read notes from JSON Lines, one at a time.

    Args:
        source: a path, or an open binary or text stream (which stays open). UTF-8, a byte order
            mark is accepted; empty lines are passed over.
        skip_bad: go on after a bad line, and keep its error in ``NoteReader.skipped``.
        name: what errors call the source; by default the path, or the stream's name.

    Returns:
        An iterator of notes. It reads as it is walked, so its errors come then too.
    """
    return NoteReader(source, skip_bad=skip_bad, name=name)


class NoteReader(Iterator[Note]):
    """Iterator over the notes of one JSON Lines source; see `read_notes`.

    Attributes:
        name: what errors call the source.
        skipped: with ``skip_bad``, one error per line passed over, in order.

    Raises:
        HistoryError: (while iterating) the source cannot be read, or a line is bad; the message
            names source, line and field.
    """

    def __init__(
        self, source: str | Path | IO[bytes] | IO[str], *, skip_bad: bool, name: str | None
    ) -> None:
        """Prepare to read; nothing is opened until the first note is asked for."""
        is_path = isinstance(source, str | Path)
        self.name = name or str(source if is_path else getattr(source, "name", "history"))
        self.skipped: list[HistoryError] = []
        self._source = source
        self._skip_bad = skip_bad
        self._begun = False
        self._line_of_id: dict[str, int] = {}
        self._notes = self._walk()

    def __next__(self) -> Note:
        """Read the next note."""
        return next(self._notes)

    def _walk(self) -> Iterator[Note]:
        with ExitStack() as stack:
            try:
                stream = self._source
                if isinstance(stream, str | Path):
                    stream = stack.enter_context(Path(stream).open("rb"))
                for number, line in _lines(stream):
                    note = self._note(number, line)
                    if note is not None:
                        yield note
            except OSError as error:
                raise HistoryError(f"{self.name}: cannot be read: {error.strerror}") from error

    def _note(self, number: int, line: bytes) -> Note | None:
        if not line.strip():
            return None
        if not self._begun:
            self._check_format(number, line)
            self._begun = True
        try:
            note = note_from_fields(_decode(line))
            self._check_id(note.id, number)
        except HistoryError as error:
            located = HistoryError(f"{self.name}, line {number}: {error}")
            if not self._skip_bad:
                raise located from None
            self.skipped.append(located)
            return None
        return note

    def _check_format(self, number: int, first_line: bytes) -> None:
        """Refuse, whatever ``skip_bad`` says, a file of which no line can be good."""
        where = f"{self.name}, line {number}:"
        if encoding := other_encoding(first_line):
            raise HistoryError(f"{where} the file is {encoding}; {conversion(encoding, self.name)}")
        if first_line.lstrip().startswith(b"["):
            raise HistoryError(
                f"{where} the file is a JSON array, but JSON Lines (one object per line) is read "
                "here; convert it, for example with: jq -c '.[]' array.json > notes.jsonl"
            )

    def _check_id(self, note_id: str, number: int) -> None:
        if not note_id:
            return
        first = self._line_of_id.setdefault(note_id, number)
        if first != number:
            _bad_field(
                "id", f"is {_quote(note_id)}, as on line {first}", "give every note its own id"
            )


def _lines(stream: IO[bytes] | IO[str]) -> Iterator[tuple[int, bytes]]:
    """Yield (line number, line without byte order mark); a line over the bound comes cut short."""
    binary: Any = getattr(stream, "buffer", stream)
    text = isinstance(stream, io.TextIOBase) and binary is stream
    number = 0
    while line := binary.readline(MAX_LINE_BYTES + 2):
        number += 1
        rest = line
        while len(rest) > MAX_LINE_BYTES and rest[-1:] not in (b"\n", "\n"):
            rest = binary.readline(MAX_LINE_BYTES + 2)
        data: bytes = line.encode("utf-8", "surrogatepass") if text else line
        yield number, data.removeprefix(b"\xef\xbb\xbf") if number == 1 else data


def _decode(line: bytes) -> dict[str, object]:
    """Decode one line to the fields of its JSON object."""
    line = line.rstrip(b"\r\n")
    if len(line) > MAX_LINE_BYTES:
        raise HistoryError(f"the line is longer than {MAX_LINE_BYTES} bytes; split the note")
    try:
        pairs = _DECODER.decode(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise HistoryError(
            f"byte {error.start + 1} (0x{line[error.start]:02x}) is not UTF-8; "
            "save the file as UTF-8"
        ) from None
    except json.JSONDecodeError as error:
        raise HistoryError(
            f"not valid JSON at character {error.pos + 1}: {error.msg.removesuffix(' at')}; "
            "write one JSON object per line"
        ) from None
    except RecursionError:
        raise HistoryError("not valid JSON: nested too deeply; write a flat object") from None
    except ValueError:
        raise HistoryError("not valid JSON: a number has too many digits") from None
    if not isinstance(pairs, _Pairs):
        raise HistoryError(f"the line is {_kind(pairs)}, not a JSON object; write {_ACCEPTED}")
    fields: dict[str, object] = {}
    for field, value in pairs:
        if field in fields:
            _bad_field(field, "comes twice in the record", "keep one of the two")
        fields[field] = value
    return fields


class _Pairs(list[tuple[str, object]]):
    """The members of a JSON object as written, so that a repeated name is seen."""


def _refuse_constant(constant: str) -> NoReturn:
    raise HistoryError(f"not valid JSON: {constant} is no JSON number; write null or a number")


# Made once: json.loads would build a decoder for every line.
_DECODER = json.JSONDecoder(object_pairs_hook=_Pairs, parse_constant=_refuse_constant)


def _text(fields: Mapping[str, object], field: str, *, number: bool = False) -> str:
    value = fields[field]
    if number and isinstance(value, int | float) and not isinstance(value, bool):
        # An integer may be too long for a float, which is what isfinite would make of it.
        if not abs(value) <= sys.float_info.max:
            _bad_field(field, "is not a finite number", "write a smaller one")
        return str(value)
    if not isinstance(value, str):
        _bad_field(field, f"is {_kind(value)}", "write text in double quotes")
    check_text(value, _refuse(field))
    return value


def _note_id(value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int):
        _bad_field("id", f"is {_kind(value)}", "write text or an integer")
    note_id = str(value)
    check_text(note_id, _refuse("id"))
    if not note_id.strip():
        _bad_field("id", "is empty", "write an id, or leave the field out")
    if len(note_id) > MAX_ID_CHARACTERS:
        _bad_field("id", f"has {len(note_id)} characters", f"keep it under {MAX_ID_CHARACTERS}")
    return note_id


def _refuse(field: str) -> Callable[[str, str], NoReturn]:
    return lambda what, advice: _bad_field(field, what, advice)


def _bad_field(field: str, what: str, advice: str) -> NoReturn:
    raise HistoryError(f"field {_quote(field)} {what}; {advice}")


def _quote(value: object, limit: int = 60) -> str:
    """Show a value as JSON would, on one line, cut to ``limit`` characters."""
    if isinstance(value, int) and abs(value) >= 10**limit:
        return "a huge integer"
    shown = json.dumps(value)
    return shown if len(shown) <= limit else shown[: limit - 3] + "..."


_KINDS: tuple[tuple[type, str], ...] = (
    (bool, "true or false"),
    (int, "a number"),
    (float, "a number"),
    (str, "text"),
    (_Pairs, "an object"),
    (Mapping, "an object"),
    (list, "an array"),
)


def _kind(value: object) -> str:
    if value is None:
        return "null"
    return next((words for kind, words in _KINDS if isinstance(value, kind)), type(value).__name__)
