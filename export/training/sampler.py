"""Which examples a training step sees: a function of the seed and the step alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from export.data.lamp import Question
from export.data.leave_one_out import leave_one_out
from export.data.tasks import task_of
from export.synthetic.choices import draw_choice
from export.synthetic.dataset import TASK, SyntheticPersonas
from export.synthetic.personas import draw_persona
from export.synthetic.style_transfer import STYLED, transfer_style
from export.tools.draws import one_of
from ppedge.notes.reader import Note

# Shares of the training examples by task, 0 being synthetic personas (``export.synthetic``) and 8
# free text (``turn_sampler.py``); those of the tasks that are trained on are scaled to 1.
SHARES = {0: 0.5, 1: 0.3, 2: 0.3, 3: 0.4, 4: 0.15, 5: 0.15, 6: 0.4, 7: 0.3, 8: 0.5}
# Of these, the share that a general writing prompt asks for: people write commits, papers and
# tweets at length, whereas a headline's article, a film and a review are not theirs to retell.
GENERAL = {1: 0.0, 2: 0.0, 3: 0.0, 4: 0.0, 5: 0.2, 6: 0.25, 7: 0.5}
MAX_NOTES = 48  # notes of one training example; dev users keep all of theirs
BUCKET = 8  # batches that are drawn together and sorted by length


@dataclass
class Batch:
    """B examples: what is asked, and the history that it is asked with.

    ``negatives`` are other people's histories, one an example or None; empty without contrast.
    ``prompts`` are what the LLM reads; empty where that is what is asked and no more.
    ``turns`` are the notes that stand before each prompt as earlier turns; empty without turns.
    """

    questions: list[Question]
    histories: list[Sequence[Note]]
    negatives: list[Sequence[Note] | None]
    prompts: list[str] = field(default_factory=list)
    turns: list[Sequence[Note]] = field(default_factory=list)

    def part(self, index: int, parts: int) -> Batch:
        """Every ``parts``-th example: the batch is sorted by length, so the parts weigh alike."""
        taken = slice(index, None, parts)
        return Batch(
            self.questions[taken],
            self.histories[taken],
            self.negatives[taken],
            self.prompts[taken],
            self.turns[taken],
        )


def keep_some(
    notes: Sequence[Note],
    rng: np.random.Generator,
    *,
    in_order: bool = False,
    least: int = 0,
    dropout: bool = True,
) -> list[Note]:
    """History dropout: now and then 0 to 2 notes, else half to all, at most ``MAX_NOTES``.

    At least ``least`` are kept, where there are so many; without ``dropout``, all that there is
    room for.

    They come in random order unless ``in_order`` asks for the history's own.
    """
    few = rng.random() < 0.15
    count = int(rng.integers(0, 3)) if few else int(rng.integers(len(notes) // 2, len(notes) + 1))
    count = min(max(count, least) if dropout else len(notes), len(notes), MAX_NOTES)
    kept = rng.permutation(len(notes))[:count]
    return [notes[i] for i in (np.sort(kept) if in_order else kept)]


class Sampler:
    """Draws training examples: a task, then a user, then a question or a note left out."""

    def __init__(
        self,
        questions: Sequence[Question],
        batch: int,
        seed: int,
        *,
        shares: Mapping[int, float] = SHARES,
        in_order: bool = False,
        synthetic: SyntheticPersonas | None = None,
        leave_one_out: bool = True,
        dropout: bool = True,
        style_transfer: float = 0.0,
        choices: float = 0.0,
    ) -> None:
        """Sort the questions by task and user.

        Args:
            questions: all there are to train on.
            batch: examples of one step.
            seed: of everything drawn.
            shares: weight of each task among the examples; every task needs one above 0.
            in_order: keep the notes of a history in its order.
            synthetic: synthetic people to train on as well, as task 0.
            leave_one_out: ask for notes too, and not for the files' own questions alone.
            dropout: of notes, see `keep_some`.
            style_transfer: share of the tasks' examples that are rewritten in a persona's style.
            choices: share of the synthetic people who label texts and do not write any.
        """
        self.batch, self.seed, self.in_order, self.synthetic = batch, seed, in_order, synthetic
        self.leave_one_out, self.dropout = leave_one_out, dropout
        self.style_transfer, self.choices = style_transfer, choices
        self.users: dict[int, list[list[Question]]] = {}
        for task in sorted({q.task for q in questions}):
            users: dict[str, list[Question]] = {}
            for question in questions:
                if question.task == task:
                    users.setdefault(question.user, []).append(question)
            self.users[task] = list(users.values())
        self.tasks = [*self.users, *([TASK] if synthetic else [])]
        weights = np.array([shares[task] for task in self.tasks])
        self.shares = weights / weights.sum()

    def draw(self, rng: np.random.Generator) -> Question:
        """One example."""
        task = self.tasks[int(rng.choice(len(self.tasks), p=self.shares))]
        if task == TASK and self.synthetic:
            if self.choices and rng.random() < self.choices:
                return draw_choice(self.synthetic.texts, rng)
            return self.synthetic.draw(rng)
        question = self._of_person(task, rng)
        transfer = self.style_transfer and rng.random() < self.style_transfer
        if transfer and task_of(task).kind == "text":
            return transfer_style(question, draw_persona(rng), rng)
        return question

    def _of_person(self, task: int, rng: np.random.Generator) -> Question:
        """A user's own question, or one of their notes left out."""
        user = one_of(rng, self.users[task])
        question = one_of(rng, user)
        if rng.random() < 0.25 or not question.history or not self.leave_one_out:
            return question
        left_out = leave_one_out(
            question,
            int(rng.integers(len(question.history))),
            general=rng.random() < GENERAL[task],
            rng=rng,
        )
        return left_out or question

    def step(self, step: int) -> Batch:
        """The batch of one step: one of ``BUCKET`` batches drawn together, sorted by length."""
        rng = np.random.default_rng([self.seed, step // BUCKET])
        drawn = [self.draw(rng) for _ in range(BUCKET * self.batch)]
        drawn.sort(key=lambda q: len(q.input))
        place = int(rng.permutation(BUCKET)[step % BUCKET])
        questions = drawn[place * self.batch : (place + 1) * self.batch]
        rng = np.random.default_rng([self.seed, step, 1])
        kept = [
            # Nobody can tell a synthetic persona from no notes.
            keep_some(
                q.history,
                rng,
                in_order=self.in_order,
                least=int(q.task == TASK or q.id.endswith(STYLED)),
                dropout=self.dropout,
            )
            for q in questions
        ]
        return Batch(questions, kept, [])
