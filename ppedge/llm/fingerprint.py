"""What identifies a language model, so that a plug can refuse one it was not made for."""

from __future__ import annotations

import hashlib
import struct
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ppedge.errors import ModelError
from ppedge.llm.gguf import Gguf

_LENGTH: Final = struct.Struct("<I")
_SIZE: Final = struct.Struct("<Q")
_TOKENIZER_KEYS: Final = (
    "tokenizer.ggml.model",
    "tokenizer.ggml.pre",
    "tokenizer.ggml.tokens",
    "tokenizer.ggml.token_type",
    "tokenizer.ggml.scores",
    "tokenizer.ggml.merges",
)
_SAMPLE_ROWS: Final = 64


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """What a plug must find in a language model to fit it.

    Attributes:
        architecture: ``general.architecture``.
        n_embd: width of a token embedding.
        n_vocab: number of tokens.
        tokenizer_sha256: hex; over each of ``tokenizer.ggml.`` model, pre, tokens, token_type,
            scores, merges that the file has, in this order: the key's length (uint32 LE), the
            key, the value's length (uint64 LE), the value's bytes as they lie in the file.
        embedding_sha256: hex; over the float32 LE values of the dequantised embedding rows
            ``i * n_rows // 64`` for i in 0..63.
    """

    architecture: str
    n_embd: int
    n_vocab: int
    tokenizer_sha256: str
    embedding_sha256: str

    def to_json(self) -> dict[str, str | int]:
        """Return the fields as JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: object) -> Fingerprint:
        """Read what ``to_json`` wrote.

        Raises:
            ModelError: a field is missing, unknown, or of the wrong type.
        """
        if not isinstance(value, dict):
            raise ModelError(f"a model fingerprint must be an object, not {type(value).__name__}")
        wanted = {field.name: str(field.type) for field in fields(cls)}
        if odd := sorted(map(str, wanted.keys() ^ value.keys())):
            raise ModelError(f"a model fingerprint has missing or unknown fields: {', '.join(odd)}")
        for name, kind in wanted.items():
            if type(value[name]).__name__ != kind:
                raise ModelError(f"model fingerprint field {name} must be {kind}")
        return cls(**value)

    def mismatches(self, other: Fingerprint) -> list[str]:
        """Compare what was wanted (self) with what was found (other).

        Returns:
            One line per differing field, naming both sides; empty when they are the same model.
        """
        names = {"tokenizer_sha256": "tokenizer", "embedding_sha256": "embedding rows"}
        lines = []
        for field in fields(self):
            mine, theirs = getattr(self, field.name), getattr(other, field.name)
            if mine != theirs:
                # Twelve digits are enough to tell two files apart by eye.
                cut = 12 if field.name in names else None
                label = names.get(field.name, field.name)
                lines.append(f"{label}: wanted {str(mine)[:cut]}, found {str(theirs)[:cut]}")
        return lines


def fingerprint(path: str | Path | Gguf) -> Fingerprint:
    """Identify a model from its GGUF file alone, without loading it.

    Args:
        path: a GGUF file, or one already open.

    Raises:
        ModelError: the file cannot be read as a GGUF language model.
    """
    if not isinstance(path, Gguf):
        with Gguf(path) as gguf:
            return fingerprint(gguf)
    n_embd, _ = path.embedding.shape
    rows = sampled_rows(path).astype("<f4", copy=False)
    return Fingerprint(
        architecture=path.architecture,
        n_embd=n_embd,
        n_vocab=path.n_vocab,
        tokenizer_sha256=_hash_tokenizer(path),
        embedding_sha256=hashlib.sha256(rows.tobytes()).hexdigest(),
    )


def sampled_rows(gguf: Gguf) -> NDArray[np.float32]:
    """The embedding rows that a fingerprint has a hash of, dequantised: float32 [64, n_embd]."""
    _, n_rows = gguf.embedding.shape
    return gguf.embedding_rows([i * n_rows // _SAMPLE_ROWS for i in range(_SAMPLE_ROWS)])


def _hash_tokenizer(gguf: Gguf) -> str:
    digest = hashlib.sha256()
    for key in _TOKENIZER_KEYS:
        value = gguf.raw(key)
        if value is not None:
            name = key.encode()
            digest.update(_LENGTH.pack(len(name)) + name + _SIZE.pack(len(value)))
            digest.update(value)
    return digest.hexdigest()
