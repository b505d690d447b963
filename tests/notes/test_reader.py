import io
import json
import os
import shutil
import subprocess
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ppedge.errors import HistoryError
from ppedge.notes.reader import (
    MAX_LINE_BYTES,
    Note,
    format_time,
    note_from_fields,
    note_line,
    parse_time,
    read_notes,
)
from ppedge.notes.text import is_blank


def read(data, **options):
    return list(read_notes(io.BytesIO(data), name="notes.jsonl", **options))


def read_error(data):
    with pytest.raises(HistoryError) as caught:
        read(data)
    message = str(caught.value)
    assert "\n" not in message
    return message


# --- what is accepted ---


@pytest.mark.parametrize(
    ("fields", "note"),
    [
        ({"text": "t"}, Note("t")),
        ({"input": "i", "output": "o"}, Note("o", "i")),
        ({"input": "", "output": "o"}, Note("o")),
        ({"text": "article", "title": "headline"}, Note("headline", "article")),
        ({"title": "paper", "abstract": "summary"}, Note("paper", "summary")),
        ({"description": "film", "tag": "comedy"}, Note("comedy", "film")),
        ({"text": "review", "score": "4"}, Note("4", "review")),
        ({"text": "review", "score": 4}, Note("4", "review")),
        ({"text": "review", "score": 4.5}, Note("4.5", "review")),
        ({"input": "i", "output": "o", "text": "t", "title": "x"}, Note("o", "i")),
        ({"text": "t", "title": None, "id": None, "time": None}, Note("t")),
        ({"text": "t", "mood": {"deep": [1]}, "date": "x"}, Note("t")),
        ({"text": "t", "id": "a b"}, Note("t", id="a b")),
        ({"text": "t", "id": 17}, Note("t", id="17")),
        ({"text": "t", "time": 5}, Note("t", time=5.0)),
    ],
)
def test_records_of_every_accepted_form_become_notes(fields, note):
    assert note_from_fields(fields) == note
    assert read(json.dumps(fields).encode()) == [note]


@pytest.mark.parametrize(
    ("written", "seconds"),
    [
        (0, 0.0),
        (1.5, 1.5),
        (-86400, -86400.0),
        ("1970-01-02", 86400.0),
        ("1970-01-01T00:00:01", 1.0),
        ("1970-01-01T00:00:01Z", 1.0),
        (" 1970-01-01 02:00:00+02:00 ", 0.0),
        ("1970-01-01T00:00:00.25", 0.25),
        ("0001-01-01", -62135596800.0),
        ("9999-12-31T23:59:59", 253402300799.0),
    ],
)
def test_times_are_iso_8601_or_unix_seconds_and_naive_means_utc(written, seconds):
    assert parse_time(written) == seconds


def test_times_are_shown_as_iso_8601_in_utc():
    assert format_time(parse_time("2024-05-01T09:30:00+02:00")) == "2024-05-01T07:30:00+00:00"


def test_a_byte_order_mark_windows_line_ends_and_empty_lines_are_accepted():
    data = b'\xef\xbb\xbf{"text": "a"}\r\n\r\n  \t\n{"text": "b"}\r\n\n{"text": "c"}'
    assert read(data) == [Note("a"), Note("b"), Note("c")]


@pytest.mark.parametrize("data", [b"", b"\n\n", b"\xef\xbb\xbf"])
def test_an_empty_file_has_no_notes(data):
    assert read(data) == []


def test_a_line_separator_within_text_does_not_end_the_line():
    assert read('{"text": "a\u2028b\u0085c"}\n'.encode()) == [Note("a\u2028b\u0085c")]


def test_paths_and_text_streams_are_read_too(tmp_path):
    path = tmp_path / "notes.jsonl"
    path.write_bytes('\ufeff{"text": "é"}\n'.encode())
    assert list(read_notes(path)) == list(read_notes(str(path))) == [Note("é")]
    with path.open(encoding="utf-8") as stream:
        assert list(read_notes(stream)) == [Note("é")]
    assert list(read_notes(io.StringIO('\ufeff{"text": "é"}\n{"text": "b"}'))) == [
        Note("é"),
        Note("b"),
    ]


TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=60)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    st.builds(
        Note,
        output=TEXT.filter(lambda text: not is_blank(text)),
        input=TEXT,
        id=st.one_of(st.just(""), TEXT.filter(str.strip)),
        time=st.one_of(st.none(), st.floats(-62135596800.0, 253402300799.0)),
        tags=st.lists(TEXT.filter(lambda text: not is_blank(text)), max_size=3).map(tuple),
        source=TEXT,
    )
)
def test_a_written_note_reads_back_the_same(note):
    assert read(note_line(note).encode()) == [note]


def test_tags_and_source_are_no_part_of_what_is_encoded():
    assert Note("a", tags=("x",), source="s").digest == Note("a").digest
    [note] = read(b'{"text": "a", "tags": null, "source": null}')
    assert note == Note("a")


@pytest.mark.parametrize(
    ("field", "said"),
    [
        ('"tags": "a"', 'field "tags" is not a list; write tags as'),
        ('"tags": {"a": 1}', 'field "tags" is not a list'),
        ('"tags": ["a", 1]', 'field "tags" holds something that is not text'),
        ('"tags": ["a", " "]', 'field "tags" holds an empty tag; remove it'),
        ('"tags": ["a\\u0000"]', 'field "tags" holds a NUL at character 2'),
        (f'"tags": {json.dumps(["a"] * 257)}', 'field "tags" has 257 entries'),
        (f'"tags": ["{"a" * 257}"]', 'field "tags" holds a tag of 257 characters'),
        ('"source": 5', 'field "source" is a number'),
        ('"source": "a\\ud800"', 'field "source" holds half a surrogate pair'),
        (f'"source": "{"a" * 4097}"', 'field "source" has 4097 characters'),
    ],
)
def test_bad_tags_and_sources_are_refused_in_a_line(field, said):
    assert said in read_error(f'{{"text": "x", {field}}}'.encode())


def test_notes_come_one_by_one_as_they_are_read():
    stream = io.BytesIO(b'{"text": "a"}\n{"text": "b"}\nbad\n')
    notes = read_notes(stream)
    assert next(notes) == Note("a")
    assert next(notes) == Note("b")
    with pytest.raises(HistoryError, match="line 3"):
        next(notes)


# --- what is refused ---


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"text": ""}', 'field "text" is empty; write something there, or remove the record'),
        (b'{"text": " \\n\\t "}', 'field "text" is empty'),
        (b'{"text": "article", "title": ""}', 'field "title" is empty'),
        (b'{"text": 5}', 'field "text" is a number; write text in double quotes'),
        (b'{"text": ["a"]}', 'field "text" is an array'),
        (b'{"text": {"a": 1}}', 'field "text" is an object'),
        (b'{"input": true, "output": "x"}', 'field "input" is true or false'),
        (b'{"text": "x", "score": true}', 'field "score" is true or false'),
        (b'{"text": "x", "score": 1e999}', 'field "score" is not a finite number'),
        (b'{"text": "x", "score": 1' + b"0" * 400 + b"}", 'field "score" is not a finite number'),
        (b'{"text": "x", "id": 1.5}', 'field "id" is a number; write text or an integer'),
        (b'{"text": "x", "id": false}', 'field "id" is true or false; write text or an integer'),
        (b'{"text": "x", "id": ""}', 'field "id" is empty; write an id, or leave the field out'),
        (b'{"text": "x", "id": "%s"}' % (b"i" * 1025), 'field "id" has 1025 characters'),
        (b'{"text": "x", "time": "soon"}', 'field "time" is "soon"; write ISO 8601'),
        (b'{"text": "x", "time": []}', 'field "time" is an array; write ISO 8601'),
        (b'{"text": "x", "time": true}', 'field "time" is true or false; write ISO 8601'),
        (b'{"text": "x", "time": 1700000000000}', "it looks like milliseconds: divide it by 1000"),
        (b'{"text": "x", "time": -1e12}', "outside the years 1 to 9999"),
        (b'{"text": "x", "time": 1e999}', "outside the years 1 to 9999"),
        (b'{"text": "x", "time": 1' + b"0" * 400 + b"}", 'field "time" is a huge integer, outside'),
        (b'{"text": "x", "time": "9999-12-31T23:59:59-14:00"}', "outside the years 1 to 9999"),
        (b'{"text": "a", "text": "b"}', 'field "text" comes twice in the record; keep one'),
        (b'{"text": "\\ud800"}', "half a surrogate pair (U+D800) at character 1"),
        (b'{"text": "x", "id": "\\udfff"}', "half a surrogate pair (U+DFFF)"),
        (b'{"text": "ab\\u0000"}', 'field "text" holds a NUL at character 3; remove it'),
        (b'{"text": "a\0b"}', "not valid JSON at character 12: Invalid control character"),
        (b'{"text": "caf\xe9"}', "byte 14 (0xe9) is not UTF-8; save the file as UTF-8"),
        (b'{"text": "\xed\xa0\x80"}', "byte 11 (0xed) is not UTF-8"),
        (b'{"text": "x", "n": NaN}', "NaN is no JSON number"),
        (b'{"text": "x", "n": -Infinity}', "-Infinity is no JSON number"),
        (b'{"n": 1' + b"0" * 5000 + b"}", "a number has too many digits"),
        (b'{"text": ' + b"[" * 100_000, "nested too deeply"),
        (b'{"text": "x"', "not valid JSON at character 13: Expecting ',' delimiter"),
        (b'{"text": "x"} {"text": "y"}', "not valid JSON at character 15: Extra data"),
        (b"{", "write one JSON object per line"),
        (b'"text"', "the line is text, not a JSON object"),
        (b"null", "the line is null, not a JSON object"),
        (b"{}", 'the record has no field; expected {"text"}, {"input", "output"}, or a LaMP'),
        (b'{"output": "x", "mood": 1}', 'the record has "output", "mood"; expected {"text"}'),
        (b'{"text": null}', 'the record has "text"; expected'),
        (json.dumps({f"f{i}": 1 for i in range(99)}).encode(), '"f6", "f7", ...; expected'),
    ],
)
def test_a_bad_line_is_refused_with_its_number_its_field_and_a_way_out(line, message):
    said = read_error(b'{"text": "fine"}\n\n' + line + b"\n")
    assert said.startswith("notes.jsonl, line 3: ")
    assert message in said
    assert len(said) < 400


def test_an_id_that_comes_twice_is_refused_with_both_lines():
    said = read_error(b'{"text": "a", "id": 7}\n{"text": "b"}\n{"text": "c", "id": "7"}')
    assert (
        said == 'notes.jsonl, line 3: field "id" is "7", as on line 1; give every note its own id'
    )


@pytest.mark.parametrize("skip_bad", [False, True])
@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b'[{"text": "a"}]', "line 1: the file is a JSON array"),
        (b'\xef\xbb\xbf\n[\n{"text": "a"}\n]', "line 2: the file is a JSON array"),
        *(
            (start + '{"text": "a"}'.encode(encoding), f"the file is {name}; convert it to UTF-8")
            for start, encoding, name in [
                (b"", "utf-16", "UTF-16"),
                (b"\xfe\xff", "utf-16-be", "UTF-16"),
                (b"", "utf-16-le", "UTF-16LE"),
                (b"", "utf-16-be", "UTF-16BE"),
                (b"", "utf-32", "UTF-32"),
                (b"\x00\x00\xfe\xff", "utf-32-be", "UTF-32"),
                (b"", "utf-32-le", "UTF-32LE"),
                (b"", "utf-32-be", "UTF-32BE"),
                (b"+/v8-", "utf-7", "UTF-7"),
                (b"\x84\x31\x95\x33", "gb18030", "GB18030"),
            ]
        ),
    ],
)
def test_a_file_of_another_format_is_refused_as_a_whole(data, message, skip_bad):
    with pytest.raises(HistoryError) as caught:
        read(data, skip_bad=skip_bad)
    assert message in str(caught.value)


@pytest.mark.skipif(not shutil.which("iconv"), reason="the advice is a command of another program")
@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-32-be", "gb18030"])
def test_the_advice_for_another_encoding_works(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "my notes.jsonl"
    start = b"\x84\x31\x95\x33" if encoding == "gb18030" else b""
    path.write_bytes(start + '{"text": "grüß 🧀"}\n'.encode(encoding))
    with pytest.raises(HistoryError) as caught:
        list(read_notes(path))
    command = str(caught.value).partition("for example with: ")[2]
    subprocess.run(command, shell=True, cwd=tmp_path, check=True)
    [note] = read_notes(tmp_path / "utf-8-my notes.jsonl")
    assert note.output == "grüß 🧀"


@pytest.mark.parametrize(
    "text", ["\u200b", " \ufeff\n", "\u2060\u00ad", "\u3164", "\u2800 ", "\u0301", "\u202e\u202c"]
)
def test_a_note_that_cannot_be_seen_is_refused_as_empty(text: str) -> None:
    with pytest.raises(HistoryError, match='field "text" has nothing that can be seen'):
        note_from_fields({"text": text})


@pytest.mark.parametrize("text", ["\u200b.", "e\u0301", "🧀", "x\u200b", "ㅤa"])
def test_a_note_of_which_something_can_be_seen_is_taken_as_it_is(text: str) -> None:
    assert note_from_fields({"text": text}).output == text


def test_skip_bad_passes_over_bad_lines_and_keeps_their_errors():
    data = b'{"text": "a", "id": 1}\nbad\n{"text": "b"}\n{"text": "c", "id": 1}\n{"text": "d"}'
    reader = read_notes(io.BytesIO(data), skip_bad=True, name="mine")
    assert [note.output for note in reader] == ["a", "b", "d"]
    assert [str(error).split(":")[0] for error in reader.skipped] == [
        "mine, line 2",
        "mine, line 4",
    ]


@pytest.mark.parametrize("text_stream", [False, True])
def test_a_line_of_the_greatest_length_is_read_and_one_more_byte_is_not(text_stream):
    def source(n_bytes):
        line = b'{"text": "%s"}' % (b"x" * (n_bytes - len(b'{"text": ""}')))
        data = line + b'\n{"text": "next"}\n'
        return io.StringIO(data.decode()) if text_stream else io.BytesIO(data)

    fits, next_note = list(read_notes(source(MAX_LINE_BYTES)))
    assert len(fits.output) == MAX_LINE_BYTES - 12
    reader = read_notes(source(MAX_LINE_BYTES + 1), skip_bad=True)
    assert list(reader) == [next_note]
    assert f"line 1: the line is longer than {MAX_LINE_BYTES} bytes" in str(reader.skipped[0])


def test_an_endless_line_takes_bounded_memory(tmp_path):
    path = tmp_path / "long.jsonl"
    with path.open("wb") as out:
        out.write(b'{"text": "')
        out.truncate(100_000_000)
        out.seek(0, os.SEEK_END)
        out.write(b'"}\n{"text": "after"}\n')
    tracemalloc.start()
    reader = read_notes(path, skip_bad=True)
    assert list(reader) == [Note("after")]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert "line 1: the line is longer" in str(reader.skipped[0])
    assert peak < 6 * MAX_LINE_BYTES


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    for path in (tmp_path / "absent.jsonl", tmp_path):
        with pytest.raises(HistoryError, match=rf"^{path}: cannot be read: "):
            list(read_notes(path))


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.binary(max_size=80))
def test_any_bytes_are_notes_or_a_history_error(data):
    reader = read_notes(io.BytesIO(data), skip_bad=True)
    try:
        notes = list(reader)
    except HistoryError:
        return
    assert len(notes) + len(reader.skipped) <= data.count(b"\n") + 1


# --- identity ---


def test_the_digest_covers_input_and_output_and_nothing_else():
    assert Note("o", "i").digest == Note("o", "i", id="x", time=1.0).digest
    different = {Note("ab").digest, Note("b", "a").digest, Note("", "ab").digest}
    assert len(different) == 3
