"""Kept soft tokens learn which of several answers is the better one (preference optimisation).

Of each prompt `export.preferences` has several answers of the plug itself; two are taken, y+ the
best and y- the worst without a fault. With P the frozen model behind turns, kept ones and prompt,
and P0 the same with the kept ones as they were:

    d(y) = ln P(y) - ln P0(y)
    loss = -ln sigmoid(beta (d(y+) - d(y-))) - anchor / |y+| ln P(y+)

The first term is direct preference optimisation (DPO: Rafailov et al., arXiv 2305.18290), the
second keeps what is preferred likely (Pang et al., arXiv 2404.19733).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from operator import index
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from export.models.base_llm import LEAST_ROWS, FrozenLLM
from export.models.batching import alike
from export.models.kept import KeptHead
from export.models.note_vectors import NoteVectors
from export.tools.echo import echo
from export.tools.json_files import DataError
from export.training.kept_run import Part
from export.training.turns import MIDDLE, OPENING, Prefixes, stacked
from ppedge.notes.reader import Note
from ppedge.plug.conditioning import mean_query
from ppedge.plug.plug import Plug
from ppedge.style.words import words_of

MARGIN = 0.3  # between the qualities of two answers, at least
LEAST = -0.6  # quality of the better one: of some people all answers are bad
EACH = 4  # pairs of one person in a step, at most
MAX_PROMPT = 96  # LLM tokens

# Quality, beside relevance (a cosine). Who says back what was asked is most relevant of all, so an
# echo costs more than it gains. Style is enough at some point. Likelihood is that of the model
# without a persona, which tells an answer that is only strange; it is enough at some point, too.
ECHO = 1.5  # of the share of words in runs from the prompt
STYLE, ENOUGH_STYLE = 0.5, 1.5
LIKELIHOOD, LIKELY = 0.4, -1.2  # nats a token
CUT = 0.5
FAULT = 10.0
REPEATS = 1.0  # of the share of pairs of words that came before
WORN, FRESH = 1.5, 0.8  # of the share of different words, below this
SHORT, WORDS = 0.06, 14  # of each word less than so many


@dataclass(frozen=True)
class Pair:
    """A prompt and two answers to it: token ids, with what ended them."""

    prompt: str
    better: tuple[int, ...]
    worse: tuple[int, ...]


@dataclass(frozen=True)
class Person:
    """Somebody who was asked.

    Attributes:
        turns: what stands before the prompts, ``input`` being what is asked.
        notes: all of them.
        pairs: at least one.
    """

    turns: tuple[Note, ...]
    notes: tuple[Note, ...]
    pairs: tuple[Pair, ...]


def quality(prompt: str, answer: dict[str, Any]) -> float:
    """How good an answer of a file of `export.preferences` is; the higher the better."""
    words = words_of(answer["text"])
    pairs = list(pairwise(words))
    repeated = 1 - len(set(pairs)) / len(pairs) if pairs else 0.0
    worn = max(0.0, FRESH - len(set(words)) / max(1, len(words)))
    return float(
        STYLE * min(answer["style"], ENOUGH_STYLE)
        + answer["relevance"]
        - ECHO * echo(words_of(prompt), words)
        + LIKELIHOOD * min(answer["bare"], LIKELY)
        - CUT * answer["is_cut"]
        - FAULT * answer["faults"]
        - REPEATS * repeated
        - WORN * worn
        - SHORT * max(0, WORDS - len(words))
    )


def pair_of(prompt: str, answers: Sequence[dict[str, Any]]) -> Pair | None:
    """The best and the worst answer without a fault; None where they are too much alike, or bad."""
    sound = [answer for answer in answers if not answer["faults"] and answer["tokens"]]
    sound.sort(key=partial(quality, prompt))
    if len(sound) < 2:
        return None
    best, worst = quality(prompt, sound[-1]), quality(prompt, sound[0])
    if best < LEAST or best - worst < MARGIN:
        return None
    worse, better = (
        tuple(map(index, [*answer["tokens"], *([] if answer["end"] is None else [answer["end"]])]))
        for answer in (sound[0], sound[-1])
    )
    return Pair(prompt, better, worse)


def read_people(path: Path) -> list[Person]:
    """People of a file of `export.preferences` who have turns and a pair.

    Raises:
        DataError: it is no such file, or nobody in it has.
    """
    people = []
    try:  # Texts may hold other breaks than that of a line.
        lines = path.read_text("utf-8").removesuffix("\n").split("\n")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: byte {error.start + 1} is not UTF-8") from None
    for number, line in enumerate(lines, 1):
        try:
            told = json.loads(line)
            turns = tuple(Note(answer, ask) for ask, answer in told["turns"])
            notes = tuple(Note(output, asked) for asked, output in told["notes"])
            found = [pair_of(each["prompt"], each["answers"]) for each in told["asked"]]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(
                f"{path}: line {number} is not of export.preferences: {error!r}"[:300]
            ) from None
        if turns and any(found):
            people.append(Person(turns, notes, tuple(pair for pair in found if pair)))
    if not people:
        raise DataError(f"{path}: nobody in it has turns and two answers that differ enough")
    return people


class Preference:
    """What is taught, and by whom.

    Args:
        plug: whose kept soft tokens are taught; they are where it begins.
        llm: the model, in the plug's template.
        head: is taught; of the same weights as the plug's.
        train, dev: people.
        n_people: of a step.
        beta, anchor: of the formula.
        seed: of who is asked in a step.

    Raises:
        ValueError: the answers are of another model.
    """

    names = ("preference", "preferred", "nll")

    def __init__(
        self,
        plug: Plug,
        llm: FrozenLLM,
        head: KeptHead,
        train: Sequence[Person],
        dev: Sequence[Person],
        *,
        n_people: int,
        beta: float,
        anchor: float,
        seed: int,
    ) -> None:
        self.plug, self.llm, self.head = plug, llm, head
        self.train, self.others = train, dev
        known = range(len(llm.table))
        pairs = [pair for person in (*train, *dev) for pair in person.pairs]
        if any(token not in known for pair in pairs for token in (*pair.better, *pair.worse)):
            raise ValueError("answers have tokens that the model has not: they are of another one")
        self.n_people = min(n_people, len(train))
        self.beta, self.anchor, self.seed = beta, anchor, seed
        self._prefixes = Prefixes(llm, keep=len(train) + len(dev))
        self._vectors = NoteVectors(plug)
        self._pooled: dict[Person, NDArray[np.float32]] = {}
        self._before: dict[tuple[Person, Pair], list[float]] = {}
        self._opening = llm.tokens(OPENING, special=True)
        self._middle = llm.tokens(MIDDLE, special=True)

    def step(self, step: int) -> Iterator[Part]:
        """The parts of a step's loss."""
        rng = np.random.default_rng([self.seed, step, 3])
        chosen = []
        for i in rng.choice(len(self.train), self.n_people, replace=False).tolist():
            person = self.train[i]
            count = min(EACH, len(person.pairs))
            places = rng.choice(len(person.pairs), count, replace=False).tolist()
            chosen += [(person, person.pairs[place]) for place in places]
        yield from self._parts(chosen)

    def dev(self) -> Iterator[Part]:
        """The same of all dev people."""
        for person in self.others:
            yield from self._parts([(person, pair) for pair in person.pairs])

    def _parts(self, chosen: Sequence[tuple[Person, Pair]]) -> Iterator[Part]:
        lengths = [len(pair.better) + len(pair.worse) for _, pair in chosen]
        for group in alike(lengths, LEAST_ROWS[self.llm.device.type]):
            loss, numbers = self._losses([chosen[i] for i in group])
            yield loss.sum() / len(chosen), numbers

    def _losses(self, chosen: Sequence[tuple[Person, Pair]]) -> tuple[Tensor, NDArray[np.float64]]:
        """The loss of each pair, float32 [B], and what is told of it, float64 [B, 3]."""
        missing = [each for each in chosen if each not in self._before]
        if missing:
            with torch.no_grad():
                found = self._logprobs(missing, self._kept_before(missing))
            self._before.update(zip(missing, found.tolist(), strict=True))
        before = torch.tensor([self._before[each] for each in chosen], device=self.llm.device)
        pooled = np.stack([self._pooled_of(person) for person, _ in chosen])
        found = self._logprobs(chosen, self.head(torch.from_numpy(pooled).to(self.llm.device)))
        gained = found - before
        preference = -F.logsigmoid(self.beta * (gained[:, 0] - gained[:, 1]))
        lengths = torch.tensor([float(len(pair.better)) for _, pair in chosen])
        nll = -found[:, 0] / lengths.to(found.device)
        told = torch.stack([preference, (gained[:, 0] > gained[:, 1]).float(), nll], 1)
        return preference + self.anchor * nll, told.detach().double().cpu().numpy()

    def _logprobs(self, chosen: Sequence[tuple[Person, Pair]], kept: Tensor) -> Tensor:
        """Log-probabilities of the better and the worse answers, float32 [B, 2]."""
        turns = [person.turns for person, _ in chosen for _ in range(2)]
        people = list(dict.fromkeys(turns))
        before = stacked(self._prefixes.of(people), [people.index(each) for each in turns])
        behind = [
            [*self._opening, *self.llm.tokens(pair.prompt, special=False)[:MAX_PROMPT],
             *self._middle]
            for _, pair in chosen
            for _ in range(2)
        ]  # fmt: skip
        answers = [list(ids) for _, pair in chosen for ids in (pair.better, pair.worse)]
        kept = kept.repeat_interleave(2, 0)
        logits, tokens, _ = self.llm.answer_logits(before, kept, behind, answers)
        each = -F.cross_entropy(logits, tokens, reduction="none")
        return torch.stack([part.sum() for part in each.split([*map(len, answers)])]).view(-1, 2)

    def _kept_before(self, chosen: Sequence[tuple[Person, Pair]]) -> Tensor:
        kept = [self.plug.project_kept(self._pooled_of(person)) for person, _ in chosen]
        return torch.from_numpy(np.stack(kept)).to(self.llm.device)

    def _pooled_of(self, person: Person) -> NDArray[np.float32]:
        if person not in self._pooled:
            asks = mean_query([self.plug.encode_prompt(turn.input) for turn in person.turns])
            (self._pooled[person],) = self._vectors.pooled(person.notes, [asks])
        return self._pooled[person]
