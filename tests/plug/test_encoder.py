"""Text to vectors: the same text gives the same bits, and every text gives some."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models

from ppedge.defaults import find_plug
from ppedge.errors import PlugError
from ppedge.notes.reader import Note
from ppedge.plug.encoder import TextEncoder
from ppedge.plug.manifest import MANIFEST_NAME, parse_manifest
from ppedge.plug.plug import Plug
from tests import tiny_gguf, tiny_plug
from tests.tiny_plug import D_KEY, D_VALUE, ENCODER, MAX_TOKENS, QUERY_ENCODER, TOKENIZER

MAX_BYTES = 40
TEXTS = [f"note {i}: " + "the bread is in the oven. " * (i % 7) for i in range(40)]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    root = tmp_path_factory.mktemp("plugs")
    model = tiny_gguf.write(root / "tiny.gguf")
    return {
        size: tiny_plug.write(root / str(size), model, max_bytes=size) for size in (0, MAX_BYTES)
    }


def opened(folder: Path, n_threads: int | None = 1) -> TextEncoder:
    manifest = parse_manifest((folder / MANIFEST_NAME).read_bytes(), str(folder))

    def read(name: str) -> bytes:
        return (folder / name).read_bytes()

    return TextEncoder(read, manifest.encoder, str(folder), n_threads)


@pytest.fixture(scope="module", params=[0, MAX_BYTES], ids=["tokens", "tokens and bytes"])
def encoder(request: pytest.FixtureRequest, folders: dict[int, Path]) -> TextEncoder:
    return opened(folders[request.param])


@pytest.fixture(scope="module")
def of_tokens(folders: dict[int, Path]) -> TextEncoder:
    return opened(folders[0])


@pytest.fixture(scope="module")
def of_bytes(folders: dict[int, Path]) -> TextEncoder:
    return opened(folders[MAX_BYTES])


def bits(encoder: TextEncoder, text: str) -> bytes:
    """Key and value of a note that says ``text``, and the query of a prompt that does."""
    key, value = encoder.note(Note(text))
    return key.tobytes() + value.tobytes() + encoder.query(text).tobytes()


def test_vectors_are_float32_of_the_declared_widths(encoder: TextEncoder) -> None:
    key, value = encoder.note(Note("bread", input="what is in the oven?"))
    query = encoder.query("bread")
    assert [array.shape for array in (key, value, query)] == [(D_KEY,), (D_VALUE,), (D_KEY,)]
    assert {array.dtype for array in (key, value, query)} == {np.dtype(np.float32)}


def test_different_texts_give_different_vectors(encoder: TextEncoder) -> None:
    assert len({bits(encoder, text) for text in TEXTS}) == len(TEXTS)


def test_a_texts_bits_do_not_depend_on_what_was_encoded_before(encoder: TextEncoder) -> None:
    alone = {text: bits(encoder, text) for text in TEXTS}
    assert {text: bits(encoder, text) for text in reversed(TEXTS)} == alone


@pytest.mark.parametrize("n_threads", [1, 2, 5])
def test_notes_come_in_order_with_the_bits_of_each_alone(
    folders: dict[int, Path], n_threads: int
) -> None:
    encoder = opened(folders[MAX_BYTES], n_threads)
    notes = [Note(text, input=text[:9]) for text in TEXTS]
    together = [(key.tobytes(), value.tobytes()) for key, value in encoder.notes(notes)]
    alone = [encoder.note(note) for note in notes]
    assert together == [(key.tobytes(), value.tobytes()) for key, value in alone]


def test_the_default_encoder_gives_the_same_bits_on_one_thread_and_on_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Its sums are long enough to come out differently where a run is split over threads.
    monkeypatch.delenv("PPEDGE_PLUG", raising=False)
    notes = [Note(text) for text in TEXTS]
    one, more = (Plug(find_plug(), n_threads=n).encode_notes(notes) for n in (1, 3))
    for ours, theirs in zip(one, more, strict=True):
        assert [array.tobytes() for array in ours] == [array.tobytes() for array in theirs]


@pytest.mark.parametrize(("usable", "taken"), [(1, 1), (2, 2), (4, 4), (6, 4), (12, 6)])
def test_as_many_notes_are_encoded_at_once_as_there_are_cores(
    folders: dict[int, Path], monkeypatch: pytest.MonkeyPatch, usable: int, taken: int
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda process: set(range(usable)), raising=False)
    assert opened(folders[0], None)._n_threads == taken


def test_an_error_in_one_note_ends_the_whole(folders: dict[int, Path], tmp_path: Path) -> None:
    shutil.copytree(folders[0], tmp_path / "plug")
    words = Tokenizer(models.WordLevel({"a": 0}, unk_token="[UNK]"))
    tiny_plug.swap(tmp_path / "plug", TOKENIZER, words.to_str().encode())
    encoded = opened(tmp_path / "plug", 2).notes([Note("a"), Note("strange"), Note("a")])
    next(encoded)
    with pytest.raises(PlugError, match="cannot read 'strange'"):
        list(encoded)


def test_the_key_is_of_the_input_and_the_value_of_the_output(encoder: TextEncoder) -> None:
    key, value = encoder.note(Note("answer", input="question"))
    np.testing.assert_array_equal(key, encoder.note(Note("question"))[0])
    np.testing.assert_array_equal(value, encoder.note(Note("answer"))[1])


def test_both_is_input_and_output_joined_and_what_there_is_of_them(
    folders: dict[int, Path], tmp_path: Path
) -> None:
    shutil.copytree(folders[MAX_BYTES], tmp_path / "plug")
    both = {"key_fields": ["both"], "value_fields": ["both"]}
    tiny_plug.edit(tmp_path / "plug", lambda raw: raw["encoder"].update(both))
    encoder = opened(tmp_path / "plug")
    joined = np.concatenate(encoder.key_and_value("question\nanswer"))
    np.testing.assert_array_equal(
        np.concatenate(encoder.note(Note("answer", input="question"))), joined
    )
    alone = np.concatenate(encoder.key_and_value("answer"))
    np.testing.assert_array_equal(np.concatenate(encoder.note(Note("answer"))), alone)


def test_a_query_file_makes_the_queries_from_the_ids_and_nothing_else_changes(
    folders: dict[int, Path], tmp_path: Path
) -> None:
    model = folders[0].parent / "tiny.gguf"
    folder = tiny_plug.write(tmp_path / "plug", model, max_bytes=MAX_BYTES, query_file=True)
    encoder = opened(folder)
    weights = tiny_plug.weights_of((folder / QUERY_ENCODER).read_bytes())
    ids = tiny_plug.ids_of("what rain")
    mean = (weights["table"][ids] * weights["places"][: len(ids)]).mean(0)
    np.testing.assert_allclose(encoder.query("what rain"), mean @ weights["to_query"], rtol=1e-4)
    own = tiny_plug.weights_of((folder / ENCODER).read_bytes())
    data = np.frombuffer(b"what rain", np.uint8)
    tokens = (own["table"][ids] * own["places"][: len(ids)]).mean(0)
    both = np.concatenate([tokens, own["byte_table"][data].mean(0)])
    key, value = encoder.note(Note("what rain"))
    np.testing.assert_allclose(key, both @ own["to_key"], rtol=1e-4)
    np.testing.assert_allclose(value, both @ own["to_value"], rtol=1e-4)


def test_id_and_time_are_not_encoded(encoder: TextEncoder) -> None:
    bare, dated = (encoder.note(note) for note in (Note("x"), Note("x", id="7", time=1e9)))
    np.testing.assert_array_equal(np.concatenate(bare), np.concatenate(dated))


def test_what_comes_after_max_tokens_is_cut(of_tokens: TextEncoder) -> None:
    # The tiny tokenizer makes a token of each byte; two places go to [CLS] and [SEP].
    fits = "a" * (MAX_TOKENS - 2)
    assert bits(of_tokens, fits) == bits(of_tokens, fits + "b" * 10)
    assert bits(of_tokens, fits) != bits(of_tokens, fits[:-1] + "b")


def test_the_tokenizers_own_padding_and_truncation_are_not_used(of_tokens: TextEncoder) -> None:
    assert '"Fixed":' in tiny_plug.tokenizer_json()
    assert bits(of_tokens, "abcdefgh") != bits(of_tokens, "abcdefgx")


def test_bytes_after_max_bytes_are_cut(of_bytes: TextEncoder) -> None:
    # After max_tokens only the bytes could tell two texts apart, so both cuts must hold.
    long = "a" * (MAX_TOKENS + MAX_BYTES)
    assert bits(of_bytes, long) == bits(of_bytes, long[:-1] + "b")


def test_a_vector_is_what_the_graph_says_of_the_cut_ids_and_bytes(
    of_bytes: TextEncoder, folders: dict[int, Path]
) -> None:
    weights = tiny_plug.weights_of((folders[MAX_BYTES] / ENCODER).read_bytes())
    text = "cheese: 🧀" * 6
    data = np.frombuffer(text.encode()[:MAX_BYTES], np.uint8)
    ids = tiny_plug.ids_of(text)[: MAX_TOKENS - 1] + tiny_plug.ids_of("")[-1:]
    tokens = (weights["table"][ids] * weights["places"][: len(ids)]).mean(0)
    both = np.concatenate([tokens, weights["byte_table"][data].mean(0)])
    np.testing.assert_allclose(of_bytes.query(text), both @ weights["to_query"], rtol=1e-4)


ODD_TEXTS = {
    "empty": "",
    "one space": " ",
    "NUL": "a\0b",
    "half a surrogate pair": "a\ud83eb",
    "only half a surrogate pair": "\udcff",
    "a family of seven code points": "👨‍👩‍👧‍👦",
    "marks on marks": "e" + "\u0301" * 300,
    "right to left": "שלום\u202eabc",
    "control characters": "".join(map(chr, range(32))),
    "the tokenizer's own special tokens": "[CLS][SEP][PAD][UNK]",
}


@pytest.mark.parametrize("text", ODD_TEXTS.values(), ids=ODD_TEXTS.keys())
def test_an_odd_text_is_encoded_like_any_other(encoder: TextEncoder, text: str) -> None:
    query = encoder.query(text)
    assert np.isfinite(query).all()
    np.testing.assert_array_equal(query, encoder.query(text))


@given(st.text(st.characters(), max_size=80))
@settings(max_examples=100, deadline=None)
def test_any_text_at_all_is_encoded(encoder: TextEncoder, text: str) -> None:
    assert np.isfinite(encoder.query(text)).all()


@pytest.mark.parametrize("piece", ["word ", "x", " ", "🧀", "\n", "漢"])
def test_a_megabyte_is_not_tokenized_to_its_end(encoder: TextEncoder, piece: str) -> None:
    text = piece * ((1 << 20) // len(piece.encode()))
    began = time.process_time()
    encoder.note(Note(text))
    # Processor time, which other processes do not add to; the whole text would take seconds.
    assert time.process_time() - began < 0.25
