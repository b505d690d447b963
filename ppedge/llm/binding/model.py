"""A loaded model and its vocabulary.

Only this room, ``ppedge/llm/binding``, calls llama.cpp; the rest of ppedge never sees a pointer.
"""

from __future__ import annotations

import atexit
import ctypes
import threading
import weakref
from collections.abc import Sequence
from functools import cached_property
from typing import Final

import numpy as np

from ppedge.errors import ModelError
from ppedge.llm.binding.context import Context
from ppedge.llm.binding.ggml import C, log
from ppedge.llm.binding.weights import Weights

_EXIT_WAIT_SECONDS: Final = 2.0


class Model:
    """A loaded model with a context, which is there as long as the model is.

    Attributes:
        lock: to be held by whoever uses a context or closes the model.
        context: what all calls but those of several answers decode in.
        weights: what its contexts know of it; None once it is closed.
        n_vocab, n_embd: sizes of the token embedding matrix.
        n_layer: layers of the model.
        has_encoder: whether prompts go to an encoder.
        decoder_start: the token that the decoder behind an encoder begins with.

    Args:
        weights: of the model, which are its own from here on.
        n_ctx: positions wanted; at most the model's training length is given.
        n_batch: positions decoded at once.

    Raises:
        ModelError: llama.cpp refused the context, or the model does not write.
    """

    context: Context
    weights: Weights | None = None
    _closing = False

    def __init__(self, weights: Weights, *, n_ctx: int, n_batch: int) -> None:
        """Make a context of the weights."""
        self.lock = threading.RLock()
        self.path, self.weights = weights.path, weights
        _live.add(self)
        try:
            self._look()
            self.context = self._open_context(n_ctx, n_batch)
        except BaseException:
            self.close()
            raise

    def _look(self) -> None:
        weights = self._open_weights()
        pointer = weights.pointer
        self.vocab = C.llama_model_get_vocab(pointer)
        self.n_vocab, self.n_embd, self.n_layer = weights.n_vocab, weights.n_embd, weights.n_layer
        self.has_encoder = bool(C.llama_model_has_encoder(pointer))
        start = int(C.llama_model_decoder_start_token(pointer))
        self.decoder_start = start if start >= 0 else max(0, int(C.llama_vocab_bos(self.vocab)))
        diffuses = getattr(C, "llama_model_is_diffusion", None)
        if not C.llama_model_has_decoder(pointer) or (diffuses and diffuses(pointer)):
            raise ModelError(f"{self.path}: this model does not write text token by token")

    def _open_context(self, n_ctx: int, n_batch: int) -> Context:
        weights = self._open_weights()
        trained = int(C.llama_model_n_ctx_train(weights.pointer))
        n_ctx = min(n_ctx, trained) if trained > 0 else n_ctx
        # An encoder attends both ways, so it must see its whole input at once.
        n_batch = n_ctx if self.has_encoder else min(n_batch, n_ctx)
        return self.new_context(n_ctx=n_ctx, n_batch=n_batch)

    @cached_property
    def second_context(self) -> Context:
        """A context like the first, made when it is first asked for."""
        return self.new_context(n_ctx=self.context.n_ctx, n_batch=self.context.n_batch)

    def new_context(self, *, n_ctx: int, n_batch: int, sequences: int = 1) -> Context:
        """Return another context, to be closed by the caller; see there."""
        return Context(self._open_weights(), n_ctx=n_ctx, n_batch=n_batch, sequences=sequences)

    def close(self) -> None:
        """Free the model; safe to call twice."""
        for name in {"context", "second_context"} & vars(self).keys():
            getattr(self, name).close()
        if self.weights:
            self.weights.close()
        self.weights = None

    def __del__(self) -> None:
        """Free what was not closed."""
        if not self.closed:
            self.close()

    def begin_closing(self) -> None:
        """Have calls on other threads end soon, with the error of a closed model."""
        self._closing = True
        self.stop()

    @property
    def closed(self) -> bool:
        """Whether ``close`` was called."""
        return self.weights is None

    def ensure_open(self) -> None:
        """Raise a ModelError if ``close`` was called."""
        self._open_weights()

    def _open_weights(self) -> Weights:
        if self.weights is None or self._closing:
            raise ModelError(f"{self.path}: this model has been closed")
        return self.weights

    def stop(self) -> None:
        """End a decode that runs on another thread."""
        weights = self.weights  # Another thread may be closing the model.
        if weights:
            weights.cancel.set()

    # --- vocabulary ---------------------------------------------------------------------------

    def tokenize(self, text: str, special: bool) -> list[int]:
        """Return token ids of ``text``; ``special`` recognises control tokens in it."""
        try:
            data = text.encode()
        except UnicodeEncodeError as error:
            raise ModelError(
                f"text holds a broken character (lone surrogate) at position {error.start}"
            ) from None
        room = len(data) + 16
        if room >= 2**31:
            raise ModelError(f"text of {len(data)} bytes is too long to tokenize")
        while True:
            ids = np.empty(room, np.int32)
            out = ids.ctypes.data_as(C.llama_token_p)
            count = C.llama_tokenize(self.vocab, data, len(data), out, room, False, special)
            if count >= 0:
                return [int(token) for token in ids[:count]]
            room = -count

    def piece(self, token: int) -> bytes:
        """Return the bytes that ``token`` stands for; a control token stands for none."""
        size = 64
        while True:
            buffer = ctypes.create_string_buffer(size)
            count = C.llama_token_to_piece(self.vocab, token, buffer, size, 0, False)
            if count >= 0:
                return buffer.raw[:count]
            size = -count

    @property
    def bos_and_eos(self) -> tuple[str, str]:
        """How the vocabulary writes its BOS and EOS; "" where it has none."""
        tokens = (C.llama_vocab_bos(self.vocab), C.llama_vocab_eos(self.vocab))
        texts = (
            C.llama_vocab_get_text(self.vocab, token) if token >= 0 else b"" for token in tokens
        )
        bos, eos = (text.decode("utf-8", "replace") for text in texts)
        return bos, eos

    def is_end(self, token: int) -> bool:
        """Whether ``token`` ends a generation."""
        return bool(C.llama_vocab_is_eog(self.vocab, token))

    @cached_property
    def ends(self) -> frozenset[int]:
        """Every token that ends a generation."""
        return frozenset(filter(self.is_end, range(self.n_vocab)))

    @property
    def end(self) -> int | None:
        """EOS, or what llama.cpp takes for the end of a turn where there is none."""
        found = (int(token(self.vocab)) for token in (C.llama_vocab_eos, C.llama_vocab_eot))
        return next((token for token in found if token >= 0), None)

    def frame(self, ids: Sequence[int]) -> tuple[list[int], list[int]]:
        """Return the tokens that the model's metadata asks for before and after a prompt.

        Args:
            ids: the prompt's tokens, -1 where it has none; a BOS already there is not doubled.
        """
        bos, eos = int(C.llama_vocab_bos(self.vocab)), int(C.llama_vocab_eos(self.vocab))
        wants_bos = bos >= 0 and C.llama_vocab_get_add_bos(self.vocab)
        # A closing EOS belongs to an encoder's input; a decoder would stop on it.
        wants_eos = self.has_encoder and eos >= 0 and C.llama_vocab_get_add_eos(self.vocab)
        before = [bos] if wants_bos and list(ids[:1]) != [bos] else []
        return before, [eos] if wants_eos and list(ids[-1:]) != [eos] else []


_live: weakref.WeakSet[Model] = weakref.WeakSet()


def _shut_down() -> None:
    # Python callbacks must not be reached, and models not freed, once the interpreter is gone.
    # The locks stay taken, so that threads which still write wait instead of failing; only this
    # thread may go on, to close the same models again.
    for model in list(_live):
        model.stop()
        if model.lock.acquire(timeout=_EXIT_WAIT_SECONDS):
            model.close()
    log.remove()


atexit.register(_shut_down)
