"""The plug, the frozen LLM and the frozen encoder together: losses of examples and of dev users."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from export.data.lamp import Question, swap_histories
from export.models.base_llm import FrozenLLM
from export.models.features import Features, byte_rows
from export.models.plug import PersonaPlug
from export.training.contrast import contrast
from export.training.distributed import Distributed
from export.training.retrieval_prompts import BUDGET as NOTES_BUDGET
from export.training.sampler import Batch
from export.training.turns import Prefixes
from ppedge.notes.reader import Note
from ppedge.plug.template import note_text

MAX_PROMPT = 128  # LLM tokens of a training prompt; dev prompts are never cut
MAX_ANSWER = 64
# own history, another user's, the null note alone, no soft tokens at all
VARIANTS = ("own", "swapped", "cold", "none")


@dataclass(frozen=True)
class Contrast:
    """How much the contrastive term counts; see ``export/training/contrast.py``."""

    weight: float = 0.0
    first_step: int = 0  # it is left out of the steps before
    margin: float = 0.0  # nats per token

    def at(self, step: int) -> bool:
        """Whether this step has the term."""
        return self.weight > 0 and step >= self.first_step


@dataclass(frozen=True)
class Projected:
    """What the plug says to a batch of prompts."""

    soft: Tensor  # float32 [B, n_soft, E]
    control: Tensor | None = None  # float32 [B, n_control, E]


class Trainer:
    """What passes between the plug, the frozen LLM and the frozen encoder."""

    def __init__(self, plug: PersonaPlug, llm: FrozenLLM, features: Features) -> None:
        self.plug, self.llm, self.features = plug, llm, features
        self.prefixes = Prefixes(llm)

    def queries(self, prompts: Sequence[str]) -> Tensor:
        """Queries [B, K] of prompts, through whichever encoder the plug has for them."""
        if self.plug.query_encoder is None:
            return self.plug.query(self.features.vectors_of(prompts))
        return self.plug.encode_query(*self.features.tokens_of(prompts))

    def condition(self, prompts: Sequence[str], histories: Sequence[Sequence[Note]]) -> Projected:
        """What the plug says to each prompt over its own history, oldest note first."""
        pooled = self.pooled(prompts, histories)
        return Projected(self.plug.soft_tokens(pooled), self.plug.control(pooled))

    def pooled(self, prompts: Sequence[str], histories: Sequence[Sequence[Note]]) -> Tensor:
        """Pooled values [B, V] of each prompt over its own history."""
        config, device = self.plug.config, self.features.device
        if not config.n_persona:
            return torch.zeros(len(prompts), config.d_value, device=device)
        # Each distinct note is encoded once, then spread to the examples that hold it.
        notes = list(dict.fromkeys(note for history in histories for note in history))
        row = {note: i for i, note in enumerate(notes)}
        query = self.queries(prompts)
        width = max(1, *map(len, histories))
        index = torch.zeros(len(histories), width, dtype=torch.long)
        mask = torch.zeros(len(histories), width, dtype=torch.bool)
        for i, history in enumerate(histories):
            index[i, : len(history)] = torch.tensor([row[n] for n in history], dtype=torch.long)
            mask[i, : len(history)] = True
        keys = torch.zeros(1, config.d_key, device=device)
        values = torch.zeros(1, config.d_value, device=device)
        if notes:
            texts = [note_text(note, config.value_fields) for note in notes]
            asked = [note_text(note, config.key_fields) for note in notes]
            keys = self.plug.key(self.features.vectors_of(asked))
            spelt = (each.to(device) for each in byte_rows(texts)) if config.d_style else ()
            values = self.plug.value(self.features.vectors_of(texts), *spelt)
        index, mask = index.to(device), mask.to(device)
        return self.plug.pool(query, keys[index], values[index], mask)

    def nll(
        self,
        questions: Sequence[Question],
        variants: Sequence[Projected | None],
        room: Sequence[int] | None,
        turns: Sequence[Sequence[Note]] = (),
    ) -> list[tuple[Tensor, Tensor]]:
        """Nats and token counts [B] of the answers, for each variant of the conditioning.

        Each prompt is cut at its ``room``, in LLM tokens. ``turns`` are the notes that stand
        before each as earlier turns; empty for none before any.
        """
        rooms = [None] * len(questions) if room is None else room
        sides = [
            self.llm.around_soft(q.input, tokens)
            for q, tokens in zip(questions, rooms, strict=True)
        ]
        # An answer that is cut does not end where it is cut.
        answers = [
            [*self.llm.tokens(q.output, special=False), self.llm.end][: MAX_ANSWER + 1]
            for q in questions
        ]
        befores = [before for before, _ in sides]
        head = self.prefixes.run_heads(befores, turns) if turns else self.llm.run_heads(befores)
        tails = [after for _, after in sides]
        return [
            self.llm.nll(head, said.soft, tails, answers, said.control)
            if said
            else self.llm.nll(head, None, tails, answers)
            for said in variants
        ]

    def loss(
        self, batch: Batch, distributed: Distributed | None = None, term: Contrast | None = None
    ) -> Tensor:
        """This process's part of the loss of a step.

        The loss is the mean of nats per target token, plus, where the batch has negatives, the
        weight times the mean of the contrastive term. Both means are over the whole step.

        Args:
            batch: this process's examples; none is too few.
            distributed: the processes that share the step; None for this one alone.
            term: the contrastive term's weight and margin; None for no such term.

        Returns:
            A part with gradients: the sum over the processes is the loss.
        """
        prompts = [q.input for q in batch.questions]
        variants: list[Projected | None] = [self.condition(prompts, batch.histories)]
        rivalled = torch.tensor([rival is not None for rival in batch.negatives], dtype=torch.bool)
        if term is not None and rivalled.any():
            variants.append(self.condition(prompts, [rival or () for rival in batch.negatives]))
        read = batch.prompts or prompts
        asked = [replace(q, input=text) for q, text in zip(batch.questions, read, strict=True)]
        # What notes add is not to push out what is asked.
        room = [
            MAX_PROMPT + (NOTES_BUDGET if with_notes != bare else 0)
            for with_notes, bare in zip(read, prompts, strict=True)
        ]
        own, *swapped = self.nll(asked, variants, room, batch.turns)
        totals = torch.stack([own[1].sum(), rivalled.sum().to(own[1])])
        tokens, pairs = totals if distributed is None else distributed.sum(totals)
        loss = own[0].sum() / tokens
        if term is not None and swapped:
            summed = contrast(own, swapped[0], rivalled.to(own[0].device), term.margin)
            loss = loss + term.weight * summed / pairs
        return loss

    @torch.no_grad()
    def score(
        self,
        questions: Sequence[Question],
        seed: int,
        turns: Sequence[Sequence[Note]] = (),
        distributed: Distributed | None = None,
    ) -> np.ndarray:
        """Nats of every question's answer for each of ``VARIANTS``, and its token count.

        Args:
            questions: dev's.
            seed: of whose history is swapped for whose.
            turns: of each question, stand before it in every variant; empty for none.
            distributed: the processes that share the work; None for this one alone.

        Returns:
            float64 [len(questions), len(VARIANTS) + 1], in the order of ``questions``.
        """
        swapped = swap_histories(questions, seed)
        table = np.zeros((len(questions), len(VARIANTS) + 1))
        order = sorted(range(len(questions)), key=lambda i: len(questions[i].input))
        order = order if distributed is None else order[distributed.index :: distributed.size]
        for start in range(0, len(order), 16):
            chosen = order[start : start + 16]
            part = [questions[i] for i in chosen]
            prompts = [q.input for q in part]
            variants = [
                self.condition(prompts, [q.history for q in part]),
                self.condition(prompts, [swapped[i] for i in chosen]),
                self.condition(prompts, [() for _ in part]),
                None,
            ]
            scored = self.nll(part, variants, None, [turns[i] for i in chosen] if turns else ())
            columns = [nats for nats, _ in scored] + [scored[0][1]]
            table[chosen] = torch.stack(columns, 1).cpu().numpy()
        if distributed is None:
            return table
        whole: np.ndarray = (
            distributed.sum(torch.from_numpy(table).to(distributed.device)).cpu().numpy()
        )
        return whole

    def evaluate(
        self,
        questions: Sequence[Question],
        seed: int,
        turns: Sequence[Sequence[Note]] = (),
        distributed: Distributed | None = None,
    ) -> dict[str, dict[str, float]]:
        """Nats per target token by task and variant; arguments as of `score`."""
        table = self.score(questions, seed, turns, distributed)
        tasks = np.array([q.task for q in questions])
        report = {}
        for task in sorted(set(tasks)):
            *nats, count = table[tasks == task].sum(0)
            report[f"task {task}"] = {
                name: float(total / count) for name, total in zip(VARIANTS, nats, strict=True)
            }
        return report
