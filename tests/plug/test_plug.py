"""Plugs as hostile input: folders and zips that are damaged, unsafe, or not what they say."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import random
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from ppedge.errors import PlugError
from ppedge.notes.reader import Note
from ppedge.plug.plug import Plug
from tests import tiny_gguf, tiny_plug
from tests.tiny_plug import (
    D_KEY,
    D_VALUE,
    ENCODER,
    GOLDEN,
    N_SOFT,
    NULL_NOTE,
    PROJECTOR,
    QUERY_ENCODER,
    TOKENIZER,
)

NOTES = [Note("the bread is out"), Note("no rain today", input="weather?"), Note("")]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_gguf.write(tmp_path_factory.mktemp("model") / "tiny.gguf")


@pytest.fixture
def folder(tmp_path: Path, model: Path) -> Path:
    return tiny_plug.write(tmp_path / "plug", model)


def refusal(path: Path) -> str:
    """Return the message with which opening is refused: one line that names the plug."""
    with pytest.raises(PlugError) as caught:
        Plug(path)
    return checked(caught.value, path)


def checked(error: PlugError, path: Path) -> str:
    message = str(error)
    assert str(path) in message
    assert "\n" not in message
    assert len(message) < len(str(path)) + 500
    return message


def zipped(folder: Path, inside: str = "", name: str = "plug.zip", method: int = 8) -> Path:
    """Zip a plug's folder, its files ``inside`` a folder of the archive."""
    path = folder.with_name(name)
    with zipfile.ZipFile(path, "w", method) as archive:
        for file in sorted(folder.iterdir()):
            archive.write(file, f"{inside}{file.name}")
    return path


def vectors(plug: Plug) -> list[bytes]:
    pairs = plug.encode_notes(NOTES)
    return [array.tobytes() for pair in pairs for array in pair] + [
        plug.encode_prompt("write about rain").tobytes(),
        plug.project(np.ones(D_VALUE, np.float32)).vectors.tobytes(),
    ]


# --- what works ---


def test_a_plug_gives_vectors_of_the_widths_in_its_manifest(folder: Path) -> None:
    plug = Plug(folder)
    for key, value in plug.encode_notes(NOTES):
        assert (key.shape, value.shape) == ((D_KEY,), (D_VALUE,))
        assert key.dtype == value.dtype == np.float32
    assert plug.encode_prompt("hello").shape == (D_KEY,)
    soft = plug.project(np.zeros(D_VALUE, np.float32)).vectors
    assert soft.shape == (N_SOFT, tiny_gguf.N_EMBD)
    assert soft.dtype == np.float32


def test_its_space_names_the_hashes_and_holds_the_null_note(folder: Path) -> None:
    plug = Plug(folder)
    null = np.frombuffer((folder / NULL_NOTE).read_bytes(), "<f4").astype(np.float16)
    assert plug.space.encoder_sha256 == plug.manifest.files[ENCODER].sha256
    assert plug.space.formerly == plug.sha256
    np.testing.assert_array_equal(plug.space.null_key, null[:D_KEY])
    np.testing.assert_array_equal(plug.space.null_value, null[D_KEY:])


@pytest.mark.parametrize("inside", ["", "plug/", "some other name/"])
@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA])
def test_a_zip_flat_or_one_folder_down_is_the_same_plug(
    folder: Path, inside: str, method: int
) -> None:
    packed = Plug(zipped(folder, inside, "download (1).zip", method))
    plug = Plug(folder)
    assert packed.sha256 == plug.sha256
    assert packed.space.layout == plug.space.layout
    assert vectors(packed) == vectors(plug)


def test_the_same_plug_in_another_place_is_the_same_space(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "copy")
    assert Plug(tmp_path / "copy").space.layout == Plug(folder).space.layout


@pytest.mark.parametrize(
    "change",
    [
        lambda raw: raw.update(name="another name"),
        lambda raw: raw["about"].update(note="retold"),
        lambda raw: raw.update(attention_scale=raw["attention_scale"] + 1),
        lambda raw: raw.update(template=[{"slot": "prompt"}, {"slot": "soft"}]),
        lambda raw: raw.update(licence="MIT", written_by="a later ppedge"),
        lambda raw: raw["encoder"].update(note="nobody reads this"),
        lambda raw: raw.update(recency=0.0, null_note_competes=True),  # the defaults, spelled out
        lambda raw: None,  # the same in other spaces and order
    ],
)
def test_what_vectors_do_not_hang_on_may_be_edited(folder: Path, change: Callable) -> None:
    before = Plug(folder)
    tiny_plug.edit(folder, change)
    path = folder / "plug.json"
    path.write_text(json.dumps(json.loads(path.read_text()), sort_keys=True, indent=7))
    after = Plug(folder)
    assert after.sha256 != before.sha256
    assert after.space.layout == before.space.layout


@pytest.mark.parametrize(
    "change",
    [
        lambda raw: raw["encoder"].update(max_tokens=raw["encoder"]["max_tokens"] - 1),
        lambda raw: raw["encoder"].update(value_fields=["input", "output"]),
    ],
)
def test_what_vectors_hang_on_makes_another_space(folder: Path, change: Callable) -> None:
    before = Plug(folder).space.layout
    tiny_plug.edit(folder, change)
    assert Plug(folder).space.layout != before


def test_a_link_to_the_folder_is_the_plug(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(folder, target_is_directory=True)
    assert Plug(tmp_path / "link").sha256 == Plug(folder).sha256


# --- not there, not a plug ---


def test_a_path_with_nothing_there_says_what_to_give(tmp_path: Path) -> None:
    assert "no such plug (give a folder or a .zip)" in refusal(tmp_path / "none")


def test_a_file_that_is_no_zip_is_refused(tmp_path: Path, model: Path) -> None:
    assert "neither a folder nor a .zip" in refusal(model)


def test_a_pipe_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert "neither a folder nor a .zip" in refusal(tmp_path / "pipe")


def test_a_path_too_long_for_the_system_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(PlugError, match="give a folder"):
        Plug(tmp_path / ("x" * 5000))


def test_an_empty_folder_misses_its_manifest(tmp_path: Path) -> None:
    assert "plug.json is missing" in refusal(tmp_path)


# --- damaged ---


@pytest.mark.parametrize("name", ["plug.json", ENCODER, PROJECTOR, TOKENIZER, NULL_NOTE])
@pytest.mark.parametrize("form", ["folder", "zip"])
def test_a_missing_file_is_named(folder: Path, name: str, form: str) -> None:
    (folder / name).unlink()
    path = zipped(folder) if form == "zip" else folder
    assert f"{name} is missing" in refusal(path)


@pytest.mark.parametrize("name", [ENCODER, PROJECTOR, TOKENIZER, NULL_NOTE])
@pytest.mark.parametrize("harm", ["flipped bit", "cut short", "longer", "empty"])
@pytest.mark.parametrize("form", ["folder", "zip"])
def test_a_file_that_is_not_as_described_is_never_opened(
    folder: Path, name: str, harm: str, form: str
) -> None:
    data = bytearray((folder / name).read_bytes())
    data[len(data) // 2] ^= 1
    harmed = {"cut short": data[:-1], "longer": data + b"\0", "empty": b""}.get(harm, data)
    (folder / name).write_bytes(harmed)
    message = refusal(zipped(folder) if form == "zip" else folder)
    assert name in message
    assert "not the file that plug.json describes" in message or "larger than" in message


def test_a_file_that_the_run_time_does_not_read_is_verified_too(folder: Path) -> None:
    (folder / "NOTICE").write_bytes(b"all mine")
    entry = {"bytes": 8, "sha256": hashlib.sha256(b"all mine").hexdigest()}
    tiny_plug.edit(folder, lambda manifest: manifest["files"].update(NOTICE=entry))
    assert "NOTICE" in Plug(folder).manifest.files
    (folder / "NOTICE").write_bytes(b"all ours")
    assert "NOTICE is not the file" in refusal(folder)


def test_a_directory_in_place_of_a_file_is_a_missing_file(folder: Path) -> None:
    (folder / ENCODER).unlink()
    (folder / ENCODER).mkdir()
    assert f"{ENCODER} is missing" in refusal(folder)


def test_a_zip_cut_short_is_refused(folder: Path) -> None:
    path = zipped(folder)
    path.write_bytes(path.read_bytes()[:-200])
    refusal(path)


def test_a_zip_with_changed_bytes_is_refused_or_the_same_plug(folder: Path) -> None:
    whole = zipped(folder).read_bytes()
    sha256 = Plug(folder).sha256
    rng = random.Random(0)
    broken = folder.with_name("broken.zip")
    for _ in range(150):
        data = bytearray(whole)
        # Half of the changes where zip keeps its tables, which are a small part of the file.
        low = len(data) - 500 if rng.random() < 0.5 else 0
        for _ in range(rng.randint(1, 4)):
            data[rng.randrange(low, len(data))] = rng.randrange(256)
        broken.write_bytes(data)
        with contextlib.suppress(PlugError):
            assert Plug(broken).sha256 == sha256


# --- unsafe ---


@pytest.mark.parametrize("name", ["plug.json", ENCODER])
def test_a_link_that_leads_out_of_the_folder_is_refused(
    folder: Path, tmp_path: Path, name: str
) -> None:
    shutil.move(folder / name, tmp_path / "elsewhere")
    (folder / name).symlink_to(tmp_path / "elsewhere")
    assert f"{name} is a link that leads out of the plug" in refusal(folder)


def test_a_link_to_itself_is_refused(folder: Path) -> None:
    (folder / ENCODER).unlink()
    (folder / ENCODER).symlink_to(folder / ENCODER)
    assert ENCODER in refusal(folder)


def test_a_device_in_place_of_a_file_is_not_read(folder: Path) -> None:
    (folder / ENCODER).unlink()
    (folder / ENCODER).symlink_to("/dev/zero")
    refusal(folder)


def test_a_manifest_that_claims_more_than_any_plug_holds_is_refused(folder: Path) -> None:
    tiny_plug.edit(folder, lambda raw: raw["files"][ENCODER].update(bytes=1 << 40))
    assert "field 'bytes' must be 0 to" in refusal(folder)


@pytest.mark.parametrize("name", ["plug.json", ENCODER])
def test_a_zip_bomb_is_read_no_further_than_its_declared_size(folder: Path, name: str) -> None:
    size = 256 << 20
    path = folder.with_name("bomb.zip")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for file in folder.iterdir():
            if file.name != name:
                archive.write(file, file.name)
        with archive.open(name, "w") as stream:
            for _ in range(size >> 20):
                stream.write(bytes(1 << 20))
    assert path.stat().st_size < size // 50
    peak = peak_memory_of_refusal(path)
    assert peak < 32 << 20


def peak_memory_of_refusal(path: Path) -> int:
    """Return the most bytes that Python held at once while it refused ``path``."""
    import tracemalloc

    tracemalloc.start()
    try:
        assert "is larger than" in refusal(path)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_an_encrypted_zip_is_refused(folder: Path) -> None:
    path = zipped(folder)
    data = bytearray(path.read_bytes())
    for signature, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        at = data.find(signature)
        while at >= 0:
            data[at + flags] |= 1
            at = data.find(signature, at + 4)
    path.write_bytes(data)
    assert "encrypted" in refusal(path)


def test_a_zip_of_two_plugs_is_refused(folder: Path) -> None:
    path = zipped(folder, "one/")
    with zipfile.ZipFile(path, "a") as archive:
        archive.write(folder / "plug.json", "two/plug.json")
    assert "more than once" in refusal(path)


def test_a_zip_with_names_that_lead_out_is_no_plug(folder: Path) -> None:
    path = zipped(folder, "../../")
    assert "plug.json is missing" in refusal(path)


# --- files that are vouched for, and yet wrong ---


@pytest.mark.parametrize("name", [ENCODER, PROJECTOR])
@pytest.mark.parametrize("data", [b"", b"no ONNX at all", b"\x08\x08" * 500, b"\xff" * 64])
def test_a_graph_that_is_no_onnx_is_refused(folder: Path, name: str, data: bytes) -> None:
    tiny_plug.swap(folder, name, data)
    message = refusal(folder)
    assert name in message
    assert "onnxruntime cannot load the graph" in message


def test_weights_in_a_file_beside_the_graph_are_not_looked_for(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = onnx.load_model_from_string((folder / PROJECTOR).read_bytes())
    matrix = next(t for t in graph.graph.initializer if t.name == "matrix")
    (tmp_path / "outside.bin").write_bytes(matrix.raw_data)
    matrix.ClearField("raw_data")
    matrix.data_location = TensorProto.EXTERNAL
    location = matrix.external_data.add()
    location.key, location.value = "location", "outside.bin"
    tiny_plug.swap(folder, PROJECTOR, graph.SerializeToString())
    monkeypatch.chdir(tmp_path)
    assert "cannot load the graph" in refusal(folder)


INT64, FLOAT = TensorProto.INT64, TensorProto.FLOAT
IDS = {"ids": (INT64, [1, "L"])}


def encoder_outputs(**changed: np.ndarray) -> dict[str, np.ndarray]:
    return {
        "key": np.zeros(D_KEY, np.float32),
        "value": np.zeros(D_VALUE, np.float32),
        "query": np.zeros(D_KEY, np.float32),
        **changed,
    }


@pytest.mark.parametrize(
    ("inputs", "outputs", "why"),
    [
        ({}, encoder_outputs(), "takes []"),
        ({"tokens": (INT64, [1, "L"])}, encoder_outputs(), "takes ['tokens']"),
        (IDS | {"bytes": (INT64, [1, "B"])}, encoder_outputs(), "takes ['bytes', 'ids']"),
        (IDS, {"key": np.zeros(D_KEY, np.float32)}, "output value is missing"),
        (IDS, encoder_outputs(key=np.zeros(D_KEY)), "output key is tensor(double)"),
    ],
    ids=["no input", "another input", "one too many", "no value", "float64 key"],
)
def test_an_encoder_with_other_inputs_or_outputs_is_refused_when_opened(
    folder: Path, inputs: dict[str, Any], outputs: dict[str, np.ndarray], why: str
) -> None:
    tiny_plug.swap(folder, ENCODER, tiny_plug.constant_graph(inputs, outputs))
    assert why in refusal(folder)


def test_a_projector_with_other_inputs_is_refused_when_opened(folder: Path) -> None:
    soft = np.zeros((N_SOFT, tiny_gguf.N_EMBD), np.float32)
    graph = tiny_plug.constant_graph({"x": (FLOAT, [D_VALUE])}, {"soft": soft})
    tiny_plug.swap(folder, PROJECTOR, graph)
    assert "takes ['x'], not ['pooled']" in refusal(folder)


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"key": np.zeros(D_KEY + 1, np.float32)}, f"output key is [{D_KEY + 1}], not [{D_KEY}]"),
        ({"value": np.zeros((1, D_VALUE), np.float32)}, f"output value is [1, {D_VALUE}]"),
        ({"key": np.full(D_KEY, np.nan, np.float32)}, "output key holds a number that is not"),
        ({"value": np.full(D_VALUE, np.inf, np.float32)}, "output value holds a number that is"),
    ],
    ids=["wide key", "value of two axes", "NaN key", "infinite value"],
)
def test_what_an_encoder_returns_is_checked(
    folder: Path, changed: dict[str, np.ndarray], why: str
) -> None:
    graph = tiny_plug.constant_graph(IDS, encoder_outputs(**changed))
    tiny_plug.swap(folder, ENCODER, graph)
    with pytest.raises(PlugError) as caught:
        list(Plug(folder).encode_notes(NOTES))
    assert why in checked(caught.value, folder)


@pytest.mark.parametrize(
    "soft",
    [
        np.zeros((N_SOFT + 1, tiny_gguf.N_EMBD), np.float32),
        np.zeros(N_SOFT * tiny_gguf.N_EMBD, np.float32),
        np.full((N_SOFT, tiny_gguf.N_EMBD), np.nan, np.float32),
    ],
    ids=["one more", "flat", "NaN"],
)
def test_what_a_projector_returns_is_checked(folder: Path, soft: np.ndarray) -> None:
    graph = tiny_plug.constant_graph({"pooled": (FLOAT, [D_VALUE])}, {"soft": soft})
    tiny_plug.swap(folder, PROJECTOR, graph)
    with pytest.raises(PlugError) as caught:
        Plug(folder).project(np.zeros(D_VALUE, np.float32))
    assert "output soft" in checked(caught.value, folder)


def test_a_graph_that_asks_for_a_terabyte_is_an_error_of_the_plug(folder: Path) -> None:
    tiny_plug.swap(folder, PROJECTOR, huge_graph())
    with pytest.raises(PlugError) as caught:
        Plug(folder).project(np.zeros(D_VALUE, np.float32))
    assert "cannot be run" in checked(caught.value, folder)


def huge_graph() -> bytes:
    """A projector that first makes 2**40 numbers."""
    size = helper.make_tensor("size", INT64, [1], [1 << 40])
    # The size depends on the input, or it would be made when the graph is loaded.
    nodes = [
        helper.make_node("Cast", ["pooled"], ["zeros"], to=INT64),
        helper.make_node("ReduceSum", ["zeros"], ["zero"], keepdims=1),
        helper.make_node("Add", ["size", "zero"], ["size_now"]),
        helper.make_node("ConstantOfShape", ["size_now"], ["huge"]),
        helper.make_node("ReduceMean", ["huge"], ["soft"]),
    ]
    return tiny_plug.model_bytes(
        nodes,
        [helper.make_tensor_value_info("pooled", FLOAT, [D_VALUE])],
        [helper.make_tensor_value_info("soft", FLOAT, [1])],
        [size],
    )


def test_a_token_outside_the_encoders_table_is_an_error_of_the_plug(folder: Path) -> None:
    text = tiny_plug.tokenizer_json().replace('"[CLS]":0', '"[CLS]":999999')
    tiny_plug.swap(folder, TOKENIZER, text.replace('"ids":[0]', '"ids":[999999]').encode())
    with pytest.raises(PlugError) as caught:
        Plug(folder).encode_prompt("hello")
    assert "cannot be run" in checked(caught.value, folder)


@pytest.mark.parametrize("data", [b"", b"{}", b"[]", b"\xff\xfe", b"[" * 100_000, b'{"model":{}}'])
def test_a_tokenizer_that_is_none_is_refused(folder: Path, data: bytes) -> None:
    tiny_plug.swap(folder, TOKENIZER, data)
    assert f"{TOKENIZER} is no tokenizer" in refusal(folder)


def test_a_tokenizer_without_a_token_for_a_text_is_an_error_of_the_plug(folder: Path) -> None:
    from tokenizers import Tokenizer, models

    words = Tokenizer(models.WordLevel({"hello": 0}, unk_token="[UNK]"))
    tiny_plug.swap(folder, TOKENIZER, words.to_str().encode())
    with pytest.raises(PlugError) as caught:
        Plug(folder).encode_prompt("goodbye")
    assert "the tokenizer cannot read 'goodbye'" in checked(caught.value, folder)


@pytest.mark.parametrize("size", [0, 4 * (D_KEY + D_VALUE) - 4, 4 * (D_KEY + D_VALUE) + 4, 7])
def test_a_null_note_of_another_length_is_refused(folder: Path, size: int) -> None:
    tiny_plug.swap(folder, NULL_NOTE, bytes(size))
    assert f"{NULL_NOTE} has {size} bytes, not 4 x ({D_KEY} + {D_VALUE})" in refusal(folder)


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf, 1e30])
def test_a_null_note_that_float16_cannot_hold_is_refused(folder: Path, number: float) -> None:
    row = np.zeros(D_KEY + D_VALUE, "<f4")
    row[3] = number
    tiny_plug.swap(folder, NULL_NOTE, row.tobytes())
    assert "does not fit float16" in refusal(folder)


# --- golden vectors ---

GOLDEN_TEXTS = ("Fix a leak", "", "a party \N{PARTY POPPER}" * 20)


@pytest.mark.parametrize("query_file", [False, True], ids=["one graph", "query graph"])
def test_golden_vectors_computed_again_do_not_differ(
    tmp_path: Path, model: Path, query_file: bool
) -> None:
    folder = tiny_plug.write(tmp_path / "plug", model, max_bytes=30, query_file=query_file)
    plug = Plug(tiny_plug.add_golden(folder, GOLDEN_TEXTS))
    exact = dict.fromkeys(("key", "value", "query", "soft tokens"), 0.0)
    assert plug.golden_differences() == exact
    assert Plug(zipped(folder)).golden_differences() == exact


@pytest.mark.parametrize("at", range(4), ids=["key", "value", "query", "soft tokens"])
def test_one_changed_golden_number_shows_where_it_is(folder: Path, at: int) -> None:
    tiny_plug.add_golden(folder, GOLDEN_TEXTS)
    sizes = [D_KEY, D_VALUE, D_KEY, N_SOFT * tiny_gguf.N_EMBD]
    data = np.frombuffer((folder / GOLDEN).read_bytes(), "<f4").copy()
    # In the second text's vectors.
    part = data[sum(sizes) + sum(sizes[:at]) :][: sizes[at]]
    part[sizes[at] // 2] += 0.25
    tiny_plug.swap(folder, GOLDEN, data.tobytes())
    found = Plug(folder).golden_differences()
    assert found is not None
    assert [i for i, difference in enumerate(found.values()) if difference] == [at]
    rows = data.reshape(len(GOLDEN_TEXTS), -1)[:, sum(sizes[:at]) :][:, : sizes[at]]
    assert [*found.values()][at] == pytest.approx(0.25 / np.abs(rows).max(), rel=1e-4)


def test_kept_soft_tokens_are_among_the_golden_vectors(tmp_path: Path, model: Path) -> None:
    folder = tiny_plug.write(tmp_path / "plug", model, n_kept=2)
    found = Plug(tiny_plug.add_golden(folder, GOLDEN_TEXTS)).golden_differences()
    assert found == dict.fromkeys(("key", "value", "query", "soft tokens", "kept soft tokens"), 0)
    rng = np.random.default_rng(3)
    tiny_plug.swap(
        folder, tiny_plug.KEPT, tiny_plug.projector_graph(rng, tiny_gguf.N_EMBD, n_soft=2)
    )
    changed = Plug(folder).golden_differences()
    assert changed is not None
    assert [name for name, difference in changed.items() if difference] == ["kept soft tokens"]


def test_a_graph_of_kept_soft_tokens_gives_as_many_as_the_manifest_says(
    tmp_path: Path, model: Path
) -> None:
    folder = tiny_plug.write(tmp_path / "plug", model, n_kept=2)
    tiny_plug.edit(folder, lambda raw: raw["kept"].update(n_soft=3))
    with pytest.raises(PlugError, match="output soft is"):
        Plug(folder).project_kept(np.zeros(D_VALUE, np.float32))


def test_a_plug_without_golden_vectors_has_none_to_compare(folder: Path) -> None:
    assert Plug(folder).golden_differences() is None


@pytest.mark.parametrize("change", [-4, 4, 1, -1])
def test_a_golden_file_of_another_size_than_its_texts_is_refused(folder: Path, change: int) -> None:
    tiny_plug.add_golden(folder, GOLDEN_TEXTS)
    data = (folder / GOLDEN).read_bytes()
    tiny_plug.swap(folder, GOLDEN, data[:change] if change < 0 else data + bytes(change))
    width = 2 * D_KEY + D_VALUE + N_SOFT * tiny_gguf.N_EMBD
    wanted = f"{GOLDEN} has {len(data) + change} bytes, not 4 x 3 texts x {width}"
    assert wanted in refusal(folder)


@pytest.mark.parametrize("number", [np.nan, np.inf])
def test_a_golden_number_that_is_not_finite_is_refused(folder: Path, number: float) -> None:
    tiny_plug.add_golden(folder, GOLDEN_TEXTS, error=number)
    assert f"{GOLDEN} holds a number that is not finite" in refusal(folder)


def test_a_query_graph_that_takes_bytes_is_refused(tmp_path: Path, model: Path) -> None:
    folder = tiny_plug.write(tmp_path / "plug", model, query_file=True)
    rng = np.random.default_rng(0)
    graph = tiny_plug.encoder_graph(rng, with_bytes=True, gives=("query",))
    tiny_plug.swap(folder, QUERY_ENCODER, graph)
    assert f"{QUERY_ENCODER}: the graph takes ['bytes', 'ids'], not ['ids']" in refusal(folder)


# --- the model it was made for ---


def test_another_model_is_refused_with_both_sides_named(folder: Path, tmp_path: Path) -> None:
    other = tiny_gguf.write(tmp_path / "other.gguf", seed=1)
    found = tiny_plug.model_fingerprint(other)
    plug = Plug(folder)
    with pytest.raises(PlugError) as caught:
        plug.check_model(found, other)
    message = str(caught.value)
    wanted = plug.manifest.llm.embedding_sha256[:12]
    assert f"wanted {wanted}, found {found.embedding_sha256[:12]}" in message
    assert str(other) in message
    assert "plug tiny-0 was made for tiny" in message


def test_its_own_model_is_accepted(folder: Path, model: Path) -> None:
    Plug(folder).check_model(tiny_plug.model_fingerprint(model), model)


def test_an_empty_zip_misses_its_manifest(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    zipfile.ZipFile(buffer, "w").close()
    (tmp_path / "empty.zip").write_bytes(buffer.getvalue())
    assert "plug.json is missing" in refusal(tmp_path / "empty.zip")
