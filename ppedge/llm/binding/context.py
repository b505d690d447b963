"""One llama.cpp context of a loaded model: positions in, logits out.

llama.cpp aborts the process on some misuse, so each wrapper checks what it passes on, and turns
a failure into a ModelError that carries llama.cpp's own words.
Return codes and batch rules: llama.cpp's ``include/llama.h``.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ppedge.errors import ModelError
from ppedge.llm.binding.ggml import C, Cancel, abort_when_set, because, ensure_threads, log
from ppedge.llm.binding.weights import Weights

# llama_model_rope_type() values whose embedding rows carry four positions each.
_MULTI_ROPE: Final = (8, 40)
_NO_ROOM: Final = 1
_ABORTED: Final = 2
_NO_FLASH_ATTENTION: Final = 0  # LLAMA_FLASH_ATTN_TYPE_DISABLED of llama.h
_POOLING_NONE: Final = 0

MAX_SEQUENCES: Final = int(C.llama_max_parallel_sequences())


class Aborted(Exception):
    """A decode ended early because its Cancel was set."""


class Context:
    """What a model has read in one go, and may read on from; its weights outlive it.

    A context may hold several sequences, numbered from 0. They share the cells of the positions
    that they have in common; what names no sequence means sequence 0.

    Attributes:
        n_ctx: positions that fit, those of all sequences together; n_batch: that one call takes.

    Args:
        weights: of the model.
        n_ctx: positions wanted.
        n_batch: positions decoded at once; an encoder's contexts take ``n_ctx``.
        sequences: how many, 1 to ``MAX_SEQUENCES``.

    Raises:
        ModelError: llama.cpp refused to make it.
    """

    def __init__(self, weights: Weights, *, n_ctx: int, n_batch: int, sequences: int = 1) -> None:
        """Make the context."""
        self._weights = weights
        self._sequences = sequences
        self.pointer = _open(weights, n_ctx, n_batch, sequences)
        self._row_positions = 4 if C.llama_model_rope_type(weights.pointer) in _MULTI_ROPE else 1
        self.n_ctx = min(n_ctx, int(C.llama_n_ctx(self.pointer)))
        self.n_batch = min(n_batch, int(C.llama_n_batch(self.pointer)))
        self._memory = C.llama_get_memory(self.pointer)
        self._steered: bytes | None = None

    def close(self) -> None:
        """Free the context; safe to call twice."""
        if self.pointer:
            C.llama_free(self.pointer)
        self.pointer = None

    def watch(self, cancel: Cancel) -> None:
        """Let ``cancel`` abort the decodes that follow, until another takes its place."""
        # llama.cpp keeps its bare address.
        self._weights.cancel = self._cancel = cancel
        C.llama_set_abort_callback(self.pointer, abort_when_set, cancel.address)

    def steer(self, layers: bytes | None) -> None:
        """Add a control vector to what the layers put out in the decodes that follow, or nothing.

        Args:
            layers: float32 [n_layer - 1, n_embd], for all layers but the first.

        Raises:
            ModelError: llama.cpp does not take it.
        """
        if layers == self._steered:
            return
        n_layer, n_embd = self._weights.n_layer, self._weights.n_embd
        data = None
        if layers is not None:
            if len(layers) != 4 * (n_layer - 1) * n_embd:
                raise ValueError(f"{len(layers)} bytes are no vector for {n_layer} layers")
            data = (ctypes.c_float * (len(layers) // 4)).from_buffer_copy(layers)
        with log.complaints() as lines:
            count = len(layers or b"") // 4
            code = C.llama_set_adapter_cvec(self.pointer, data, count, n_embd, 1, n_layer - 1)
        if code != 0:
            raise ModelError(f"llama.cpp could not take the control vector{because(lines)}")
        self._steered = layers

    # --- positions in -------------------------------------------------------------------------

    def decode_tokens(self, ids: Sequence[int], at: int, outputs: int) -> None:
        """Decode 1..n_batch tokens at positions ``at``...; logits for the last ``outputs``."""
        self._submit_tokens(C.llama_decode, ids, range(at, at + len(ids)), outputs)

    def decode_each(self, ids: Sequence[int], sequences: Sequence[int], at: int) -> None:
        """Decode one token for each of ``sequences``, all at position ``at``, all with logits."""
        owners = [[sequence] for sequence in sequences]
        self._submit_tokens(C.llama_decode, ids, [at] * len(ids), len(ids), owners)

    def decode_rows(self, rows: NDArray[np.float32], at: int, outputs: int) -> None:
        """Decode float32 [1..n_batch, n_embd] input rows, scaled for this architecture."""
        self._submit_rows(C.llama_decode, rows, at, outputs)

    def encode_tokens(self, ids: Sequence[int]) -> None:
        """Run the encoder over tokens; the decoder then attends to them."""
        self.clear()
        self._submit_tokens(C.llama_encode, ids, range(len(ids)), len(ids))

    def encode_rows(self, rows: NDArray[np.float32]) -> None:
        """Run the encoder over float32 [1..n_batch, n_embd]; every sequence attends to it."""
        self.clear()
        owners = [list(range(self._sequences))] * len(rows) if self._sequences > 1 else None
        self._submit_rows(C.llama_encode, rows, 0, len(rows), owners)

    def _submit_tokens(
        self,
        call: Any,
        ids: Sequence[int],
        at: Sequence[int],
        outputs: int,
        owners: Sequence[Sequence[int]] | None = None,
    ) -> None:
        tokens, positions = np.asarray(ids, np.int32), np.asarray(at, np.int32)
        batch = C.llama_batch(
            n_tokens=len(tokens),
            token=tokens.ctypes.data_as(ctypes.POINTER(C.llama_token)),
            pos=positions.ctypes.data_as(ctypes.POINTER(C.llama_pos)),
        )
        self._submit(call, batch, outputs, owners)

    def _submit_rows(
        self,
        call: Any,
        rows: NDArray[np.float32],
        at: int,
        outputs: int,
        owners: Sequence[Sequence[int]] | None = None,
    ) -> None:
        count = len(rows)
        # Models with deepstack inputs take wider rows; zeros there are what text has.
        wide = np.zeros((count, self._weights.row_width), np.float32)
        wide[:, : rows.shape[1]] = rows
        # Multi-axis RoPE wants every axis' positions, axis by axis; text repeats p, p, p, 0.
        positions = np.zeros((self._row_positions, count), np.int32)
        positions[: max(1, self._row_positions - 1)] = np.arange(at, at + count)
        batch = C.llama_batch(
            n_tokens=count,
            embd=wide.ctypes.data_as(ctypes.POINTER(ctypes.c_float)),
            pos=positions.ctypes.data_as(ctypes.POINTER(C.llama_pos)),
        )
        self._submit(call, batch, outputs, owners)

    def _submit(
        self, call: Any, batch: Any, outputs: int, owners: Sequence[Sequence[int]] | None
    ) -> None:
        """Submit ``batch``; ``owners``: each position's sequences, None for sequence 0 alone."""
        count = int(batch.n_tokens)
        if not 0 < count <= self.n_batch:
            raise ValueError(f"a batch holds 1 to {self.n_batch} positions, not {count}")
        wanted = np.zeros(count, np.int8)
        wanted[count - outputs :] = 1
        batch.logits = wanted.ctypes.data_as(ctypes.POINTER(ctypes.c_int8))
        if owners is not None:
            lists = [(C.llama_seq_id * len(own))(*own) for own in owners]
            counts = (ctypes.c_int32 * count)(*map(len, lists))
            batch.n_seq_id = ctypes.cast(counts, ctypes.POINTER(ctypes.c_int32))
            batch.seq_id = (ctypes.POINTER(C.llama_seq_id) * count)(*lists)
        self._batch_size = count
        if self._weights.n_threads > 1:
            ensure_threads(self._weights.path)
        with log.complaints() as lines:
            code = call(self.pointer, batch)
        if code == _ABORTED or (code != 0 and self._weights.cancel.is_set()):
            raise Aborted
        if code == _NO_ROOM:
            raise ModelError(f"the context has no room for {count} more positions")
        if code != 0:
            raise ModelError(f"llama.cpp could not decode (code {code}){because(lines)}")

    # --- logits out ---------------------------------------------------------------------------

    def logits(self, back: int = 0) -> NDArray[np.float32]:
        """Return logits of the last batch, float32 [n_vocab], valid until the next decode.

        Args:
            back: how many positions before the batch's last one.

        Raises:
            ModelError: one of them is not a number.
        """
        row = C.llama_get_logits_ith(self.pointer, self._batch_size - 1 - back)
        if not row:
            raise ModelError("llama.cpp returned no logits")
        found: NDArray[np.float32] = np.ctypeslib.as_array(row, (self._weights.n_vocab,))
        if np.isnan(found).any():
            raise ModelError("the model computed logits that are not numbers (NaN)")
        return found

    # --- what is held -------------------------------------------------------------------------

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

    def share(self, source: int, target: int, start: int = 0) -> None:
        """Let sequence ``target`` hold what ``source`` does from position ``start``, not copied.

        It must not hold any of these cells yet.
        """
        C.llama_memory_seq_cp(self._memory, source, target, start, -1)

    def drop(self, sequence: int) -> None:
        """Forget one sequence; cells that no other holds are free."""
        C.llama_memory_seq_rm(self._memory, sequence, -1, -1)

    def state(self) -> bytearray:
        """What sequence 0 holds, for `restore` of any context of the same model; no logits.

        Raises:
            ModelError: llama.cpp could not copy it.
        """
        with log.complaints() as lines:
            state = bytearray(int(C.llama_state_seq_get_size(self.pointer, 0)))
            data = (ctypes.c_uint8 * len(state)).from_buffer(state)
            got = int(C.llama_state_seq_get_data(self.pointer, data, len(state), 0))
        if not got:
            raise ModelError(f"llama.cpp could not copy what was read{because(lines)}")
        del data  # A bytearray that is looked into cannot be cut.
        del state[got:]
        return state

    def restore(self, state: bytes | bytearray | memoryview) -> int:
        """Hold in sequence 0 what `state` returned, and nothing else.

        The bytes must be whole: llama.cpp trusts what it is given.

        Returns:
            How many positions the context holds now; 0 if llama.cpp does not take them.
        """
        self.clear()
        with log.complaints():
            data = (ctypes.c_uint8 * len(state)).from_buffer_copy(state)
            if C.llama_state_seq_set_data(self.pointer, data, len(state), 0):
                return 1 + int(C.llama_memory_seq_pos_max(self._memory, 0))
        self.clear()
        return 0

    def take(self, other: Context) -> None:
        """Hold what sequence 0 of ``other``, a context of the same model, holds; not its logits.

        Raises:
            ModelError: llama.cpp could not copy it.
        """
        if not self.restore(other.state()):
            raise ModelError("llama.cpp could not copy the prompt")


def _open(weights: Weights, n_ctx: int, n_batch: int, sequences: int) -> Any:
    params = C.llama_context_default_params()
    params.n_ctx, params.n_batch, params.n_ubatch = n_ctx, n_batch, n_batch
    params.n_seq_max = sequences
    # One pool of cells for all sequences: what they have in common is held once.
    params.kv_unified = sequences > 1
    params.n_threads = params.n_threads_batch = weights.n_threads
    params.no_perf = True
    # With a pruned window, the kept beginning of an earlier prompt could not be trusted.
    params.swa_full = True
    # On a CPU llama.cpp's fused attention takes longer: behind a kept prefix the first token came a
    # third later (docs/evaluation.md).
    if hasattr(params, "flash_attn_type"):
        params.flash_attn_type = _NO_FLASH_ATTENTION
    context = None
    try:
        with log.complaints() as lines:
            context = C.llama_init_from_model(weights.pointer, params)
    except KeyboardInterrupt:
        if context:
            C.llama_free(context)
        raise
    if not context:
        raise ModelError(
            f"{weights.path}: llama.cpp cannot make a context of {n_ctx} positions" + because(lines)
        )
    if C.llama_pooling_type(context) > _POOLING_NONE:
        C.llama_free(context)
        raise ModelError(f"{weights.path}: this model embeds text; it cannot write any")
    return context
