"""LaMP files to training and evaluation examples.

    from export.data import read_questions, leave_one_out
    for question in read_questions("LaMP_6_style", "train"): ...

A *question* is what a person was asked, what they wrote, and their earlier notes. Leave one out:
any note that has both an input and an output can be asked for, with the rest as the history.
"""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ppedge.history import Note, note_from_fields

# The official instruction of each open task, so that a note can be asked for like a question.
INSTRUCTIONS = {
    4: "Generate a headline for the following article: ",
    5: "Generate a title for the following abstract of a paper: ",
    6: "Generate a subject for the following commit message: ",
    7: "Paraphrase the following text into tweet without any explanation before or after it: ",
}

REQUESTS = (
    "Write a short post",
    "Write a short note",
    "Write a few sentences",
    "Tell me",
)


@dataclass(frozen=True, slots=True)
class Question:
    """One thing asked of one person."""

    id: str
    user: str
    task: int
    input: str
    output: str
    history: tuple[Note, ...]


def read_json(path: Path) -> Any:
    """Read a JSON file, or the same with ``.gz`` behind its name."""
    packed = path.with_name(path.name + ".gz")
    if path.exists():
        return json.loads(path.read_text(encoding="utf-8"))
    if packed.exists():
        with gzip.open(packed, "rt", encoding="utf-8") as file:
            return json.load(file)
    raise FileNotFoundError(f"neither {path} nor {packed.name} beside it exists")


def read_questions(folder: Path, split: str) -> Iterator[Question]:
    """Yield the questions of ``folder`` (``{split}_questions.json`` and ``_outputs.json``).

    Raises:
        ValueError: a question has no gold output, or the task's name has no number.
    """
    outputs = read_json(folder / f"{split}_outputs.json")
    found = re.search(r"LaMP_(\d)", outputs["task"])
    if found is None:
        raise ValueError(f"{folder}: the task '{outputs['task']}' is not named LaMP_N")
    golds = {gold["id"]: gold["output"] for gold in outputs["golds"]}
    for record in read_json(folder / f"{split}_questions.json"):
        if record["id"] not in golds:
            raise ValueError(f"{folder}: question {record['id']} has no gold output")
        yield Question(
            id=record["id"],
            user=str(record.get("user_id", record["id"])),
            task=int(found[1]),
            input=record["input"],
            output=golds[record["id"]],
            history=tuple(note_from_fields(fields) for fields in record["profile"]),
        )


def neutralise(tweet: str) -> str:
    """Strip a tweet of its author's manner, by the rule that made the task 7 questions."""
    text = re.sub(r"https?://\S+", " ", tweet)
    text = re.sub(r"^\s*(?:\.?@\w+\s+)+", "", text)
    text = re.sub(r"#(\w+)", lambda m: re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", m[1]), text)
    text = text.replace("@", "").lower()
    text = re.sub(r"[^\w\s.'-]", " ", text)
    return re.sub(r"\s+", " ", text).strip(" .")


def opening(text: str, limit: int = 240) -> str:
    """The first sentences of ``text``, as many as end within ``limit`` characters, at least one."""
    ends = [found.end() for found in re.finditer(r"[.!?](?=\s|$)", text)]
    fitting = [end for end in ends if end <= limit] or ends[:1] or [len(text)]
    return text[: fitting[-1]]


def writing_prompt(text: str, rng: np.random.Generator) -> str:
    """Ask for ``text`` as a person would: by two to four of its longer words."""
    words = list(dict.fromkeys(re.findall(r"[a-z]{4,}", neutralise(text))))
    about = sorted(words, key=len, reverse=True)[: int(rng.integers(2, 5))]
    request = REQUESTS[int(rng.integers(len(REQUESTS)))]
    return f"{request} about {', '.join(word for word in words if word in about)}."


def leave_one_out(
    question: Question, index: int, *, general: bool, rng: np.random.Generator
) -> Question | None:
    """Ask for note ``index`` of a person's history, the others being the history.

    Args:
        question: whose history it is.
        index: which note.
        general: ask in a writing prompt's words for the person's running text (a commit's body,
            an abstract, a tweet), not in the task's words for its title.
        rng: draws the words of a writing prompt.

    Returns:
        The question, or None where the note leaves nothing to ask from.
    """
    notes = question.history
    if general:
        # What the person wrote at length is then the history too, each text by itself.
        notes = tuple(Note(note.input or note.output) for note in notes)
    note = notes[index]
    if general:
        answer = opening(note.output)
        prompt = source = writing_prompt(answer, rng)
    else:
        answer = note.output
        source = neutralise(note.output) if question.task == 7 else note.input
        prompt = INSTRUCTIONS[question.task] + source
    if not source or len(answer.split()) < 2:
        return None
    # A copy of the answer among the notes would teach copying, not writing.
    rest = tuple(n for n in notes if n.output != note.output)
    return Question(
        id=f"{question.id}/{index}",
        user=question.user,
        task=question.task,
        input=prompt,
        output=answer,
        history=rest,
    )


def swap_histories(questions: Sequence[Question], seed: int) -> list[tuple[Note, ...]]:
    """For each question, the history of another user of the same task (a seeded choice)."""
    rng = np.random.default_rng(seed)
    swapped = []
    for question in questions:
        others = [q for q in questions if q.task == question.task and q.user != question.user]
        if not others:
            raise ValueError(f"task {question.task} has one user only: nobody to swap with")
        swapped.append(others[int(rng.integers(len(others)))].history)
    return swapped
