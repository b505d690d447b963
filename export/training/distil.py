"""Kept soft tokens learn from the soft tokens behind the prompt (knowledge distillation).

A plug's soft tokens stand behind the prompt, and so are read anew with each. Kept ones stand behind
a person's turns and before the prompt: the model reads them once. They are taught to make the
frozen model say what it says with the others. Of each example, p being the model's distribution
behind turns, prompt and the plug's soft tokens, and q that behind turns, kept ones and prompt:

    loss = KL(p_1 | q_1) + mean_t>1 KL(p_t | q_t) + nll_weight * mean_t -log q_t(answer's token)

The first token has a term of its own, as what soft tokens bring is mostly there
(docs/ablations.md). p is a plug's that wants to begin the next turn where an answer ends, if it was
taught so: that probability is the end's.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from export.models.base_llm import LEAST_ROWS, FrozenLLM
from export.models.batching import alike
from export.models.kept import KeptHead
from export.models.note_vectors import NoteVectors
from export.training.kept_run import Part
from export.training.sampler import Batch
from export.training.turn_sampler import TurnedSampler
from export.training.turns import MIDDLE, OPENING, Prefixes, stacked
from ppedge.plug.conditioning import mean_query
from ppedge.plug.plug import Plug
from ppedge.turns.ask import ask_for

MAX_PROMPT = 96  # LLM tokens
_NEVER = -30.0  # a logit


@dataclass(frozen=True)
class Losses:
    """Of some examples, each float32 [B]; see the formula above.

    Attributes:
        first: nats, KL of the first token.
        rest: nats, mean KL of the others.
        nll: nats a token of the answer, behind the kept soft tokens.
    """

    first: Tensor
    rest: Tensor
    nll: Tensor

    def weighed(self, nll_weight: float) -> Tensor:
        """The loss of each example."""
        return self.first + self.rest + nll_weight * self.nll

    def numbers(self) -> NDArray[np.float64]:
        """All of it, float64 [B, 3]."""
        return torch.stack([self.first, self.rest, self.nll], 1).detach().double().cpu().numpy()


class Distillation:
    """The frozen plug and model, and what is taught.

    Args:
        plug: whose soft tokens are the teacher's.
        llm: the model, in the plug's template.
        head: is taught.
        train: who is learnt from.
        dev: examples of others.
        n_answer: tokens of an answer that are looked at, at most.
        nll_weight: of the formula.
    """

    names = ("first token", "other tokens", "nll")

    def __init__(
        self,
        plug: Plug,
        llm: FrozenLLM,
        head: KeptHead,
        train: TurnedSampler,
        dev: Sequence[Batch],
        *,
        n_answer: int,
        nll_weight: float,
    ) -> None:
        self.plug, self.llm, self.head = plug, llm, head
        self.train, self.others = train, dev
        self.n_answer, self.nll_weight = n_answer, nll_weight
        # Turns stay read of all who sit, and of dev's people.
        sitting = train.seats + len({turns for batch in dev for turns in map(tuple, batch.turns)})
        self.prefixes = Prefixes(llm, keep=sitting)
        self._vectors = NoteVectors(plug)
        self._query = lru_cache(1 << 14)(plug.encode_prompt)
        self._opening = llm.tokens(OPENING, special=True)
        self._middle = llm.tokens(MIDDLE, special=True)
        self._turn = self._opening[0]

    def step(self, step: int) -> Iterator[Part]:
        """The parts of a step's loss."""
        yield from self._parts(self.train.step(step))

    def dev(self) -> Iterator[Part]:
        """The same of dev people."""
        for batch in self.others:
            yield from self._parts(batch)

    def _parts(self, batch: Batch) -> Iterator[Part]:
        for losses in self.losses(batch):
            yield losses.weighed(self.nll_weight).sum() / len(batch.questions), losses.numbers()

    def losses(self, batch: Batch) -> Iterator[Losses]:
        """Of a batch's examples, group by group of like length; people without turns have none."""
        chosen = [i for i, turns in enumerate(batch.turns) if turns]
        asked = [self._cut(batch.questions[i].input, MAX_PROMPT) for i in chosen]
        written = [
            [*self.llm.tokens(batch.questions[i].output, special=False), self.llm.end]
            for i in chosen
        ]
        answers = [ids[: self.n_answer] for ids in written]
        lengths = [len(a) + len(b) for a, b in zip(asked, answers, strict=True)]
        for group in alike(lengths, LEAST_ROWS[self.llm.device.type]):
            places = [chosen[i] for i in group]
            yield self._losses(
                batch, places, [asked[i] for i in group], [answers[i] for i in group]
            )

    def _losses(
        self,
        batch: Batch,
        places: Sequence[int],
        asked: Sequence[list[int]],
        answers: Sequence[list[int]],
    ) -> Losses:
        """Of the examples at some places, whose prompts and answers are token ids."""
        llm, turns = self.llm, [tuple(batch.turns[i]) for i in places]
        soft, pooled = zip(*(self._said(batch, i) for i in places), strict=True)
        behind = [[*self._opening, *ids, *self._middle] for ids in asked]
        with torch.no_grad():
            head = self.prefixes.run_heads([[*llm.words.start, *ids] for ids in behind], turns)
            rows = torch.from_numpy(np.stack(soft)).to(llm.device)
            taught, _, _ = llm.answer_logits(head, rows, [[] for _ in places], answers)
            taught = self._ended(taught)
        people = list(dict.fromkeys(turns))
        before = stacked(self.prefixes.of(people), [people.index(each) for each in turns])
        kept = self.head(torch.from_numpy(np.stack(pooled)).to(llm.device))
        said, tokens, _ = llm.answer_logits(before, kept, behind, answers)
        return compare(taught, said, tokens, [len(ids) for ids in answers])

    def _said(self, batch: Batch, i: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """What the plug says behind the prompt, and what kept soft tokens are made of."""
        query = self._query(batch.questions[i].input)
        asks = mean_query([self._query(ask_for(note)) for note in batch.turns[i]])
        own, kept = self._vectors.pooled(batch.histories[i], [query, asks])
        return self.plug.project(own).vectors, kept

    def _cut(self, text: str, n_tokens: int) -> list[int]:
        return list(self.llm.tokens(text, special=False)[:n_tokens])

    def _ended(self, logits: Tensor) -> Tensor:
        """Logits with the probability of another turn moved to the end."""
        if self._turn == self.llm.end:
            return logits
        moved = logits.clone()
        moved[:, self.llm.end] = logits[:, [self.llm.end, self._turn]].logsumexp(1)
        moved[:, self._turn] = _NEVER
        return moved


def compare(taught: Tensor, said: Tensor, tokens: Tensor, lengths: Sequence[int]) -> Losses:
    """The losses of answers that lie one behind another.

    Args:
        taught, said: logits float32 [n, n_vocab], the teacher's and the other's.
        tokens: the answers', int64 [n].
        lengths: of each answer, at least 1.
    """
    p, q = taught.log_softmax(-1), said.log_softmax(-1)
    divergence = (p.exp() * (p - q)).sum(-1).split(list(lengths))
    nll = F.nll_loss(q, tokens, reduction="none").split(list(lengths))
    nothing = said.new_zeros(())
    return Losses(
        torch.stack([each[0] for each in divergence]),
        torch.stack([each[1:].mean() if len(each) > 1 else nothing for each in divergence]),
        torch.stack([each.mean() for each in nll]),
    )


def start_rows(llm: FrozenLLM, n_rows: int, text: str) -> Tensor:
    """Embedding rows float32 [n_rows, E] of a text, again and again, to begin from."""
    ids = llm.tokens(text, special=False)
    chosen = [ids[i % len(ids)] for i in range(n_rows)]
    return llm.table[chosen].detach().float().cpu()
