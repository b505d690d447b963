"""Training with turns: people who sit for a while, some of their notes before every prompt.

    sampler = TurnedSampler(Sampler(...), authors, turns=8)
    batch = sampler.step(7)

What stands before a prompt costs as much to run as the rest of a training step, so it is shared: a
*seat* is one person with fixed turns, and is asked for several of the other notes in one step and
in some later ones. Every step some seats are given to other people.

Beside synthetic personas (task 0) and LaMP's tasks there are people of free text (`FREE_TEXT`):
authors of changelogs, and what the people of the tasks write at length. A request names some of
the words of what they wrote.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from export.data.authors import Author
from export.data.lamp import Question
from export.data.leave_one_out import leave_one_out, neutralise, opening
from export.synthetic.corpus import CorpusText
from export.synthetic.dataset import RESTATE, TASK, SyntheticPersonas, write_as
from export.synthetic.personas import SyntheticPersona, draw_persona
from export.tools.draws import one_of
from export.training.sampler import SHARES, Batch, Sampler, keep_some
from ppedge.notes.reader import Note
from ppedge.turns.ask import FORMS, request

FREE_TEXT = 8  # beside LaMP's tasks and synthetic personas
RUNNING_TEXT = (5, 6, 7)  # tasks whose people write running text of their own
EACH = 4  # questions of one person in a step
SITTINGS = 4  # steps that a person is asked in, about
ALONE = 0.12  # of the people, who have no turns: the plug must do without them too
FEWER = 0.2  # of the people, who have fewer turns than there may be
TARGETS = 4  # notes of a person that are left to be asked for, at least
MOST_NOTES = 32  # of a person who sits: each has to be encoded
CONTINUE = ("Continue: {}", "Go on from here: {}", "Finish what I began: {}")
LEAST = 8  # words of a text that can be begun and left to be finished
REQUESTS = (*FORMS, "Write a few sentences about {}.", "I want to say something about {}.")
Rng = np.random.Generator


@dataclass(frozen=True)
class Seat:
    """A person who sits: the turns, and who draws what else they are asked."""

    turns: tuple[Note, ...]
    ask: Callable[[Rng], Question]


class TurnedSampler:
    """Draws the batches of a training with turns."""

    def __init__(
        self,
        sampler: Sampler,
        authors: Sequence[Author] = (),
        *,
        shares: Mapping[int, float] = SHARES,
        turns: int,
        seats: int | None = None,
        dev: bool = False,
    ) -> None:
        """Gather the people.

        Args:
            sampler: holds the tasks' people, the personas, the seed and the batch.
            authors: of free text, besides those that the tasks have.
            shares: weight of each task among the people who sit.
            turns: before a prompt, at most.
            seats: people who sit at one time, an even number; None for 32, or for twice as many
                as a step asks.
            dev: take the authors that are dev's, and not those to train on.

        Raises:
            ValueError: the batch is not made of as many people of each side.
        """
        if sampler.batch % (2 * EACH):
            raise ValueError(f"--turns wants a --batch of {2 * EACH} times something")
        self.sampler, self.turns = sampler, turns
        self.seats = seats or max(32, 2 * sampler.batch // EACH)
        self.renewed = max(1, sampler.batch // (EACH * SITTINGS))  # seats a step
        self.free_text = free_text(sampler, authors, dev=dev)
        self.tasks = [*sampler.tasks, *([FREE_TEXT] if self.free_text else [])]
        weights = np.array([shares[task] for task in self.tasks])
        self.shares = weights / weights.sum()
        self._sitting: dict[int, tuple[int, Seat]] = {}

    def step(self, step: int) -> Batch:
        """The batch of one step; half of its people are of even seats, half of odd ones.

        Two processes that share it so meet none of the other's people, and each runs its own's
        turns alone.
        """
        rng = np.random.default_rng([self.sampler.seed, step, 7])
        half = self.sampler.batch // EACH // 2
        sides = [2 * rng.choice(self.seats // 2, half, replace=half > self.seats // 2) + side
                 for side in (0, 1)]  # fmt: skip
        batch = Batch([], [], [])
        for pair in zip(*sides, strict=True):
            seats = [self.seat(int(place), step) for place in pair]
            for _ in range(EACH):
                for seat in seats:
                    question = seat.ask(rng)
                    batch.questions.append(question)
                    batch.histories.append(
                        keep_some(
                            question.history,
                            rng,
                            in_order=self.sampler.in_order,
                            least=int(question.task == TASK),
                            dropout=self.sampler.dropout,
                        )
                    )
                    batch.turns.append(seat.turns)
        return batch

    def seat(self, place: int, step: int) -> Seat:
        """Who sits at a place in a step; it hangs on the seed, the place and the step alone."""
        generation = (self.renewed * step + place) // self.seats
        if self._sitting.get(place, (-1,))[0] != generation:
            rng = np.random.default_rng([self.sampler.seed, 11, place, generation])
            self._sitting[place] = (generation, self._draw(rng))
        return self._sitting[place][1]

    def _draw(self, rng: Rng) -> Seat:
        """Somebody new."""
        task = self.tasks[int(rng.choice(len(self.tasks), p=self.shares))]
        most = self.turns
        if rng.random() < ALONE:
            most = 0
        elif rng.random() < FEWER:
            most = int(rng.integers(1, self.turns + 1))
        if task == TASK and self.sampler.synthetic:
            return persona(self.sampler.synthetic, most, rng)
        if task == FREE_TEXT:
            source = one_of(rng, list(self.free_text))
            return writer(some(one_of(rng, self.free_text[source]), rng), most, rng)
        question = one_of(rng, one_of(rng, self.sampler.users[task]))
        return worker(replace(question, history=some(question.history, rng)), most, rng)


def free_text(
    sampler: Sampler, authors: Sequence[Author], *, dev: bool = False
) -> dict[str, list[tuple[Note, ...]]]:
    """People of free text by source: authors who are dev's or are not, and the tasks' people."""
    found: dict[str, list[tuple[Note, ...]]] = {}
    for author in authors:
        if author.dev == dev:
            found.setdefault(author.source, []).append(tuple(map(Note, author.notes)))
    for task in RUNNING_TEXT:
        for questions in sampler.users.get(task, ()):
            notes = running_text(max(questions, key=lambda q: len(q.history)).history)
            if len(notes) >= 2 * TARGETS:
                found.setdefault(f"task {task}", []).append(notes)
    return found


def running_text(history: Sequence[Note]) -> tuple[Note, ...]:
    """What a person wrote at length, each text once: a commit's body, an abstract, a tweet."""
    texts = (opening((note.input or note.output).strip()) for note in history)
    return tuple(map(Note, dict.fromkeys(text for text in texts if len(text.split()) >= 5)))


def some(notes: Sequence[Note], rng: Rng) -> tuple[Note, ...]:
    """At most ``MOST_NOTES`` of a person's notes, in their order."""
    chosen = np.sort(rng.permutation(len(notes))[:MOST_NOTES])
    return tuple(notes[i] for i in chosen)


def split(count: int, most: int, rng: Rng) -> tuple[list[int], list[int]]:
    """Which of ``count`` notes are turns, in order, and which are left to be asked for."""
    turns = max(0, min(most, count - TARGETS))
    order = rng.permutation(count)
    return sorted(order[:turns].tolist()), order[turns:].tolist()


def writer(notes: Sequence[Note], most: int, rng: Rng) -> Seat:
    """A person of free text."""
    turns, left = split(len(notes), most, rng)
    name = f"writer-{int(rng.integers(1 << 62))}"

    def ask(rng: Rng) -> Question:
        place = int(one_of(rng, left))
        prompt, answer = free_request(notes[place].output, rng)
        rest = tuple(note for i, note in enumerate(notes) if i != place)
        return Question(f"{name}/{place}", name, FREE_TEXT, prompt, answer, rest)

    return Seat(tuple(notes[i] for i in turns), ask)


def free_request(text: str, rng: Rng) -> tuple[str, str]:
    """A request that a text answers, and what of it is wanted."""
    kind, words = rng.random(), text.split()
    if kind > 0.9:
        return one_of(rng, RESTATE).format(neutralise(text)), text
    if kind > 0.75 and len(words) >= LEAST:
        cut = int(rng.integers(3, len(words) // 2 + 1))
        return one_of(rng, CONTINUE).format(" ".join(words[:cut])), " ".join(words[cut:])
    return request(one_of(rng, REQUESTS), text, count=int(rng.integers(1, 5))), text


def worker(question: Question, most: int, rng: Rng) -> Seat:
    """A person of one of LaMP's tasks, in the task's words."""
    turns, left = split(len(question.history), most, rng)

    def ask(rng: Rng) -> Question:
        # A note may leave nothing to ask from; the file's own question always stands.
        asked = None
        if left and rng.random() < 0.85:
            place = int(one_of(rng, left))
            asked = leave_one_out(question, place, general=False, rng=rng)
        return asked or question

    return Seat(tuple(question.history[i] for i in turns), ask)


def persona(synthetic: SyntheticPersonas, most: int, rng: Rng) -> Seat:
    """A synthetic person; every text has one place, among the notes or among what is asked for."""
    habits = draw_persona(rng)
    asked = 3 * EACH
    count = min(int(rng.integers(3, 25)), len(synthetic.texts) - asked)
    chosen = [
        synthetic.texts[i] for i in rng.choice(len(synthetic.texts), count + asked, replace=False)
    ]
    notes = tuple(said_by(habits, chosen[:count], rng))
    name = f"persona-{int(rng.integers(1 << 62))}"

    def ask(rng: Rng) -> Question:
        place = int(rng.integers(asked))
        kind = int(rng.choice(3, p=(0.7, 0.2, 0.1)))
        prompt, text = write_as(chosen[count + place], habits, kind, rng)
        return Question(f"{name}/{place}", name, TASK, prompt, text, notes)

    return Seat(tuple(notes[i] for i in np.sort(rng.permutation(count)[:most])), ask)


def said_by(habits: SyntheticPersona, texts: Sequence[CorpusText], rng: Rng) -> list[Note]:
    """Notes of a synthetic person, most of them without an input."""
    kinds = [int(rng.choice(3)) if rng.random() < 0.25 else -1 for _ in texts]
    said = [write_as(text, habits, kind, rng) for text, kind in zip(texts, kinds, strict=True)]
    return [Note(text, prompt) for prompt, text in said]


def dev_writers(authors: Sequence[Author], limit: int, seed: int) -> list[Question]:
    """One question to each of up to ``limit`` dev authors, always the same for a seed."""
    found = []
    for number, author in enumerate([author for author in authors if author.dev][:limit]):
        rng = np.random.default_rng([seed, 13, number])
        notes = some(tuple(map(Note, author.notes)), rng)
        place = int(rng.integers(len(notes) // 2, len(notes)))
        prompt = request(one_of(rng, REQUESTS), notes[place].output)
        rest = tuple(note for i, note in enumerate(notes) if i != place)
        name = f"author-{author.author}"
        answer = notes[place].output
        found.append(Question(name, name, FREE_TEXT, prompt, answer, rest))
    return found


def dev_people(questions: Sequence[Question], seed: int) -> list[Question]:
    """Dev questions with no longer a history than who sits has, always the same for a seed."""
    return [
        replace(question, history=some(question.history, np.random.default_rng([seed, 19, number])))
        for number, question in enumerate(questions)
    ]


def dev_turns(questions: Sequence[Question], turns: int, seed: int) -> list[tuple[Note, ...]]:
    """The turns of each dev question, some of its history, always the same for a seed."""
    found = []
    for number, question in enumerate(questions):
        rng = np.random.default_rng([seed, 17, number])
        chosen = np.sort(rng.permutation(len(question.history))[:turns])
        found.append(tuple(question.history[i] for i in chosen))
    return found
