"""What a model file must satisfy so that llama.cpp can refuse it rather than abort on it.

llama.cpp reports most damage as an error, but asserts, or throws where nobody catches, on the
things checked here; each was met by loading damaged files (``tests/llm/test_damage.py``).
"""

from __future__ import annotations

import math
from typing import Final

from ppedge.errors import ModelError
from ppedge.llm.gguf import Gguf

# LLAMA_MAX_LAYERS
_MAX_LAYERS: Final = 512
# llama.cpp multiplies sizes as 32-bit integers, where larger ones wrap around.
_MAX_SIZE: Final = 2**31


def ensure_loadable(gguf: Gguf) -> None:
    """Check the metadata of a language model before llama.cpp reads it.

    Raises:
        ModelError: the file is damaged, or is no model that writes text.
    """
    architecture = gguf.architecture
    _, n_rows = gguf.embedding.shape
    if not n_rows or not gguf.n_vocab:
        raise _damaged(gguf, "it has no tokens")
    if not gguf.get(f"{architecture}.attention.causal", True):
        raise ModelError(
            f"{gguf.path}: models of architecture {architecture!r} embed text; "
            "they cannot write any"
        )
    layers = gguf.get(f"{architecture}.block_count")
    if not isinstance(layers, int) or not 1 <= layers <= _MAX_LAYERS:
        raise _damaged(gguf, f"{architecture}.block_count is {layers!r}, not 1 to {_MAX_LAYERS}")
    _ensure_numbers(gguf, architecture)
    _ensure_rope_sections(gguf, architecture)
    _ensure_vocabulary(gguf)


def _ensure_numbers(gguf: Gguf, architecture: str) -> None:
    for key in gguf.keys:
        value = gguf.get(key) if key.startswith(f"{architecture}.") else None
        if isinstance(value, int) and abs(value) >= _MAX_SIZE:
            raise _damaged(gguf, f"{key} is {value}")
        if isinstance(value, float) and (
            not math.isfinite(value) or (key.endswith("epsilon") and value < 0)
        ):
            raise _damaged(gguf, f"{key} is {value}")


def _ensure_rope_sections(gguf: Gguf, architecture: str) -> None:
    sections = _integers(gguf, f"{architecture}.rope.dimension_sections")
    heads = max(_integers(gguf, f"{architecture}.attention.head_count"), default=0)
    widths = _integers(gguf, f"{architecture}.attention.key_length")
    width = widths[0] if widths else gguf.embedding.shape[0] // max(heads, 1)
    if sections and (min(sections) < 0 or not 0 < sum(sections) <= width):
        raise _damaged(gguf, f"rope.dimension_sections {sections} do not fit heads of {width}")


def _integers(gguf: Gguf, key: str) -> list[int]:
    value = gguf.get(key, [])
    values = value if isinstance(value, list) else [value]
    if not all(isinstance(item, int) for item in values):
        raise _damaged(gguf, f"{key} does not hold whole numbers")
    return values


def _ensure_vocabulary(gguf: Gguf) -> None:
    tokens = gguf.strings("tokenizer.ggml.tokens")
    for key in ("tokenizer.ggml.token_type", "tokenizer.ggml.scores"):
        values = gguf.get(key)
        if values is not None and (not isinstance(values, list) or len(values) != len(tokens)):
            raise _damaged(gguf, f"{key} does not have one value for each of {len(tokens)} tokens")
    # llama.cpp reads C strings, and renames the empty ones so that they differ.
    words = tokens
    if b"\0" in b"".join(tokens):
        words = [token.split(b"\0", 1)[0] for token in tokens]
    known = set(words)
    if len(known) - (b"" in known) != len(words) - words.count(b""):
        raise _damaged(gguf, "two tokens have the same text")
    if gguf.get("tokenizer.ggml.model") == "llama":
        # A character outside the vocabulary is spelled in bytes.
        for value in range(256):
            if b"<0x%02X>" % value not in known and bytes([value]) not in known:
                raise _damaged(gguf, f"its tokenizer has no token for the byte {value:#04x}")


def _damaged(gguf: Gguf, what: str) -> ModelError:
    return ModelError(f"{gguf.path}: damaged or incomplete GGUF: {what}; download it again")
