"""Beam search: the likeliest text that keeping a few beginnings at each step can find.

The search itself knows no model: it is given logits, and says which beams it keeps. Its rules are
those of the usual toolkits (the defaults of Hugging Face's ``generate(num_beams=...)``): with
``width`` beams,

- the ``width`` likeliest extensions of all beams are looked at; those that end the text are
  finished hypotheses, and the likeliest others, ``width`` of them, are the next beams;
- a hypothesis scores logprob / tokens ** length_penalty, the end token included; the best
  ``width`` finished ones are kept;
- the search is over when as many are finished and the best beam, at its present length, scores
  no better than the worst of them; at the limit on tokens, beams count as finished.
"""

from __future__ import annotations

import math
from collections.abc import Set
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ppedge.errors import ModelError
from ppedge.llm.generation import Finish
from ppedge.llm.logits_processor import LogitsProcessor, apply
from ppedge.llm.scoring import log_softmax

# Beyond, the power of a length no longer is a number.
MAX_PENALTY: Final = 10


@dataclass(frozen=True, slots=True)
class Beam:
    """What a beam search found.

    Attributes:
        text: the text; a UTF-8 character that the last token left unfinished is dropped.
        logprob: natural log of its probability, the end token included where it has one.
        tokens: how many tokens that is the probability of.
        finish: "stop" (the text ended by itself), "length" (``max_tokens`` or the context is used
            up), or "cancelled" (the best text up to then).
    """

    text: str
    logprob: float
    tokens: int
    finish: Finish


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """A beginning of a text: its tokens, their log-probability, and whether it has ended."""

    tokens: tuple[int, ...] = ()
    logprob: float = 0.0
    ended: bool = False

    def score(self, length_penalty: float) -> float:
        """Return what hypotheses are compared by; higher is better."""
        if not self.tokens:
            return -math.inf
        return self.logprob / math.pow(len(self.tokens), length_penalty)


class Search:
    """One beam search, step by step; ``best`` is there at any time.

    Args:
        ends: the tokens that end a text.
        width: beams to keep, at least 1; 1 is greedy decoding without penalties.
        max_tokens: tokens that a text may have; its end token needs to fit as well.
        length_penalty: -10 to 10; above 0 favours longer texts, 0 compares log-probabilities.
        processor: has a say in each token; None leaves that to the logits alone.

    Raises:
        ModelError: a value is out of range.
    """

    def __init__(
        self,
        ends: Set[int],
        *,
        width: int,
        max_tokens: int,
        length_penalty: float,
        processor: LogitsProcessor | None = None,
    ) -> None:
        """Begin with one beam of no tokens."""
        for name, value in (("width", width), ("max_tokens", max_tokens)):
            if value < 1:
                raise ModelError(f"beam search: {name} must be at least 1, not {value}")
        if not abs(length_penalty) <= MAX_PENALTY:
            raise ModelError(
                f"beam search: length_penalty must be -{MAX_PENALTY} to {MAX_PENALTY}, "
                f"not {length_penalty}"
            )
        self._ends = ends
        self._width = width
        self._max_tokens = max_tokens
        self._penalty = length_penalty
        self._processor = processor
        self._steps = 0
        self._open = [Hypothesis()]
        self._finished: list[Hypothesis] = []

    @property
    def best(self) -> Hypothesis:
        """The best hypothesis so far: a finished one if there is any."""
        return max(self._finished or self._open, key=self._score)

    def step(self, logits: NDArray[np.float32]) -> list[tuple[int, int]]:
        """Extend every beam by a token.

        Args:
            logits: float32 [beams, n_vocab], after each beam that goes on; at first, after the
                prompt alone.

        Returns:
            The beams that go on now, best first, each as (index of the beam that it extends,
            token); none once the search is over.

        Raises:
            ModelError: the processor returned no logits.
        """
        self._steps += 1
        last = self._steps == self._max_tokens
        beams: list[Hypothesis] = []
        kept: list[tuple[int, int]] = []
        for rank, (parent, token, logprob) in enumerate(self._extensions(logits)):
            if len(beams) == self._width:
                break
            ended = token in self._ends
            longer = Hypothesis((*self._open[parent].tokens, token), logprob, ended)
            if not (ended or last):
                beams.append(longer)
                kept.append((parent, token))
            elif rank < self._width:
                self._finish(longer)
            elif last:
                break
        self._open = beams
        return [] if self._is_over() else kept

    def _extensions(self, logits: NDArray[np.float32]) -> list[tuple[int, int, float]]:
        """Return (beam, token, logprob of the whole), likeliest first, as many as can matter."""
        # All of a beam's ends may be among its likeliest tokens, and leave its beams to others.
        count = min(self._width + len(self._ends), logits.shape[1])
        parts: list[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]] = []
        for i, (beam, given) in enumerate(zip(self._open, logits, strict=True)):
            row = apply(self._processor, given.copy(), beam.tokens) if self._processor else given
            tokens = _likeliest(row, count)
            totals = beam.logprob + log_softmax(row, tokens)
            parts.append((np.full(len(tokens), i), tokens, totals))
        parents, tokens, totals = (np.concatenate(column) for column in zip(*parts, strict=True))
        order = np.argsort(-totals, kind="stable")
        order = order[np.isfinite(totals[order])]
        return [(int(parents[i]), int(tokens[i]), float(totals[i])) for i in order]

    def _finish(self, hypothesis: Hypothesis) -> None:
        self._finished.append(hypothesis)
        self._finished.sort(key=self._score, reverse=True)
        del self._finished[self._width :]

    def _is_over(self) -> bool:
        if not self._open:
            return True
        if len(self._finished) < self._width:
            return False
        return max(map(self._score, self._open)) <= self._score(self._finished[-1])

    def _score(self, hypothesis: Hypothesis) -> float:
        return hypothesis.score(self._penalty)


def _likeliest(logits: NDArray[np.float32], count: int) -> NDArray[np.int64]:
    """Return the ``count`` tokens of the highest logits, highest first; of equals, the first."""
    least = np.partition(logits, -count)[-count]
    tokens = np.flatnonzero(logits >= least)
    return tokens[np.argsort(-logits[tokens], kind="stable")][:count]
