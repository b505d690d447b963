"""Every call into llama.cpp; the rest of ppedge never sees a pointer (``_ggml.py`` has ggml's).

llama.cpp aborts the process on some misuse, so each wrapper checks what it passes on, and turns
a failure into a ModelError that carries llama.cpp's own words.
Return codes and batch rules: llama.cpp's ``include/llama.h``.
"""

from __future__ import annotations

import atexit
import ctypes
import os
import threading
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ppedge._ggml import C, Cancel, abort_when_set, because, log
from ppedge.errors import ModelError

# llama_model_rope_type() values whose embedding rows carry four positions each.
_MULTI_ROPE: Final = (8, 40)
_NO_ROOM: Final = 1
_ABORTED: Final = 2
_POOLING_NONE: Final = 0
_PENALTY_WINDOW: Final = 64
_EXIT_WAIT_SECONDS: Final = 2.0


class Aborted(Exception):
    """A decode ended early because its Cancel was set."""


class Model:
    """A loaded model with one context.

    Attributes:
        lock: to be held by whoever uses the context or closes the model.
        n_vocab, n_embd: sizes of the token embedding matrix.
        n_ctx: positions that fit; n_batch: positions that one call takes.
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

    _context: Any = None

    def __init__(
        self, path: Path, *, n_ctx: int, n_batch: int, n_threads: int, verbose: bool
    ) -> None:
        self.lock = threading.RLock()
        self._path = path
        self._model: Any = None
        self._cancel = Cancel()
        self._loud = int(verbose)
        log.loud += self._loud
        log.install()
        _live.add(self)
        try:
            self._load()
            self._make_context(n_ctx, n_batch, n_threads)
        except BaseException:
            self.close()
            raise

    def _load(self) -> None:
        with log.complaints() as lines:
            self._model = C.llama_model_load_from_file(os.fsencode(self._path), _model_params())
        if not self._model:
            raise ModelError(f"{self._path}: llama.cpp cannot load this model{because(lines)}")
        self._vocab = C.llama_model_get_vocab(self._model)
        self.n_vocab = int(C.llama_vocab_n_tokens(self._vocab))
        self.n_embd = int(C.llama_model_n_embd(self._model))
        wide = getattr(C, "llama_model_n_embd_inp", C.llama_model_n_embd)
        self._row_width = int(wide(self._model))
        self.has_encoder = bool(C.llama_model_has_encoder(self._model))
        self._row_positions = 4 if C.llama_model_rope_type(self._model) in _MULTI_ROPE else 1
        start = int(C.llama_model_decoder_start_token(self._model))
        self.decoder_start = start if start >= 0 else max(0, int(C.llama_vocab_bos(self._vocab)))
        diffuses = getattr(C, "llama_model_is_diffusion", None)
        if not C.llama_model_has_decoder(self._model) or (diffuses and diffuses(self._model)):
            raise ModelError(f"{self._path}: this model does not write text token by token")

    def _make_context(self, n_ctx: int, n_batch: int, n_threads: int) -> None:
        trained = int(C.llama_model_n_ctx_train(self._model))
        n_ctx = min(n_ctx, trained) if trained > 0 else n_ctx
        # An encoder attends both ways, so it must see its whole input at once.
        n_batch = n_ctx if self.has_encoder else min(n_batch, n_ctx)
        params = C.llama_context_default_params()
        params.n_ctx, params.n_batch, params.n_ubatch = n_ctx, n_batch, n_batch
        params.n_threads = params.n_threads_batch = n_threads
        params.no_perf = True
        # With a pruned window, the kept beginning of an earlier prompt could not be trusted.
        params.swa_full = True
        with log.complaints() as lines:
            self._context = C.llama_init_from_model(self._model, params)
        if not self._context:
            raise ModelError(
                f"{self._path}: llama.cpp cannot make a context of {n_ctx} positions"
                + because(lines)
            )
        if C.llama_pooling_type(self._context) > _POOLING_NONE:
            raise ModelError(f"{self._path}: this model embeds text; it cannot write any")
        self.n_ctx = min(n_ctx, int(C.llama_n_ctx(self._context)))
        self.n_batch = min(n_batch, int(C.llama_n_batch(self._context)))
        self._memory = C.llama_get_memory(self._context)

    def close(self) -> None:
        """Free the model; safe to call twice."""
        if self._context:
            C.llama_free(self._context)
        if self._model:
            C.llama_model_free(self._model)
        self._context = self._model = None
        log.loud -= self._loud
        self._loud = 0

    def __del__(self) -> None:
        if not self.closed:
            self.close()

    @property
    def closed(self) -> bool:
        """Whether ``close`` was called."""
        return self._context is None

    def ensure_open(self) -> None:
        """Raise a ModelError if ``close`` was called."""
        if self.closed:
            raise ModelError(f"{self._path}: this model has been closed")

    def stop(self) -> None:
        """End a decode that runs on another thread."""
        self._cancel.set()

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

    def is_end(self, token: int) -> bool:
        """Whether ``token`` ends a generation."""
        return bool(C.llama_vocab_is_eog(self._vocab, token))

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

    # --- decoding -----------------------------------------------------------------------------

    def watch(self, cancel: Cancel) -> None:
        """Let ``cancel`` abort the decodes that follow, until another takes its place."""
        self._cancel = cancel
        C.llama_set_abort_callback(self._context, abort_when_set, cancel.address)

    def decode_tokens(self, ids: Sequence[int], at: int, outputs: int) -> None:
        """Decode 1..n_batch tokens at positions ``at``...; logits for the last ``outputs``."""
        self._submit_tokens(C.llama_decode, ids, at, outputs)

    def decode_rows(self, rows: NDArray[np.float32], at: int, outputs: int) -> None:
        """Decode float32 [1..n_batch, n_embd] input rows, scaled for this architecture."""
        self._submit_rows(C.llama_decode, rows, at, outputs)

    def encode_tokens(self, ids: Sequence[int]) -> None:
        """Run the encoder over tokens; the decoder then attends to them."""
        self.clear()
        self._submit_tokens(C.llama_encode, ids, 0, len(ids))

    def encode_rows(self, rows: NDArray[np.float32]) -> None:
        """Run the encoder over float32 [1..n_batch, n_embd]; the decoder then attends to it."""
        self.clear()
        self._submit_rows(C.llama_encode, rows, 0, len(rows))

    def _submit_tokens(self, call: Any, ids: Sequence[int], at: int, outputs: int) -> None:
        tokens = np.asarray(ids, np.int32)
        positions = np.arange(at, at + len(tokens), dtype=np.int32)
        batch = C.llama_batch(
            n_tokens=len(tokens),
            token=tokens.ctypes.data_as(ctypes.POINTER(C.llama_token)),
            pos=positions.ctypes.data_as(ctypes.POINTER(C.llama_pos)),
        )
        self._submit(call, batch, outputs)

    def _submit_rows(self, call: Any, rows: NDArray[np.float32], at: int, outputs: int) -> None:
        count = len(rows)
        # Models with deepstack inputs take wider rows; zeros there are what text has.
        wide = np.zeros((count, self._row_width), np.float32)
        wide[:, : rows.shape[1]] = rows
        # Multi-axis RoPE wants every axis' positions, axis by axis; text repeats p, p, p, 0.
        positions = np.zeros((self._row_positions, count), np.int32)
        positions[: max(1, self._row_positions - 1)] = np.arange(at, at + count)
        batch = C.llama_batch(
            n_tokens=count,
            embd=wide.ctypes.data_as(ctypes.POINTER(ctypes.c_float)),
            pos=positions.ctypes.data_as(ctypes.POINTER(C.llama_pos)),
        )
        self._submit(call, batch, outputs)

    def _submit(self, call: Any, batch: Any, outputs: int) -> None:
        count = int(batch.n_tokens)
        if not 0 < count <= self.n_batch:
            raise ValueError(f"a batch holds 1 to {self.n_batch} positions, not {count}")
        wanted = np.zeros(count, np.int8)
        wanted[count - outputs :] = 1
        batch.logits = wanted.ctypes.data_as(ctypes.POINTER(ctypes.c_int8))
        self._batch_size = count
        with log.complaints() as lines:
            code = call(self._context, batch)
        if code == _ABORTED or (code != 0 and self._cancel.is_set()):
            raise Aborted
        if code == _NO_ROOM:
            raise ModelError(f"the context has no room for {count} more positions")
        if code != 0:
            raise ModelError(f"llama.cpp could not decode (code {code}){because(lines)}")

    def logits(self, back: int = 0) -> NDArray[np.float32]:
        """Return logits of the last batch, float32 [n_vocab], valid until the next decode.

        Args:
            back: how many positions before the batch's last one.

        Raises:
            ModelError: one of them is not a number.
        """
        row = C.llama_get_logits_ith(self._context, self._batch_size - 1 - back)
        if not row:
            raise ModelError("llama.cpp returned no logits")
        found: NDArray[np.float32] = np.ctypeslib.as_array(row, (self.n_vocab,))
        if np.isnan(found).any():
            raise ModelError("the model computed logits that are not numbers (NaN)")
        return found

    def truncate(self, keep: int) -> int:
        """Keep the first ``keep`` positions if the architecture can, else none.

        Returns:
            How many positions the context holds now.
        """
        if keep > 0 and C.llama_memory_seq_rm(self._memory, 0, keep, -1):
            first = int(C.llama_memory_seq_pos_min(self._memory, 0))
            last = int(C.llama_memory_seq_pos_max(self._memory, 0))
            if (first, last) == (0, keep - 1):
                return keep
        self.clear()
        return 0

    def clear(self) -> None:
        """Forget every position."""
        C.llama_memory_clear(self._memory, True)


class Sampler:
    """llama.cpp's sampler chain: penalties, top-k, top-p, min-p, temperature, then a draw.

    Args:
        model: whose logits are sampled.
        temperature: 0 takes the likeliest token.
        top_k: 0 keeps all.
        top_p: 1 keeps all.
        min_p: 0 keeps all.
        repeat_penalty: 1 is none; looks at the last 64 sampled tokens.
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
        seed: int,
    ) -> None:
        self._model = model
        self._chain = C.llama_sampler_chain_init(C.llama_sampler_chain_default_params())
        if repeat_penalty != 1:
            self._add(_penalties(model.n_vocab, repeat_penalty))
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

    def _add(self, sampler: Any) -> None:
        C.llama_sampler_chain_add(self._chain, sampler)

    def sample(self) -> int:
        """Draw the token after the last decoded position.

        Raises:
            ModelError: the logits are not numbers; llama.cpp would abort on them.
        """
        self._model.logits()
        return int(C.llama_sampler_sample(self._chain, self._model._context, -1))

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
