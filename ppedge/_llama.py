"""A loaded model and its vocabulary, and the sampler.

Here, in ``_session.py`` (contexts) and in ``_ggml.py`` is every call into llama.cpp; the rest of
ppedge never sees a pointer.
"""

from __future__ import annotations

import atexit
import ctypes
import os
import threading
import weakref
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ppedge._ggml import C, Cancel, because, log
from ppedge._session import Session
from ppedge.errors import ModelError
from ppedge.sampling import Sampling

_PENALTY_WINDOW: Final = 64
# DRY ("don't repeat yourself"): where the last n tokens stand earlier too, the token that followed
# them there loses multiplier * base ** (n - allowed) from its logit, for n >= allowed. The figures
# are those of its author (oobabooga/text-generation-webui#5677).
_DRY_BASE: Final = 1.75
_DRY_ALLOWED: Final = 2
_DRY_WINDOW: Final = 1024
_EXIT_WAIT_SECONDS: Final = 2.0


class Model:
    """A loaded model with a session, which is there as long as the model is.

    Attributes:
        lock: to be held by whoever uses a session or closes the model.
        session: what all calls but a beam search decode in.
        cancel: ends the decode in progress.
        n_vocab, n_embd: sizes of the token embedding matrix.
        n_layer: layers of the model.
        row_width: numbers in a row of embedding input.
        has_encoder: whether prompts go to an encoder.
        decoder_start: the token that the decoder behind an encoder begins with.

    Args:
        path: a GGUF file whose header has been checked.
        n_ctx: positions wanted; at most the model's training length is given.
        n_batch: positions decoded at once.
        n_threads: CPU threads.
        verbose: let llama.cpp write to stderr.

    Raises:
        ModelError: llama.cpp refused the file or the context.
    """

    session: Session
    pointer: Any = None

    def __init__(
        self, path: Path, *, n_ctx: int, n_batch: int, n_threads: int, verbose: bool
    ) -> None:
        self.lock = threading.RLock()
        self.path = path
        self.n_threads = n_threads
        self.cancel = Cancel()
        self._loud = int(verbose)
        log.loud += self._loud
        log.install()
        _live.add(self)
        try:
            self._load()
            self.session = self._open_session(n_ctx, n_batch)
        except BaseException:
            self.close()
            raise

    def _load(self) -> None:
        with log.complaints() as lines:
            self.pointer = C.llama_model_load_from_file(os.fsencode(self.path), _model_params())
        if not self.pointer:
            raise ModelError(f"{self.path}: llama.cpp cannot load this model{because(lines)}")
        self._vocab = C.llama_model_get_vocab(self.pointer)
        self.n_vocab = int(C.llama_vocab_n_tokens(self._vocab))
        self.n_embd = int(C.llama_model_n_embd(self.pointer))
        self.n_layer = int(C.llama_model_n_layer(self.pointer))
        wide = getattr(C, "llama_model_n_embd_inp", C.llama_model_n_embd)
        self.row_width = int(wide(self.pointer))
        self.has_encoder = bool(C.llama_model_has_encoder(self.pointer))
        start = int(C.llama_model_decoder_start_token(self.pointer))
        self.decoder_start = start if start >= 0 else max(0, int(C.llama_vocab_bos(self._vocab)))
        diffuses = getattr(C, "llama_model_is_diffusion", None)
        if not C.llama_model_has_decoder(self.pointer) or (diffuses and diffuses(self.pointer)):
            raise ModelError(f"{self.path}: this model does not write text token by token")

    def _open_session(self, n_ctx: int, n_batch: int) -> Session:
        trained = int(C.llama_model_n_ctx_train(self.pointer))
        n_ctx = min(n_ctx, trained) if trained > 0 else n_ctx
        # An encoder attends both ways, so it must see its whole input at once.
        n_batch = n_ctx if self.has_encoder else min(n_batch, n_ctx)
        return Session(self, n_ctx=n_ctx, n_batch=n_batch)

    @cached_property
    def second_session(self) -> Session:
        """A session like the first, made when it is first asked for."""
        return Session(self, n_ctx=self.session.n_ctx, n_batch=self.session.n_batch)

    def close(self) -> None:
        """Free the model; safe to call twice."""
        for name in {"session", "second_session"} & vars(self).keys():
            getattr(self, name).close()
        if self.pointer:
            C.llama_model_free(self.pointer)
        self.pointer = None
        log.loud -= self._loud
        self._loud = 0

    def __del__(self) -> None:
        if not self.closed:
            self.close()

    @property
    def closed(self) -> bool:
        """Whether ``close`` was called."""
        return self.pointer is None

    def ensure_open(self) -> None:
        """Raise a ModelError if ``close`` was called."""
        if self.closed:
            raise ModelError(f"{self.path}: this model has been closed")

    def stop(self) -> None:
        """End a decode that runs on another thread."""
        self.cancel.set()

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
            count = C.llama_tokenize(self._vocab, data, len(data), out, room, False, special)
            if count >= 0:
                return [int(token) for token in ids[:count]]
            room = -count

    def piece(self, token: int) -> bytes:
        """Return the bytes that ``token`` stands for; a control token stands for none."""
        size = 64
        while True:
            buffer = ctypes.create_string_buffer(size)
            count = C.llama_token_to_piece(self._vocab, token, buffer, size, 0, False)
            if count >= 0:
                return buffer.raw[:count]
            size = -count

    @property
    def bos_and_eos(self) -> tuple[str, str]:
        """How the vocabulary writes its BOS and EOS; "" where it has none."""
        tokens = (C.llama_vocab_bos(self._vocab), C.llama_vocab_eos(self._vocab))
        texts = (
            C.llama_vocab_get_text(self._vocab, token) if token >= 0 else b"" for token in tokens
        )
        bos, eos = (text.decode("utf-8", "replace") for text in texts)
        return bos, eos

    def is_end(self, token: int) -> bool:
        """Whether ``token`` ends a generation."""
        return bool(C.llama_vocab_is_eog(self._vocab, token))

    @cached_property
    def ends(self) -> frozenset[int]:
        """Every token that ends a generation."""
        return frozenset(filter(self.is_end, range(self.n_vocab)))

    @property
    def end(self) -> int | None:
        """EOS, or what llama.cpp takes for the end of a turn where there is none."""
        found = (int(token(self._vocab)) for token in (C.llama_vocab_eos, C.llama_vocab_eot))
        return next((token for token in found if token >= 0), None)

    def frame(self, ids: Sequence[int]) -> tuple[list[int], list[int]]:
        """Return the tokens that the model's metadata asks for before and after a prompt.

        Args:
            ids: the prompt's tokens, -1 where it has none; a BOS already there is not doubled.
        """
        bos, eos = int(C.llama_vocab_bos(self._vocab)), int(C.llama_vocab_eos(self._vocab))
        wants_bos = bos >= 0 and C.llama_vocab_get_add_bos(self._vocab)
        # A closing EOS belongs to an encoder's input; a decoder would stop on it.
        wants_eos = self.has_encoder and eos >= 0 and C.llama_vocab_get_add_eos(self._vocab)
        before = [bos] if wants_bos and list(ids[:1]) != [bos] else []
        return before, [eos] if wants_eos and list(ids[-1:]) != [eos] else []


class Sampler:
    """llama.cpp's sampler chain: penalties, DRY, top-k, top-p, min-p, temperature, then a draw.

    Args:
        model: whose logits are sampled.
        temperature: 0 takes the likeliest token.
        top_k: 0 keeps all.
        top_p: 1 keeps all.
        min_p: 0 keeps all.
        repeat_penalty: 1 is none; looks at the last 64 sampled tokens.
        dry_multiplier: 0 is none; looks at the last 1024 sampled tokens.
        seed: 0..2**32 - 2.
    """

    def __init__(
        self,
        model: Model,
        *,
        temperature: float,
        top_k: int,
        top_p: float,
        min_p: float,
        repeat_penalty: float,
        dry_multiplier: float,
        seed: int,
    ) -> None:
        self._session = model.session
        self._candidates = np.zeros(model.n_vocab, np.dtype(C.llama_token_data))
        self._chain = C.llama_sampler_chain_init(C.llama_sampler_chain_default_params())
        if repeat_penalty != 1:
            self._add(_penalties(model.n_vocab, repeat_penalty))
        if dry_multiplier > 0:
            self._add(_dry(model, dry_multiplier))
        if temperature == 0:
            self._add(C.llama_sampler_init_greedy())
            return
        if top_k > 0:
            self._add(C.llama_sampler_init_top_k(top_k))
        if top_p < 1:
            self._add(C.llama_sampler_init_top_p(top_p, 1))
        if min_p > 0:
            self._add(C.llama_sampler_init_min_p(min_p, 1))
        self._add(C.llama_sampler_init_temp(temperature))
        self._add(C.llama_sampler_init_dist(seed))

    @classmethod
    def of(cls, model: Model, sampling: Sampling, seed: int) -> Sampler:
        """The chain for some settings, with a seed of its own."""
        return cls(
            model,
            temperature=sampling.temperature,
            top_k=sampling.top_k,
            top_p=sampling.top_p,
            min_p=sampling.min_p,
            repeat_penalty=sampling.repeat_penalty,
            dry_multiplier=sampling.dry_multiplier,
            seed=seed,
        )

    def _add(self, sampler: Any) -> None:
        C.llama_sampler_chain_add(self._chain, sampler)

    def sample(self) -> int:
        """Draw the token after the last decoded position.

        Raises:
            ModelError: the logits are not numbers; llama.cpp would abort on them.
        """
        self._session.logits()
        return int(C.llama_sampler_sample(self._chain, self._session.pointer, -1))

    def choose(self, logits: NDArray[np.float32]) -> int:
        """Draw a token by ``logits``, float32 [n_vocab], as `sample` does by the model's own.

        Their largest must be finite; llama.cpp would abort.
        """
        candidates, size = self._candidates, len(self._candidates)
        candidates["id"] = np.arange(size)
        candidates["logit"] = logits
        candidates["p"] = 0
        array = C.llama_token_data_array(
            candidates.ctypes.data_as(C.llama_token_data_p), size, -1, False
        )
        C.llama_sampler_apply(self._chain, ctypes.byref(array))
        token = int(array.data[array.selected].id)
        C.llama_sampler_accept(self._chain, token)
        return token

    def close(self) -> None:
        """Free the chain; safe to call twice."""
        if self._chain:
            C.llama_sampler_free(self._chain)
        self._chain = None


def _penalties(n_vocab: int, repeat: float) -> Any:
    make = C.llama_sampler_init_penalties
    rest = (_PENALTY_WINDOW, repeat, 0.0, 0.0)
    # Newer llama.cpp takes the vocabulary's size first.
    return make(n_vocab, *rest) if len(make.argtypes) == 5 else make(*rest)


def _dry(model: Model, multiplier: float) -> Any:
    make = C.llama_sampler_init_dry
    rest = (multiplier, _DRY_BASE, _DRY_ALLOWED, _DRY_WINDOW, (ctypes.c_char_p * 1)(), 0)
    # Older llama.cpp takes the context's size second.
    size = (model.session.n_ctx,) if len(make.argtypes) == 8 else ()
    return make(C.llama_model_get_vocab(model.pointer), *size, *rest)


def _model_params() -> Any:
    params = C.llama_model_default_params()
    # ggml's AMX kernels crash the process on batches of many tokens (ggml-org/llama.cpp#20824;
    # seen with llama-cpp-python 0.3.36); the extra buffers are how they come into play.
    if b"AMX_INT8 = 1" in C.llama_print_system_info() and hasattr(params, "use_extra_bufts"):
        params.use_extra_bufts = False
    return params


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


log.install()
C.llama_backend_init()
atexit.register(_shut_down)
