"""A model file is hostile input: whatever is in it, an error comes back and the process lives."""

from __future__ import annotations

import contextlib
import os
import random
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ppedge.errors import ModelError
from ppedge.llm.gguf import Gguf
from ppedge.llm.llm import LLM
from tests import tiny_gguf

MUTANTS = 400
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return tiny_gguf.write(tmp_path_factory.mktemp("whole") / "model.gguf").read_bytes()


def write(folder: Path, data: bytes) -> Path:
    path = folder / "model.gguf"
    path.write_bytes(data)
    return path


def overwritten(path: Path, key: str, value: bytes) -> Path:
    """Replace the first bytes of one metadata value."""
    with Gguf(path) as gguf:
        start = gguf._spans[key].start
    data = bytearray(path.read_bytes())
    data[start : start + len(value)] = value
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", r"not a GGUF file \(it is empty\)"),
        (b"GG", r"not a GGUF file \(it begins with b'GG'\)"),
        (b"PK\x03\x04" * 100, r"not a GGUF file \(it begins with b'PK"),
        (b"GGUF", "header runs past the end"),
        (b"GGUF" + struct.pack("<I", 1) + bytes(16), "version 1 GGUF files are not"),
        (b"GGUF" + struct.pack(">I", 3) + bytes(16), "big-endian GGUF files are not supported"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 0), r"does not name its general\.architecture"),
        (b"GGUF" + struct.pack("<IQQ", 3, 2**63, 2**63), "header runs past the end"),
        (b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 2**60), "claims 1152921504606846976 bytes"),
    ],
)
def test_a_file_that_is_no_model_says_why(tmp_path: Path, data: bytes, message: str) -> None:
    path = write(tmp_path, data)
    with pytest.raises(ModelError, match=message) as caught:
        LLM(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_a_missing_file_says_so(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"nowhere\.gguf: no such file"):
        LLM(tmp_path / "nowhere.gguf")


def test_a_directory_says_so(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"is a directory; give the \.gguf file itself"):
        LLM(tmp_path)


@pytest.mark.parametrize("share", [0.001, 0.01, 0.1, 0.5, 0.999])
def test_a_download_cut_short_says_so(tmp_path: Path, whole: bytes, share: float) -> None:
    path = write(tmp_path, whole[: int(len(whole) * share)])
    with pytest.raises(ModelError, match=r"(cut short|incomplete).*download it again"):
        LLM(path)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("llama.block_count", struct.pack("<I", 0), "block_count is 0, not 1 to 512"),
        ("llama.block_count", struct.pack("<I", 99999), "block_count is 99999"),
        ("llama.block_count", struct.pack("<I", 3), "tensor 'blk.2.attn_norm.weight' not"),
        ("llama.attention.head_count_kv", struct.pack("<I", 2**31 + 4), "kv is 2147483652"),
        ("llama.attention.layer_norm_rms_epsilon", struct.pack("<f", -1), "epsilon is -1"),
        ("llama.attention.layer_norm_rms_epsilon", struct.pack("<f", float("nan")), "is nan"),
        ("llama.embedding_length", struct.pack("<I", 32), "cannot load this model"),
        ("general.architecture", struct.pack("<Q", 5) + b"lla\0a", "block_count is None"),
        ("general.architecture", struct.pack("<Q", 5) + b"xxxxx", "xxxxx.block_count is None"),
    ],
)
def test_metadata_that_llama_cpp_aborts_on_is_refused(
    tmp_path: Path, whole: bytes, key: str, value: bytes, message: str
) -> None:
    with pytest.raises(ModelError, match=message):
        LLM(overwritten(write(tmp_path, whole), key, value))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (b"<0x41>", b"<0x42>", "two tokens have the same text"),
        (b"<0x41>", b"-0x41-", "no token for the byte 0x41"),
        (b"llama.block_count", b"llama.block_kount", "block_count is None"),
        (b"token_embd.weight", b"token_emdb.weight", "no token embedding matrix"),
        (b"blk.0.attn_q.weight", b"blk.0.attn_k.weight", "'blk.0.attn_k.weight' comes twice"),
        (b"llama.embedding_length", b"llama.feed_forward_len", "cannot load this model"),
        (b"tokenizer.ggml.tokens", b"tokenizer.ggml.tonkes", "no tokenizer.ggml.tokens"),
    ],
)
def test_a_damaged_name_is_refused(
    tmp_path: Path, whole: bytes, old: bytes, new: bytes, message: str
) -> None:
    assert whole.count(old) == 1
    with pytest.raises(ModelError, match=message):
        LLM(write(tmp_path, whole.replace(old, new)))


def test_rope_sections_wider_than_a_head_are_refused(tmp_path: Path) -> None:
    path = tiny_gguf.write(tmp_path / "qwen2vl.gguf", "qwen2vl")
    sections = struct.pack("<IQ4i", 5, 4, 2, 3, 300, 0)
    with pytest.raises(ModelError, match=r"sections \[2, 3, 300, 0\] do not fit heads of 16"):
        LLM(overwritten(path, "qwen2vl.rope.dimension_sections", sections))


def test_a_part_of_a_split_model_says_how_to_join(tmp_path: Path, whole: bytes) -> None:
    with Gguf(write(tmp_path, whole)) as gguf:
        key, value = "general.architecture", gguf.raw("general.architecture") or b""
    split = struct.pack("<Q", 11) + b"split.count" + struct.pack("<IH", 2, 2)
    header = b"GGUF" + struct.pack("<IQQ", 3, 0, 2)
    named = struct.pack("<Q", len(key)) + key.encode() + struct.pack("<I", 8) + value
    with pytest.raises(ModelError, match="llama-gguf-split --merge"):
        LLM(write(tmp_path, header + named + split))


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_any_bytes_are_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, whole: bytes, data: st.DataObject
) -> None:
    mutant = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.integers(0, 12_000))
        mutant[at : at + 1] = data.draw(st.binary(max_size=9))
    path = tmp_path_factory.getbasetemp() / "mutant.gguf"
    path.write_bytes(mutant)
    with contextlib.suppress(ModelError), Gguf(path) as gguf:
        for key in gguf.keys:
            gguf.get(key)
        gguf.embedding_rows([0, gguf.embedding.shape[1] - 1])


@pytest.mark.parametrize("architecture", ["llama", "gemma2", "qwen2vl", "t5"])
def test_no_damage_ends_the_process(tmp_path: Path, architecture: str) -> None:
    """Loads mutants in a process of its own, which must come to its end."""
    path = tiny_gguf.write(tmp_path / "model.gguf", architecture)
    done = subprocess.run(
        [sys.executable, __file__, str(path), str(MUTANTS)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([*sys.path, str(ROOT)])},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    loaded, refused = map(int, done.stdout.split())
    assert loaded + refused == MUTANTS
    assert min(loaded, refused) > MUTANTS // 20


def _mutate(whole: bytes, header: int, seed: int) -> bytes:
    chance = random.Random(seed)
    mutant = bytearray(whole)
    for _ in range(chance.choice([1, 1, 2, 8])):
        # The numbers that shape the model stand at both ends of the header, around the vocabulary.
        near = (24, 600) if chance.random() < 0.6 else (header - 2500, header)
        at = chance.randrange(*near)
        mutant[at] = chance.choice([0, 255, mutant[at] ^ (1 << chance.randrange(8))])
    return bytes(mutant)


def _load_mutants(path: Path, count: int) -> None:
    from ppedge.llm.segments import Text

    whole = path.read_bytes()
    with Gguf(path) as gguf:
        header = min(tensor.start for tensor in gguf.tensors.values())
    loaded = 0
    for seed in range(count):
        path.write_bytes(_mutate(whole, header, seed))
        try:
            with LLM(path, n_ctx=64, n_threads=1) as llm:
                llm.score([Text("the e")], ["ab"])
            loaded += 1
        except ModelError:
            pass
    sys.stdout.write(f"{loaded} {count - loaded}")


if __name__ == "__main__":
    _load_mutants(Path(sys.argv[1]), int(sys.argv[2]))
