"""Answers on their way: one that streams, and the best of several."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import Protocol

from ppedge.llm.binding.ggml import Cancel
from ppedge.llm.candidates import Candidate, Candidates
from ppedge.llm.generation import Finish
from ppedge.plug.conditioning import Conditioning

Choose = Callable[[Sequence[Candidate]], int]


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
        chosen: index of the one that is given; None before.
        text, prompt_tokens, finish, seed, seconds_prefill, seconds_decode: as of `Generation`.
        new_tokens: of all answers together.
    """

    def __init__(self, candidates: Candidates, choose: Choose) -> None:
        """Get ready; nothing is decoded before it is iterated over."""
        self._written, self._choose = candidates, choose
        self.candidates: list[Candidate] = []
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
        self.chosen = self._choose(self.candidates)
        best = self.candidates[self.chosen]
        self.text, self.finish = best.text, best.finish
        if self.text:
            yield self.text


class Answer:
    """An answer on its way: iterate for pieces of text; `cancel` ends it from any thread.

    Attributes:
        generation: the run; text, counts, finish and seconds are there once it has ended.
    """

    def __init__(
        self,
        generation: Writing,
        condition: Callable[[], Conditioning] | None = None,
        prepare: Callable[[Cancel], None] | None = None,
    ) -> None:
        """Get ready.

        Args:
            generation: writes the answer.
            condition: says what the persona says to the prompt; None without a persona.
            prepare: reads what stands before the prompt, where that is not held yet.
        """
        self.generation = generation
        self._condition, self._prepare = condition, prepare

    @cached_property
    def conditioning(self) -> Conditioning | None:
        """What the persona says to the prompt; None without a persona.

        Where no part of it bears on the answer it is found only when it is asked for.

        Raises:
            PlugError, StoreError: as `ppedge.Personalizer.condition`.
        """
        return self._condition() if self._condition else None

    def __iter__(self) -> Iterator[str]:
        """Yield the answer's pieces as they are made."""
        if self._prepare is not None and self.generation.finish is None:
            self._prepare(self.generation.cancelling)
        yield from self.generation

    def read(self) -> str:
        """Wait for the whole answer."""
        for _ in self:
            pass
        return self.generation.text

    def cancel(self) -> None:
        """End the answer soon; safe from any thread."""
        self.generation.cancel()
