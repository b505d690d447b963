"""`plug.json` as hostile input: every field, missing, of a wrong type and out of range."""

from __future__ import annotations

import contextlib
import copy
import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ppedge.defaults import DEFAULT_PLUG
from ppedge.errors import PlugError
from ppedge.llm.fingerprint import Fingerprint
from ppedge.llm.ngram_cache import Gate, NgramCacheConfig
from ppedge.plug.manifest import (
    GATE_TERMS,
    MANIFEST_NAME,
    MAX_FILE_BYTES,
    MAX_GATES,
    MAX_GOLDEN_CHARS,
    MAX_GOLDEN_TEXTS,
    MAX_NGRAM_NOTES,
    EncoderSpec,
    FileEntry,
    GoldenSpec,
    KeptSpec,
    Manifest,
    ProjectorSpec,
    manifest_json,
    parse_manifest,
)
from ppedge.plug.manifest_fields import MAX_MANIFEST_BYTES
from ppedge.plug.template import Part

PLAIN = Manifest(
    name="tiny — 小",
    licence="Apache-2.0",
    files={name: FileEntry(7, "ab" * 32) for name in ("a.onnx", "b.onnx", "null.bin", "t.json")},
    llm=Fingerprint("llama", 64, 265, "0" * 64, "f" * 64),
    llm_name="Tiny",
    encoder=EncoderSpec("a.onnx", "t.json", 64, 100, 8, 12, ("input", "output"), ("output",)),
    null_note="null.bin",
    attention_scale=0.125,
    projector=ProjectorSpec("b.onnx", 3),
    template=(Part("<s>"), Part(slot="prompt"), Part("</s>\n"), Part(slot="soft")),
    about={"scores": {"nll": [3.5, None, True]}, "by": "nobody"},
)
# The same with every optional field.
GOOD = replace(
    PLAIN,
    files=PLAIN.files | {name: FileEntry(7, "cd" * 32) for name in ("g.f32", "k.onnx", "q.onnx")},
    encoder=replace(PLAIN.encoder, query_file="q.onnx", value_fields=("both",)),
    projector=replace(PLAIN.projector, n_instruction=2),
    null_note_competes=False,
    recency=0.5,
    golden=GoldenSpec("g.f32", ("Fix a leak", "")),
    kept=KeptSpec("k.onnx", 4),
    ngram_cache=NgramCacheConfig(256, (Gate(-2.5, 0.5, -1.0, 0.7), Gate(-2.0, 1.0, 0.0, -0.1))),
)
RAW: dict[str, Any] = json.loads(manifest_json(GOOD))
Path = tuple[str | int, ...]

FILE_FIELDS = [
    ("encoder", "file"),
    ("encoder", "tokenizer"),
    ("encoder", "query_file"),
    ("projector", "file"),
    ("null_note",),
    ("golden", "file"),
    ("kept", "file"),
]
OPTIONAL = [
    ("encoder", "query_file"),
    ("projector", "n_instruction"),
    ("null_note_competes",),
    ("recency",),
    ("golden",),
    ("literal",),
    ("kept",),
]
GATE = {"bias": -2.0, "total": 0, "kinds": 1.5, "entropy": 0.25}
WRONG_VALUES: dict[Path, list[Any]] = {
    ("schema",): [0, 2, 1.0, "1", True],
    ("name",): ["", "x" * 201, "two\nlines", "\x1b[31m", 5, None],
    ("licence",): ["", "a\tb", ["MIT"]],
    ("files",): [[], "a.onnx", None],
    ("files", "a.onnx"): [7, None, []],
    ("files", "a.onnx", "bytes"): [-1, MAX_FILE_BYTES + 1, 10**30, 7.0, "7", True],
    ("files", "a.onnx", "sha256"): ["", "ab" * 31, "AB" * 32, "g" * 64, "ab" * 32 + "\n", 0],
    ("llm",): [None, "llama"],
    ("llm", "name"): ["", "a\0b", 1],
    ("llm", "fingerprint"): [None, "abc"],
    ("llm", "fingerprint", "architecture"): ["", "x" * 201, "\x1b]0;t\x07", 3],
    ("llm", "fingerprint", "n_embd"): [0, -1, 1 << 17, "64", 64.0, True],
    ("llm", "fingerprint", "n_vocab"): [0, 1 << 32, None],
    ("llm", "fingerprint", "tokenizer_sha256"): ["", "0" * 63, 0],
    ("llm", "fingerprint", "embedding_sha256"): ["F" * 64, None],
    ("encoder",): [None, []],
    ("encoder", "max_tokens"): [2, 8193, "64", 64.5, True],
    ("encoder", "max_bytes"): [-1, (1 << 16) + 1, None],
    ("encoder", "d_key"): [0, (1 << 16) + 1, "8"],
    ("encoder", "d_value"): [0, (1 << 16) + 1, 1e3],
    ("encoder", "key_fields"): [[], ["id"], "input", [["input"]], [None], {"input": 1}],
    ("encoder", "value_fields"): [[], ["output", "time"], "output"],
    ("attention_scale",): [0, -1, 1e6, 10**400, "1", True, None, [1]],
    ("projector",): [None, "b.onnx"],
    ("projector", "n_soft"): [0, 1025, 3.0, "3"],
    ("projector", "n_instruction"): [-1, 3, 1 << 40, 1.0, "1", True, None],
    ("null_note_competes",): [None, 0, 1, "true", []],
    ("recency",): [-0.1, 1e6, 10**400, "1", True, None, [1]],
    ("golden",): [None, [], "g.f32"],
    ("golden", "texts"): [
        *(None, "text", [], [1], [None], [["a"]]),
        [""] * (MAX_GOLDEN_TEXTS + 1),
        ["x" * (MAX_GOLDEN_CHARS + 1)],
    ],
    ("kept",): [None, [], "k.onnx"],
    ("kept", "n_soft"): [0, 1025, 3.0, "3", None],
    ("literal",): [None, [], 256],
    ("literal", "max_notes"): [0, -1, MAX_NGRAM_NOTES + 1, 10**30, 2.0, "2", True, None],
    ("literal", "gates"): [None, {}, [], [None], [[0, 0, 0, 0]], [GATE] * (MAX_GATES + 1)],
    ("template",): [None, {}, "prompt"],
    ("about",): [None, [], "nothing"],
    **{path: ["", "c.onnx", "plug.json", 7, "../a.onnx"] for path in FILE_FIELDS},
}
EVERY_FIELD = [*WRONG_VALUES]


def with_value(path: Path, value: Any) -> dict[str, Any]:
    """Return the good manifest with one field changed."""
    raw = copy.deepcopy(RAW)
    at: Any = raw
    for name in path[:-1]:
        at = at[name]
    at[path[-1]] = value
    return raw


def without(path: Path) -> dict[str, Any]:
    raw = with_value(path, None)
    at: Any = raw
    for name in path[:-1]:
        at = at[name]
    del at[path[-1]]
    return raw


def parse(raw: object) -> Manifest:
    data = raw if isinstance(raw, bytes) else json.dumps(raw).encode()
    return parse_manifest(data, "here: plug.json")


def refusal(raw: object) -> str:
    """Return the message with which a manifest is refused: one line that says where."""
    with pytest.raises(PlugError) as caught:
        parse(raw)
    message = str(caught.value)
    assert message.startswith("here: plug.json")
    assert message.isprintable()
    assert len(message) < 400
    return message


def leaves(value: Any, path: Path = ()) -> Iterator[Path]:
    """Yield the path of every field that the schema knows."""
    if isinstance(value, dict) and path != ("about",):
        for name, inner in value.items():
            yield (*path, name)
            yield from leaves(inner, (*path, name))


def test_what_manifest_json_writes_parse_manifest_reads() -> None:
    assert parse_manifest(manifest_json(GOOD).encode(), "here") == GOOD


def test_the_cases_below_cover_every_field_of_the_schema() -> None:
    others = {("files", name) for name in RAW["files"]} - {("files", "a.onnx")}
    known = {path for path in leaves(RAW) if path[:2] not in others}
    assert known == set(EVERY_FIELD)


@pytest.mark.parametrize(
    "path", [path for path in EVERY_FIELD if path not in (("files", "a.onnx"), *OPTIONAL)], ids=str
)
def test_a_missing_field_is_named(path: Path) -> None:
    message = refusal(without(path))
    assert str(path[-1]) in message
    assert "missing" in message


def test_a_manifest_without_the_optional_fields_means_what_it_always_did() -> None:
    raw = json.loads(manifest_json(PLAIN))
    for *path, name in OPTIONAL:
        at = raw
        for inner in path:
            at = at[inner]
        assert name not in at
    read = parse(raw)
    assert read == PLAIN
    assert (read.encoder.query_file, read.projector.n_instruction) == (None, 0)
    assert (read.null_note_competes, read.recency) == (True, 0.0)
    assert (read.golden, read.ngram_cache, read.kept) == (None, None, None)


def test_optional_fields_that_say_the_default_are_left_out_when_written() -> None:
    raw = json.loads(manifest_json(PLAIN))
    raw |= {"null_note_competes": True, "recency": 0}
    raw["encoder"]["query_file"] = raw["encoder"]["file"]
    raw["projector"]["n_instruction"] = 0
    assert manifest_json(parse(raw)) == manifest_json(PLAIN)


def test_the_shipped_manifest_is_written_byte_for_byte_as_it_was_read() -> None:
    data = (DEFAULT_PLUG / MANIFEST_NAME).read_bytes()
    assert manifest_json(parse(data)).encode() == data


def test_a_plug_whose_soft_tokens_are_all_the_instructions_is_refused() -> None:
    assert "0 to 2" in refusal(with_value(("projector", "n_instruction"), 3))


def test_a_file_that_is_used_but_not_listed_is_named() -> None:
    assert "encoder: field 'file' must be one of the names in 'files'" in refusal(
        without(("files", "a.onnx"))
    )


@pytest.mark.parametrize(
    ("path", "value"),
    [(path, value) for path, values in WRONG_VALUES.items() for value in values],
    ids=str,
)
def test_a_wrong_value_is_refused_and_its_field_named(path: Path, value: Any) -> None:
    assert str(path[-1]) in refusal(with_value(path, value))


@pytest.mark.parametrize("name", GATE_TERMS)
@pytest.mark.parametrize("value", [100.1, -100.1, 10**400, -(10**400), "1", True, None, [1]])
def test_a_wrong_term_of_a_gate_is_named_with_its_order(name: str, value: Any) -> None:
    message = refusal(with_value(("literal", "gates", 1, name), value))
    assert f"literal: gates[1]: field '{name}' must be a number from -100 to 100" in message


def test_a_missing_term_of_a_gate_is_named_with_its_order() -> None:
    message = refusal(without(("literal", "gates", 0, "kinds")))
    assert "literal: gates[0]: field 'kinds' is missing" in message


def test_gates_at_the_bounds_are_read() -> None:
    gates = [{"bias": -100, "total": 100.0, "kinds": 0, "entropy": -100}] * MAX_GATES
    read = parse(with_value(("literal",), {"max_notes": MAX_NGRAM_NOTES, "gates": gates}))
    assert read.ngram_cache == NgramCacheConfig(
        4096, (Gate(-100.0, 100.0, 0.0, -100.0),) * MAX_GATES
    )


def test_another_schema_says_which_one_this_ppedge_reads() -> None:
    message = refusal({"schema": 2, "all": "new"})
    assert "schema 2" in message
    assert "reads schema 1" in message


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "9" * 5000])
@pytest.mark.parametrize("field", ["attention_scale", "about"])
def test_a_number_that_is_none_is_refused_wherever_it_stands(field: str, number: str) -> None:
    marked = with_value((field,), {"x": "MARK"} if field == "about" else "MARK")
    refusal(json.dumps(marked).replace('"MARK"', number).encode())


@pytest.mark.parametrize(
    "name",
    [
        "..",
        ".",
        "../a.onnx",
        "a/../../b",
        "sub/a.onnx",
        "/etc/passwd",
        "C:\\a",
        "a\\b",
        "C:a",
        "a\0b",
        ".hidden",
        "",
        "a b",
        "a\n",
        "ä.onnx",
        "x" * 101,
        "plug.json",
    ],
)
def test_a_file_name_that_is_not_plain_is_refused(name: str) -> None:
    assert "is not a plain file name" in refusal(
        with_value(("files", name), {"bytes": 1, "sha256": "0" * 64})
    )


@pytest.mark.parametrize(
    ("template", "why"),
    [
        ([], "once each"),
        ([{"text": "no slot"}], "once each"),
        ([{"slot": "prompt"}], "once each"),
        ([{"slot": "soft"}, {"slot": "soft"}, {"slot": "prompt"}], "once each"),
        ([{"slot": "prompt"}, {"slot": "soft"}, {"slot": "other"}], "template[2]"),
        ([{"slot": "prompt"}, {"slot": ["soft"]}], "template[1]"),
        ([{"slot": "prompt", "text": "x"}, {"slot": "soft"}], "template[0]"),
        (["text"], "template[0]"),
        ([{"text": 7}], "template[0]: field 'text'"),
        ([{}], "template[0]"),
    ],
)
def test_a_bad_template_is_refused_by_part(template: list[Any], why: str) -> None:
    assert why in refusal(with_value(("template",), template))


@pytest.mark.parametrize("raw", [b"", b"{", b"not JSON", b"\xff\xfe{\0}\0", b"\xef\xbb\xbf{}"])
def test_what_is_not_json_says_so(raw: bytes) -> None:
    assert "not valid JSON" in refusal(raw)


@pytest.mark.parametrize("raw", [b"[]", b"null", b"3", b'"x"'])
def test_json_that_is_no_object_says_so(raw: bytes) -> None:
    assert "must be an object" in refusal(raw)


@pytest.mark.parametrize("depth", [20, 900, 980, 990, 1000, 100_000])
def test_deep_nesting_is_refused_where_anything_goes(depth: int) -> None:
    marked = json.dumps(with_value(("about",), {"x": "MARK"}))
    message = refusal(marked.replace('"MARK"', "[" * depth + "]" * depth).encode())
    assert "nested" in message or "recursion" in message


def test_nesting_that_people_write_is_read() -> None:
    assert parse(with_value(("about", "x"), [[[{"a": [{"b": {}}]}]]])).about["x"]


def test_a_manifest_over_the_size_bound_is_refused_unread() -> None:
    assert "larger than" in refusal(b" " * (MAX_MANIFEST_BYTES + 1))


def test_a_manifest_at_the_size_bound_is_read() -> None:
    data = manifest_json(GOOD).encode()
    assert parse(data + b" " * (MAX_MANIFEST_BYTES - len(data))) == GOOD


@pytest.mark.parametrize("where", [("about", "x"), ("template", 0, "text")])
def test_half_a_surrogate_pair_is_refused_as_nothing_could_print_it(where: Path) -> None:
    assert "surrogate" in refusal(with_value(where, "a\ud800b"))


def test_a_huge_wrong_value_is_quoted_in_part() -> None:
    assert len(refusal(with_value(("name",), "x" * 100_000))) < 300


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(st.data())
@settings(max_examples=400, deadline=None)
def test_whatever_a_field_holds_only_a_plug_error_comes_out(data: st.DataObject) -> None:
    raw = copy.deepcopy(RAW)
    for _ in range(data.draw(st.integers(1, 3))):
        at: Any = raw
        while True:
            name = data.draw(st.sampled_from([*at]) if isinstance(at, dict) else st.just(0))
            inner = at[name]
            if not isinstance(inner, dict | list) or not inner or data.draw(st.booleans()):
                at[name] = data.draw(JSON)
                break
            at = inner
    with contextlib.suppress(PlugError):
        read = parse(raw)
        # What is accepted can be written, and reads back as the same.
        assert parse_manifest(manifest_json(read).encode(), "again") == read


@given(st.binary(max_size=200) | st.text(max_size=200).map(lambda t: t.encode("utf-8", "replace")))
def test_whatever_the_bytes_only_a_plug_error_comes_out(data: bytes) -> None:
    with pytest.raises(PlugError):
        parse_manifest(data, "here")


@given(st.integers(0, len(manifest_json(GOOD).encode()) - 1), st.integers(1, 255))
@settings(max_examples=300)
def test_a_changed_byte_is_refused_or_read_but_nothing_else(at: int, change: int) -> None:
    data = bytearray(manifest_json(GOOD).encode())
    data[at] ^= change
    with contextlib.suppress(PlugError):
        parse_manifest(bytes(data), "here")
