"""Which of several answers is given: the one most like the person that is still an answer.

    score = STYLE r + RELEVANCE cos + LIKELIHOOD logprob - faults

r is the mean log-ratio of the person's shapes to everybody's (``ppedge.style.model``), cos that of
prompt and answer by the plug's encoder (or the share of the prompt's words that the answer takes
up, without one), logprob the model's own, a token. A fault costs more than all else can gain.
The weights were set on people of the dev set.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from ppedge.llm.candidates import Candidate
from ppedge.plug.no_plug import NoPlug
from ppedge.plug.plug import Plug
from ppedge.style.model import StyleModel
from ppedge.style.rules import NoCopying
from ppedge.style.words import words_of

STYLE: Final = 0.5
RELEVANCE: Final = 1.0
LIKELIHOOD: Final = 0.15
FAULT: Final = 10.0
CUT: Final = 0.5
"""Cost of an answer that did not end by itself."""

LEAST_WORDS: Final = 4
_LOOP_TIMES: Final = 3
_LOOP_WORDS: Final = 3

Relevance = Callable[[str], float]
"""How much an answer has to do with the prompt, -1 to 1."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """How one of several answers was judged; the formula is that of ``ppedge.style.reranking``.

    Attributes:
        style: mean log-ratio of the person's shapes to everybody's, nats a token.
        relevance: cosine of prompt and answer, or the share of the prompt's words in it.
        logprob: mean log-probability of a token by the model alone, nats.
        faults: how many it has: too few words, a loop, a copy of a note.
        is_cut: whether it did not end by itself.
    """

    style: float
    relevance: float
    logprob: float
    faults: int
    is_cut: bool

    @property
    def score(self) -> float:
        """The higher the better."""
        worth = STYLE * self.style + RELEVANCE * self.relevance + LIKELIHOOD * self.logprob
        return worth - CUT * self.is_cut - FAULT * self.faults


def judge(
    candidate: Candidate, style: StyleModel, copying: NoCopying, relevance: Relevance
) -> Judgement:
    """Judge one of several answers."""
    tokens = [*candidate.tokens, *([] if candidate.end is None else [candidate.end])]
    return Judgement(
        style=style.score(tokens),
        relevance=relevance(candidate.text),
        logprob=candidate.mean_logprob,
        faults=count_faults(candidate.text, copying),
        is_cut=candidate.finish == "length",
    )


def best(judgements: Sequence[Judgement]) -> int:
    """Return the index of the best answer; of equals, the first."""
    scores = [judgement.score for judgement in judgements]
    return scores.index(max(scores))


def count_faults(text: str, copying: NoCopying) -> int:
    """How many of these an answer has: too few words, a loop, a copy of a note."""
    return (len(words_of(text)) < LEAST_WORDS) + has_loop(text) + copying.copies(text)


def has_loop(text: str) -> bool:
    """Whether three words in a row, or a line of two words or more, come three times."""
    words = words_of(text)
    runs = Counter(zip(*(words[i:] for i in range(_LOOP_WORDS)), strict=False))
    lines = Counter(line.strip().casefold() for line in text.splitlines() if len(line.split()) > 1)
    return any(count >= _LOOP_TIMES for counts in (runs, lines) for count in counts.values())


def word_overlap(prompt: str) -> Relevance:
    """Relevance without an encoder: the share of the prompt's longer words that an answer has.

    Words count as the same if their first five letters are.
    """
    wanted = {word[:5] for word in words_of(prompt) if len(word) > 3}

    def relevance(answer: str) -> float:
        found = {word[:5] for word in words_of(answer)}
        return len(wanted & found) / len(wanted) if wanted else 0.0

    return relevance


def relevance_by(plug: Plug | NoPlug, prompt: str) -> Relevance:
    """Relevance by the plug's encoder, the cosine of prompt and answer; without one, by words."""
    if isinstance(plug, NoPlug):
        return word_overlap(prompt)
    query = plug.encode_prompt(prompt)

    def relevance(answer: str) -> float:
        other = plug.encode_prompt(answer)
        return float(query @ other / (np.linalg.norm(query) * np.linalg.norm(other)))

    return relevance
