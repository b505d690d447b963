"""Several answers to one prompt, decoded side by side over the positions that they share."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from ppedge.errors import ModelError
from ppedge.llm.binding.context import Aborted
from ppedge.llm.binding.ggml import Cancel
from ppedge.llm.binding.model import Model
from ppedge.llm.binding.sampler import Sampler
from ppedge.llm.branches import Branches
from ppedge.llm.generation import Finish
from ppedge.llm.logits_processor import LogitsProcessor, apply
from ppedge.llm.prefix_cache import PrefixCache
from ppedge.llm.prompt import Prompt
from ppedge.llm.sampling import MAX_CANDIDATES, MAX_SEED, Sampling, TextStream
from ppedge.llm.scoring import log_softmax


def ensure_count(count: int) -> None:
    """Raise a ModelError unless ``count`` is a number of answers that can be decoded at once."""
    if not 1 <= count <= MAX_CANDIDATES:
        raise ModelError(f"best_of must be 1 to {MAX_CANDIDATES}, not {count}")


@dataclass(slots=True)
class Candidate:
    """One of the answers.

    Attributes:
        text: what was written.
        tokens: its tokens, the one that ended it not among them.
        end: that token; None where the answer was cut.
        logprob: natural log of the tokens' probability by the model alone, before any processor.
        finish: as of `Generation`; None while it is written.
    """

    text: str = ""
    tokens: list[int] = field(default_factory=list)
    end: int | None = None
    logprob: float = 0.0
    finish: Finish | None = None

    @property
    def mean_logprob(self) -> float:
        """Log-probability a token; 0 of an empty answer."""
        return self.logprob / len(self.tokens) if self.tokens else 0.0


class Candidates:
    """Answers while they are written; `read` writes them all.

    Attributes:
        prompt_tokens: positions of the prompt.
        seed: of the first answer; the others have the seeds that follow.
        seconds_prefill: time to decode the prompt.
        seconds_decode: time for the new tokens.
    """

    def __init__(
        self,
        model: Model,
        cache: PrefixCache,
        prompt: Prompt,
        sampling: Sampling,
        count: int,
        processor: LogitsProcessor | None = None,
    ) -> None:
        """Get ready; nothing is decoded yet."""
        self._model, self._cache, self._prompt = model, cache, prompt
        self._sampling, self._processor = sampling, processor
        self._count = count
        self._cancel = Cancel()
        seed = secrets.randbelow(MAX_SEED + 1) if sampling.seed is None else sampling.seed
        self.seed = seed
        self.prompt_tokens = len(prompt)
        self.seconds_prefill = self.seconds_decode = 0.0

    @property
    def cancelling(self) -> Cancel:
        """Ends all of them soon, once it is set; what was written stays."""
        return self._cancel

    def read(self) -> list[Candidate]:
        """Write every answer to its end.

        Returns:
            As many as were asked for; all empty and cancelled where that came first.

        Raises:
            ModelError: llama.cpp failed, the memory does not suffice, `processor` returned no
                logits, or the model was closed meanwhile.
        """
        writers = [
            _Writer(self._model, self._sampling, (self.seed + i) % (MAX_SEED + 1), self._processor)
            for i in range(self._count)
        ]
        try:
            with self._model.lock:
                self._write(writers)
        except Aborted:
            self._model.ensure_open()  # Closing it ends what is being decoded, too.
            for writer in writers:
                writer.found.finish = writer.found.finish or "cancelled"
        finally:
            for writer in writers:
                writer.close()
        return [writer.found for writer in writers]

    def _write(self, writers: Sequence[_Writer]) -> None:
        begun = perf_counter()
        room = self._model.context.n_ctx - len(self._prompt.decoder) + 1
        length = max(1, min(self._sampling.max_tokens, room))
        with self._cache.branches(self._prompt, self._count, length, self._cancel) as branches:
            read = perf_counter()
            self.seconds_prefill = read - begun
            _decode(writers, branches, length)
            self.seconds_decode = perf_counter() - read


def _decode(writers: Sequence[_Writer], branches: Branches, length: int) -> None:
    """Draw a token for each answer, decode them together, and so on."""
    alive, rows = list(writers), [0] * len(writers)
    for number in range(1, length + 1):
        going_on: list[tuple[int, _Writer, int]] = []
        for writer, row in zip(alive, rows, strict=True):
            token = writer.draw(branches.logits[row])
            if token is not None:
                going_on.append((row, writer, token))
        if not going_on or number == length:
            break
        branches.extend([(row, token) for row, _, token in going_on])
        alive, rows = [writer for _, writer, _ in going_on], list(range(len(going_on)))
    for writer in writers:
        writer.cut()


class _Writer:
    """One answer, its sampler and its text."""

    def __init__(
        self, model: Model, sampling: Sampling, seed: int, processor: LogitsProcessor | None
    ) -> None:
        self.found = Candidate()
        self._model, self._processor = model, processor
        self._stream = TextStream(sampling.stop)
        self._sampler = Sampler.of(model, sampling, seed)

    def close(self) -> None:
        self._sampler.close()

    def draw(self, logits: NDArray[np.float32]) -> int | None:
        """The next token; None where the answer ended."""
        found = self.found
        given = logits.copy()
        token = self._sampler.choose(
            apply(self._processor, given, found.tokens) if self._processor else given
        )
        found.logprob += float(log_softmax(logits, token))
        if self._model.is_end(token):
            found.end = token
            self._finish("stop")
            return None
        found.tokens.append(token)
        found.text += self._stream.feed(self._model.piece(token))
        if self._stream.stopped:
            self._finish("stop")
            return None
        return token

    def cut(self) -> None:
        """End the answer where it is, if it goes on."""
        if self.found.finish is None:
            self._finish("length")

    def _finish(self, finish: Finish) -> None:
        self.found.text += self._stream.finish()
        self.found.finish = finish
