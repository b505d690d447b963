"""Answers on their way: one that streams, and the best of several."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from functools import cached_property
from typing import Protocol, Self

from ppedge.background import AsyncPieces, TimeLimit
from ppedge.errors import ModelError
from ppedge.llm.binding.ggml import Cancel
from ppedge.llm.candidates import Candidate, Candidates
from ppedge.llm.generation import Finish
from ppedge.plug.conditioning import Conditioning
from ppedge.style.reranking import Judgement, best

Judge = Callable[[Sequence[Candidate]], list[Judgement]]


class Writing(Protocol):
    """What writes an answer: a `ppedge.llm.generation.Generation`, or a `BestOf`."""

    text: str
    prompt_tokens: int
    new_tokens: int
    finish: Finish | None
    seed: int
    seconds_prefill: float
    seconds_decode: float

    @property
    def cancelling(self) -> Cancel:
        """Ends the writing once it is set."""

    def __iter__(self) -> Iterator[str]:
        """Yield pieces of text."""

    def cancel(self) -> None:
        """End soon, from any thread."""


class BestOf:
    """The best of several answers, which come all at once; like a `Generation` otherwise.

    Attributes:
        candidates: all of them, once they are written.
        judgements: of each.
        chosen: index of the one that is given; None before.
        text, prompt_tokens, finish, seed, seconds_prefill, seconds_decode: as of `Generation`.
        new_tokens: of all answers together.
    """

    def __init__(self, candidates: Candidates, judge: Judge) -> None:
        """Get ready; nothing is decoded before it is iterated over."""
        self._written, self._judge = candidates, judge
        self.candidates: list[Candidate] = []
        self.judgements: list[Judgement] = []
        self.chosen: int | None = None
        self.text = ""
        self.prompt_tokens = candidates.prompt_tokens
        self.new_tokens = 0
        self.finish: Finish | None = None
        self.seed = candidates.seed
        self.seconds_prefill = self.seconds_decode = 0.0
        self._pieces = self._run()

    @property
    def cancelling(self) -> Cancel:
        """Ends the writing once it is set."""
        return self._written.cancelling

    def __iter__(self) -> Iterator[str]:
        """Yield the chosen answer, in one piece."""
        return self._pieces

    def cancel(self) -> None:
        """End promptly, from any thread; the best of what was written so far is given."""
        self.cancelling.set()

    def _run(self) -> Iterator[str]:
        self.candidates = self._written.read()
        self.seconds_prefill = self._written.seconds_prefill
        self.seconds_decode = self._written.seconds_decode
        self.new_tokens = sum(len(each.tokens) for each in self.candidates)
        self.judgements = self._judge(self.candidates)
        self.chosen = best(self.judgements)
        given = self.candidates[self.chosen]
        self.text, self.finish = given.text, given.finish
        if self.text:
            yield self.text


class Answer(Iterator[str]):
    """An answer on its way: iterate for pieces of text, with ``for`` or with ``async for``.

    An answer is written once: each piece is given to whoever asks for it first, and nothing is
    written before that. In ``async for`` a thread of its own does the work, and the event loop
    stays free; leaving the loop early cancels the answer, where ``for`` lets it be read on later.
    Several answers may be read at once, on one thread or many; each comes out as it would alone.

    Attributes:
        generation: the run; text, counts, finish and seconds are there once it has ended.
    """

    def __init__(
        self,
        generation: Writing,
        condition: Callable[[], Conditioning] | None = None,
        prepare: Callable[[Cancel], AbstractContextManager[None]] | None = None,
        timeout: float | None = None,
    ) -> None:
        """Get ready.

        Args:
            generation: writes the answer.
            condition: says what the persona says to the prompt; None without a persona.
            prepare: reads what stands before the prompt, where that is not held yet, and keeps it
                for the block.
            timeout: seconds for the whole answer, counted from the first piece that is asked for.

        Raises:
            ModelError: ``timeout`` is no number of seconds.
        """
        ensure_timeout(timeout)
        self.generation = generation
        self._condition = condition
        self._turn = threading.Lock()
        self._pieces = _written(generation, prepare, timeout)

    @property
    def text(self) -> str:
        """What was written so far; all of it once the answer has ended."""
        return self.generation.text

    @property
    def finish(self) -> Finish | None:
        """Why it ended: "stop", "length", "cancelled" or "timeout"; None while it goes on."""
        return self.generation.finish

    @cached_property
    def conditioning(self) -> Conditioning | None:
        """What the persona says to the prompt; None without a persona.

        Where no part of it bears on the answer it is found only when it is asked for.

        Raises:
            PlugError, StoreError: as `ppedge.Personalizer.condition`.
        """
        return self._condition() if self._condition else None

    def __iter__(self) -> Self:
        """Return itself."""
        return self

    def __next__(self) -> str:
        """Wait for the next piece.

        Raises:
            ModelError: llama.cpp failed, or the model was closed meanwhile.
            StoreError: the notes cannot be read.
        """
        with self._turn:
            return next(self._pieces)

    def __aiter__(self) -> AsyncPieces:
        """Yield the pieces to ``async for``; a thread writes them. Errors are those of ``for``."""
        return AsyncPieces(self, self.cancel)

    def read(self) -> str:
        """Wait for the whole answer; errors are those of ``for``."""
        for _ in self:
            pass
        return self.generation.text

    async def aread(self) -> str:
        """``await`` the whole answer, the event loop being free; cancelling the task cancels it."""
        async for _ in self:
            pass
        return self.generation.text

    def cancel(self) -> None:
        """End the answer soon; safe from any thread. What was written by then stays."""
        self.generation.cancel()


def _written(
    generation: Writing,
    prepare: Callable[[Cancel], AbstractContextManager[None]] | None,
    timeout: float | None,
) -> Iterator[str]:
    """Yield an answer's pieces; knows nothing of the answer, so that it ends when that is gone."""
    pieces = iter(generation)
    with TimeLimit(timeout, generation.cancelling.set) as limit:
        if prepare is not None and generation.finish is None:
            with prepare(generation.cancelling):
                first = next(pieces, "")
            if first:
                yield first
        yield from pieces
    if limit.passed and generation.finish == "cancelled":
        generation.finish = "timeout"


def ensure_timeout(timeout: float | None) -> None:
    """Raise a ModelError unless ``timeout`` is None or seconds that a thread can wait."""
    if timeout is not None and not 0 < timeout <= threading.TIMEOUT_MAX:
        raise ModelError(f"timeout must be a number of seconds above 0, not {timeout:g}")
