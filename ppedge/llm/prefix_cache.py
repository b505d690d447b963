"""What a model's context holds, and how it comes to hold something else with little work.

The state is two lists of rows: what the encoder read (empty without one), and the positions of
the decoder, with the control vector that steers the last of them. ``sync`` moves from what is
held to what is wanted, keeping the common beginning.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager

import numpy as np
from numpy.typing import NDArray

from ppedge.errors import ModelError
from ppedge.llm.binding.context import Aborted
from ppedge.llm.binding.ggml import Cancel
from ppedge.llm.binding.model import Model
from ppedge.llm.branches import Branches, count_sequences
from ppedge.llm.gguf import Gguf
from ppedge.llm.logits_processor import LogitsProcessor, apply
from ppedge.llm.parked import Parked
from ppedge.llm.probe import Probe
from ppedge.llm.prompt import Control, Prompt, Row, count_common
from ppedge.llm.scoring import log_softmax


class PrefixCache:
    """A model's context with its book-keeping; every method needs ``model.lock`` held.

    Args:
        model: loaded; the cache becomes the only one to drive its context.
        gguf: the same model's file, for rows that an encoder must be given as vectors.
        primary: another cache of the model; this one then takes the second context.
    """

    def __init__(self, model: Model, gguf: Gguf, primary: PrefixCache | None = None) -> None:
        """Hold nothing yet."""
        self._model = model
        self._context = model.second_context if primary else model.context
        self._gguf = gguf
        self._encoded: list[Row] = []
        self._held: list[Row] = []
        self._control: Control | None = None  # of the positions from its start on, held or to come
        # Whether llama.cpp's logits are those after the last held position.
        self._fresh = False
        # Beginnings of prompts that are read by themselves: what all begin with, and what is kept.
        self._opening: list[Row] = primary._opening if primary else []
        self._prefix: list[Row] = []
        # How many of the held positions were read last, and the logits after them.
        self._read: tuple[int, NDArray[np.float32]] | None = None
        self._parked = Parked(self._context)
        self._primary = primary or self
        self._probe: Probe | None = None  # The primary's, once it was needed.

    def probe(self) -> Probe:
        """How the architecture takes rows: the first time by trial, which forgets what is held.

        Raises:
            Aborted: what is being watched was set.
            ModelError: it treats embedding input unlike tokens.
        """
        first = self._primary
        if first._probe is None:
            first.forget()
            try:
                first._probe = Probe(self._model, self._gguf)
            finally:
                first.forget()
        return first._probe

    def watch(self, cancel: Cancel) -> None:
        """Let ``cancel`` end what is decoded from here on; an error where the model is closed."""
        self._model.ensure_open()
        self._context.watch(cancel)
        # Once more: whoever closes the model ends the decode that is watched at that moment.
        self._model.ensure_open()

    def count_held(self, prompt: Prompt) -> int:
        """Return how many of the prompt's positions need no work any more."""
        if prompt.encoder:
            return len(prompt.encoder) if prompt.encoder == self._encoded else 0
        return self._count_common(prompt)

    def _count_common(self, prompt: Prompt) -> int:
        """Return how many of the held positions are the prompt's, steered alike."""
        common = count_common(self._held, prompt.decoder)
        if prompt.control == self._control:
            return common
        steered = (each.start for each in (prompt.control, self._control) if each)
        return min(common, *steered)

    def sync(self, prompt: Prompt, cancel: Cancel) -> None:
        """Hold exactly ``prompt``, with the logits after its last position at hand.

        Raises:
            Aborted: ``cancel`` was set; what had been decoded by then is kept.
            ModelError: llama.cpp failed, or the model is closed.
        """
        self.watch(cancel)
        if cancel.is_set():
            raise Aborted
        self._parked.make_way(prompt, self._held)
        if prompt.encoder != self._encoded:
            self._encode(prompt.encoder)
        common = self._count_common(prompt)
        if any(isinstance(row, bytes) for row in prompt.decoder[common:]):
            self.probe()
            common = self._count_common(prompt)
        if common == len(prompt.decoder) and self._is_back_at(common, prompt.read_together):
            self._control = prompt.control  # It may differ yet, in what is still to come.
            return
        ends = self._read_ends(prompt)
        # What is held is of use as far as it was read in the same steps.
        self._truncate(max(end for end in (0, *ends[:-1]) if end <= common))
        self._control = prompt.control
        for end in ends:
            if end > len(self._held):
                self._decode(prompt.decoder[len(self._held) : end])
                if end == prompt.read_together:
                    self._read = end, self._context.logits().copy()

    def write_on(self, prompt: Prompt, cancel: Cancel) -> None:
        """Do as `sync` for a text that is being written; it may have others come in between.

        Args:
            prompt: the same object each time; `end_writing` lets go of it.
            cancel: as of `sync`.

        Raises:
            Aborted, ModelError: as `sync`.
        """
        self._model.ensure_open()
        self._parked.make_way(prompt, self._held)
        count = self._parked.take_up(prompt)
        if count is not None:
            self._fresh, self._read = False, None
            self._held, self._encoded = prompt.decoder[:count], []
            self._control = prompt.control
        self.sync(prompt, cancel)

    def end_writing(self, prompt: Prompt) -> None:
        """Keep nothing more of a text for `write_on`; from any thread, at any time."""
        self._parked.end(prompt)

    def _is_back_at(self, count: int, n_read: int) -> bool:
        """Hold the first ``count`` positions alone, if their logits are at hand or were kept.

        Those of positions that are read together must have been read so.
        """
        if count > n_read:
            return self._fresh and count == len(self._held)
        if self._read is None or self._read[0] != count:
            return False
        kept = self._read
        self._truncate(count)
        if len(self._held) != count:
            return False
        self._read = kept
        return True

    def _read_ends(self, prompt: Prompt) -> list[int]:
        """Return where each step of reading a prompt ends, the last at its end.

        The size of a batch has a part in the order of sums, and so in the logits. A prompt is
        therefore read in the same steps whatever is held already: the opening, the prefix that was
        kept, the rest together, and what was written behind it token by token.
        """
        rows, n_read = prompt.decoder, prompt.read_together
        prefix = self._prefix if prompt.n_prefix is None else rows[: prompt.n_prefix]
        beginnings = [
            len(known)
            for known in (self._opening, prefix)
            if 0 < len(known) < n_read and rows[: len(known)] == known
        ]
        return [*beginnings, n_read, *range(n_read + 1, len(rows) + 1)]

    def set_opening(self, prompt: Prompt) -> None:
        """Read the beginning that prompts have in common by itself from now on."""
        self._opening = list(prompt.decoder)

    def state(self, prompt: Prompt, cancel: Cancel) -> bytes:
        """Hold ``prompt``, and return what was made of it, for `restore`.

        Raises:
            Aborted, ModelError: as `sync`; the prompt is steered, or an encoder's.
        """
        if prompt.encoder or prompt.control:
            raise ModelError("what an encoder or a control vector had a part in is not kept")
        self.sync(prompt, cancel)
        self._prefix = list(prompt.decoder)
        return bytes(self._context.state())

    def restore(self, prompt: Prompt, state: bytes | memoryview) -> bool:
        """Hold ``prompt`` by what `state` returned of it; False where llama.cpp refuses that.

        The bytes must be those that it returned for the same prompt, model and llama.cpp.
        """
        self.forget()
        if self._context.restore(state) != len(prompt.decoder):
            self._context.clear()
            return False
        self._held, self._prefix = list(prompt.decoder), list(prompt.decoder)
        return True

    def forget(self) -> None:
        """Hold nothing."""
        self._model.ensure_open()
        self._parked.make_way(None, self._held)
        self._context.clear()
        self._held, self._encoded, self._fresh = [], [], False
        self._control = self._read = None

    def ensure_steerable(self) -> None:
        """Try a control vector; forgets what is held.

        Raises:
            ModelError: it changes nothing, as with architectures that llama.cpp does not steer.
        """
        self.watch(Cancel())
        probe = self.probe()
        self.forget()
        try:
            probe.ensure_steerable()
        finally:
            self.forget()

    def logits(self) -> NDArray[np.float32]:
        """Return a copy of the logits after the prompt that is held, float32 [n_vocab]."""
        if not self._fresh and self._read and self._read[0] == len(self._held):
            return self._read[1].copy()
        return self._context.logits().copy()

    def logprobs(
        self,
        prompt: Prompt,
        options: Sequence[Sequence[int]],
        processor: LogitsProcessor | None = None,
    ) -> list[float]:
        """Return the log-probability of each option's tokens after ``prompt``, summed.

        Raises:
            ModelError: llama.cpp failed, or ``processor`` returned no logits.
        """
        self.sync(prompt, Cancel())
        first = self.logits()
        return [
            _logprob(first, ids, 0, processor) + self._continue(prompt, ids, processor)
            for ids in options
        ]

    def _continue(
        self, prompt: Prompt, ids: Sequence[int], processor: LogitsProcessor | None
    ) -> float:
        """Return the log-probability of ``ids`` after the first, each given those before it."""
        if len(ids) == 1:
            return 0.0
        # Take back the option before; an architecture that cannot, reads the prompt afresh.
        self._truncate(len(prompt.decoder))
        if len(self._held) < len(prompt.decoder):
            self.sync(prompt, Cancel())
        total, places = 0.0, iter(range(1, len(ids)))
        for chunk in _chunks(ids[:-1], self._context.n_batch):
            self._decode(chunk, outputs=len(chunk))
            for back, place in zip(reversed(range(len(chunk))), places, strict=False):
                total += _logprob(self._context.logits(back), ids, place, processor)
        return total

    @contextmanager
    def branches(
        self, prompt: Prompt, width: int, length: int, cancel: Cancel
    ) -> Iterator[Branches]:
        """Go on from ``prompt`` in up to ``width`` ways, each of up to ``length`` tokens.

        They live in a context of their own, made for them and freed at the end: what this one
        holds is the prompt before and after, in the same cells, and a model that is never
        branched pays for no second sequence.

        Raises:
            Aborted: ``cancel`` was set before the prompt was read.
            ModelError: llama.cpp failed, for one because there is not the memory.
        """
        # The last token of a branch is only looked up, never decoded.
        cells = self._branch_room(len(prompt.decoder) + width * (length - 1))
        at, n_read = len(prompt.decoder), len(prompt.encoder)
        if n_read:
            self.watch(cancel)
        else:
            self.sync(prompt, cancel)
        sequences = count_sequences(width)
        # llama.cpp aborts where a batch cannot hold a position of every sequence.
        n_batch = max(sequences, n_read)
        context = self._model.new_context(
            n_ctx=max(cells, n_batch), n_batch=n_batch, sequences=sequences
        )
        with closing(context):
            context.watch(cancel)
            if n_read:
                # What an encoder made of its input cannot be copied to another context.
                context.encode_rows(self._vectors(prompt.encoder))
                context.decode_tokens([self._model.decoder_start], 0, 1)
                yield Branches(context, at, width, context.logits().copy())
            else:
                context.take(self._context)
                context.steer(prompt.control.layers if prompt.control else None)
                yield Branches(context, at, width, self.logits())

    def _branch_room(self, cells: int) -> int:
        """Return how large to make the context of branches that need ``cells``."""
        if not any(name.endswith("rope_factors_long.weight") for name in self._gguf.tensors):
            return cells
        # Such a model turns its positions by other factors in a context beyond the length that
        # it was first trained for, and what is copied must have been turned like what follows.
        architecture, n_ctx = self._gguf.architecture, self._context.n_ctx
        trained = self._gguf.get(f"{architecture}.context_length", 0)
        first = self._gguf.get(f"{architecture}.rope.scaling.original_context_length", trained)
        if n_ctx <= first < cells:
            raise ModelError(
                f"these beams take {cells} positions together, and with this model only {first} "
                f"fit beside a context of {n_ctx}; use fewer or shorter beams, or ask for a "
                f"context above {first} (--context, n_ctx)"
            )
        return max(cells, n_ctx)

    # --- moving --------------------------------------------------------------------------------

    def _truncate(self, keep: int) -> None:
        """Keep ``keep`` positions, or none where the architecture cannot take back a part."""
        if keep < len(self._held):
            self._rewind(keep)

    def _rewind(self, keep: int) -> None:
        self._fresh = False
        del self._held[self._context.truncate(keep) :]
        if self._read and self._read[0] > len(self._held):
            self._read = None

    def _encode(self, rows: list[Row]) -> None:
        vectors = self._vectors(rows)
        self._held, self._encoded, self._fresh = [], [], False
        self._read = None
        self._context.encode_rows(vectors)
        self._encoded = rows

    def _vectors(self, rows: Sequence[Row]) -> NDArray[np.float32]:
        """Return ``rows`` as input vectors, float32 [rows, n_embd].

        A batch holds tokens or vectors. All rows of an encoder, which attends both ways, must be
        in one; and for a decoder, too, each batch is a pass over all weights.
        """
        scale = np.float32(self.probe().scale)
        looked_up = iter(self._gguf.embedding_rows([row for row in rows if isinstance(row, int)]))
        return scale * np.stack(
            [
                next(looked_up) if isinstance(row, int) else np.frombuffer(row, np.float32)
                for row in rows
            ]
        )

    def _decode(self, rows: Sequence[Row], outputs: int = 1) -> None:
        """Append ``rows``; the last ``outputs`` of their last chunk get logits."""
        end = len(self._held) + len(rows)
        self._fresh = False
        control, n_batch = self._control, self._context.n_batch
        n_free = max(0, control.start - len(self._held)) if control else len(rows)
        for chunk in (*_chunks(rows[:n_free], n_batch), *_chunks(rows[n_free:], n_batch)):
            at = len(self._held)
            try:
                self._context.steer(control.layers if control and at >= control.start else None)
                self._submit(chunk, at, outputs if at + len(chunk) == end else 0)
            except BaseException:
                # A failed batch may have left some of its positions behind.
                self._rewind(at)
                raise
            self._held += chunk
        self._fresh = True

    def _submit(self, chunk: Sequence[Row], at: int, outputs: int) -> None:
        ids = [row for row in chunk if isinstance(row, int)]
        if len(ids) == len(chunk):
            self._context.decode_tokens(ids, at, outputs)
        else:
            self._context.decode_rows(self._vectors(chunk), at, outputs)


def _logprob(
    logits: NDArray[np.float32], ids: Sequence[int], place: int, processor: LogitsProcessor | None
) -> float:
    """Return log softmax(logits)[ids[place]] in float64, once ``processor`` has changed them."""
    if processor:
        logits = apply(processor, logits.copy(), ids[:place])
    return float(log_softmax(logits, ids[place]))


def _chunks(rows: Sequence[Row], limit: int) -> Iterator[Sequence[Row]]:
    """Cut ``rows`` into pieces of at most ``limit``."""
    for start in range(0, len(rows), limit):
        yield rows[start : start + limit]
