"""How an architecture takes embedding input and control vectors, found by trying."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from ppedge.errors import ModelError
from ppedge.llm.binding.ggml import Cancel
from ppedge.llm.binding.model import Model
from ppedge.llm.gguf import Gguf

# A matching scale gives the same bits on a CPU; this leaves room for a GPU's rounding.
_TOLERANCE: Final = 0.01
_SAMPLE: Final = 256


class Probe:
    """One token's logits, read in every way; needs ``model.lock`` held, and forgets what is held.

    Attributes:
        scale: what this architecture's embedding rows are multiplied by on the way in.

    Args:
        model: loaded.
        gguf: the same model's file.

    Raises:
        ModelError: the architecture treats embedding input unlike tokens.
    """

    def __init__(self, model: Model, gguf: Gguf) -> None:
        """Find the scale."""
        self._model, self._gguf = model, gguf
        self._token = self._middling_token()
        self._bare = self._logits(self._token)
        self.scale = self._find_scale()

    def ensure_steerable(self) -> None:
        """Try a control vector.

        Raises:
            ModelError: it changes nothing, as with architectures that llama.cpp does not steer.
        """
        context = self._model.context
        context.watch(Cancel())
        shape = (self._model.n_layer - 1, self._model.n_embd)
        context.steer(np.ones(shape, np.float32).tobytes())
        steered = self._logits(self._token)
        if np.array_equal(steered, self._bare):
            raise ModelError(
                f"{self._gguf.path}: llama.cpp does not steer models of architecture "
                f"{self._gguf.architecture!r} by control vectors; take a plug without one"
            )

    def _find_scale(self) -> float:
        """Find what this architecture's embedding input must be multiplied by, by trying.

        llama.cpp scales its token path and its embedding path alike on some architectures and
        not on others, and this changed between versions; a wrong scale gives fluent nonsense.
        """
        row = self._gguf.embedding_rows([self._token])
        tolerance = _TOLERANCE * float(self._bare.std())
        for scale in (np.float32(1), np.sqrt(np.float32(row.shape[1]))):
            found = self._logits(row * scale)
            if float(np.abs(found - self._bare).max()) <= tolerance:
                self._model.context.clear()
                return float(scale)
        raise ModelError(
            f"{self._gguf.path}: models of architecture {self._gguf.architecture!r} cannot take "
            "soft tokens: llama.cpp treats their embedding input unlike their tokens"
        )

    def _middling_token(self) -> int:
        """Return an ordinary token, its embedding's norm in the middle: scaling must show."""
        n_vocab = self._model.n_vocab
        ids = np.linspace(0, n_vocab - 1, min(n_vocab, _SAMPLE), dtype=np.int64)
        norms = np.linalg.norm(self._gguf.embedding_rows(ids), axis=1)
        return int(ids[np.argsort(norms)[len(norms) // 2]])

    def _logits(self, one: int | NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the logits after a single token, given as itself or as a row [1, n_embd]."""
        model, context = self._model, self._model.context
        context.clear()
        if not model.has_encoder:
            if isinstance(one, int):
                context.decode_tokens([one], 0, 1)
            else:
                context.decode_rows(one, 0, 1)
        else:
            if isinstance(one, int):
                context.encode_tokens([one])
            else:
                context.encode_rows(one)
            context.decode_tokens([model.decoder_start], 0, 1)
        return context.logits().copy()
