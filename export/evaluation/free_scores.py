"""What answers to everyday prompts are worth: every measure of each, and means over people.

    scored = score(answers, people, personalizer)
    print(table(scored, people, seed=0))

Answers, scored or not, are dictionaries as the JSON of ``export.free_prompts`` has them. Each
measure is averaged over a person's answers and then over people, with a 95 % interval that draws
whole people (``export.evaluation.bootstrap``); seconds are medians over all answers.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from statistics import median
from typing import Any

import numpy as np

from export.evaluation.bootstrap import Estimate, Table, estimate
from export.evaluation.free_measures import (
    Manners,
    Voices,
    copies,
    is_short,
    loops,
    nearest_among,
    words_of,
)
from export.evaluation.free_people import Person
from export.tools.echo import echo
from ppedge import Personalizer

Record = dict[str, Any]
Telling = Callable[[str], float]

GIVEN = ("method", "person", "prompt", "seed", "text", "first", "total")
MEASURES = ("voice", "voice2", "sense", "nats", "words", "echo", "copies", "loops", "short")
SECONDS = ("first", "total")
OWN_NOTES = "own notes, held out"
_DIGITS = {"nats": 2, "words": 0}


class Judges:
    """Who tells people of one kind apart, by n-grams and by manner.

    Args:
        people: of one kind.
    """

    def __init__(self, people: Sequence[Person]) -> None:
        texts = {person.name: person.texts for person in people}
        self.voices, self.manners = Voices(texts), Manners(texts)

    def of(self, name: str, answer: str) -> tuple[float, float]:
        """`nearest_among` of an answer, by n-grams and by manner."""
        own = self.voices.place(name)
        by = (self.voices.scores(answer), self.manners.scores(answer))
        return nearest_among(by[0], own), nearest_among(by[1], own)

    def of_note(self, name: str, note: str) -> tuple[float, float]:
        """The same of one of a person's own notes, which their profile does without."""
        own = self.voices.place(name)
        by = (self.voices.held_out(name, note), self.manners.held_out(name, note))
        return nearest_among(by[0], own), nearest_among(by[1], own)


def judges_of(people: Sequence[Person]) -> dict[str, Judges]:
    """By kind of people."""
    kinds = dict.fromkeys(person.kind for person in people)
    return {kind: Judges([each for each in people if each.kind == kind]) for kind in kinds}


def score(
    answers: Sequence[Record], people: Sequence[Person], personalizer: Personalizer
) -> list[Record]:
    """The answers with all their measures; others that they had are replaced.

    Args:
        answers: with at least the fields of ``GIVEN``.
        people: all of them, the ones who were not asked too: they are whom others are taken for.
        personalizer: whose model, bare, tells how likely it finds each answer.

    Raises:
        ValueError: an answer is of nobody among ``people``.
    """
    by_name = {person.name: person for person in people}
    for each in answers:
        if each["person"] not in by_name:
            raise ValueError(f"nobody is called '{each['person']}'; name the same --people, --data")
    judges = judges_of(people)
    senses = _senses(answers)
    scored = []
    for number, (each, sense) in enumerate(zip(answers, senses, strict=True), 1):
        person, text = by_name[each["person"]], each["text"]
        words = words_of(text)
        voice, voice2 = judges[person.kind].of(person.name, text)
        scored.append(
            {name: each[name] for name in GIVEN}
            | {"kind": person.kind, "voice": voice, "voice2": voice2, "sense": sense}
            | {"nats": _nats(personalizer, each["prompt"], text), "words": len(words)}
            | {"echo": echo(words_of(each["prompt"]), words)}
            | {"copies": float(copies(text, person.wholes)), "loops": float(loops(text))}
            | {"short": float(is_short(text))}
        )
        if number % 100 == 0:
            print(f"scored {number}/{len(answers)}", file=sys.stderr, flush=True)
    return scored


def _senses(answers: Sequence[Record]) -> list[float]:
    """Cosines of prompt and answer by all-MiniLM-L6-v2 (int8 rows, mean pooling); 0 if empty."""
    # Here, not above: the tables are made without torch.
    from export.models.features import Features
    from export.models.text_encoder import find_minilm

    features = Features(find_minilm())
    if not answers:
        return []
    prompts = features.vectors_of([each["prompt"] for each in answers]).numpy()
    texts = features.vectors_of([each["text"] for each in answers]).numpy()
    told = np.array([bool(each["text"].strip()) for each in answers])
    cosines: list[float] = (np.sum(prompts * texts, axis=1) * told).tolist()
    return cosines


def _nats(personalizer: Personalizer, prompt: str, text: str) -> float | None:
    """Nats per token that the bare model loses on an answer; None for an empty one."""
    if not text:
        return None
    [found] = personalizer.llm.score(personalizer.segments(prompt, None), [text])
    return -found.mean


# --- means ------------------------------------------------------------------------------------


def summary(scored: Sequence[Record], people: Sequence[Person], seed: int) -> list[Record]:
    """Means and intervals by kind of people and method.

    Args:
        scored: as `score` returns them.
        people: all of them.
        seed: of the intervals.

    Returns:
        Records of "kind" (or "all", where there are several), "method", "people", "answers", and by
        measure {"value", "low", "high"}; of seconds the median. The own notes of those asked come
        last, as if they were answers.
    """
    kinds = list(dict.fromkeys(each["kind"] for each in scored))
    told: list[Record] = []
    for kind in (["all"] if len(kinds) > 1 else []) + kinds:
        ours = [each for each in scored if kind in ("all", each["kind"])]
        for method in dict.fromkeys(each["method"] for each in ours):
            rows = [each for each in ours if each["method"] == method]
            told.append({"kind": kind, "method": method} | _means(rows, MEASURES, seed))
            told[-1] |= {name: median(each[name] for each in rows) for name in SECONDS}
        asked = {each["person"] for each in ours}
        notes = list(_notes([each for each in people if each.name in asked], people))
        told.append({"kind": kind, "method": OWN_NOTES} | _means(notes, MEASURES[:2], seed))
    return told


def _notes(asked: Sequence[Person], people: Sequence[Person]) -> Iterator[Record]:
    judges = judges_of(people)
    for person in asked:
        for note in person.texts:
            voice, voice2 = judges[person.kind].of_note(person.name, note)
            yield {"person": person.name, "voice": voice, "voice2": voice2}


def _means(rows: Sequence[Record], measures: Sequence[str], seed: int) -> Record:
    users = sorted({each["person"] for each in rows})
    means: Record = {"people": len(users), "answers": len(rows)}
    for name in measures:
        sums = {user: np.zeros(2) for user in users}
        for each in rows:
            if each[name] is not None:
                sums[each["person"]] += (each[name], 1)
        heard = {user: total / n for user, (total, n) in sums.items() if n}
        if heard:
            table = np.array([(mean, 1.0) for mean in heard.values()])
            means[name] = vars(estimate(table, list(heard), _mean, seed))
    return means


def _mean(sums: Table) -> Table:
    mean: Table = sums[..., 0] / sums[..., 1]
    return mean


def table(told: Sequence[Mapping[str, Any]]) -> str:
    """What `summary` returned, as Markdown: a table for each kind of people."""
    parts = []
    for kind in dict.fromkeys(each["kind"] for each in told):
        rows = [each for each in told if each["kind"] == kind]
        head = ["method", *MEASURES, "first, s", "total, s"]
        lines = [f"{kind}, {rows[0]['people']} people, {rows[0]['answers']} answers a method:", ""]
        lines += ["| " + " | ".join(head) + " |", "|---|" + "--:|" * (len(head) - 1)]
        for row in rows:
            cells = [_cell(row.get(name), _DIGITS.get(name, 3)) for name in MEASURES]
            cells += [f"{row[name]:.2f}" if name in row else "" for name in SECONDS]
            lines.append("| " + " | ".join([row["method"], *cells]) + " |")
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def _cell(found: Mapping[str, float] | None, digits: int) -> str:
    if found is None:
        return ""
    each = Estimate(**found)
    return f"{each.value:.{digits}f} ({each.low:.{digits}f}–{each.high:.{digits}f})"
