"""More training questions than the files hold: a person's notes, asked for one at a time.

    asked = leave_one_out(question, 3, general=False, rng=rng)

Any note that has both an input and an output can be asked for, with the rest as the history.
"""

from __future__ import annotations

import re

import numpy as np

from export.data.lamp import Question
from export.data.tasks import task_of
from export.tools.draws import one_of
from ppedge.notes.reader import Note

REQUESTS = (
    "Write a short post",
    "Write a short note",
    "Write a few sentences",
    "Tell me",
)
FREE = "/free"  # ends the id of a question that a general prompt asks


def leave_one_out(
    question: Question, index: int, *, general: bool, rng: np.random.Generator
) -> Question | None:
    """Ask for note ``index`` of a person's history, the others being the history.

    Args:
        question: whose history it is; the note is asked for in its words.
        index: which note.
        general: ask in a writing prompt's words for the person's running text (a commit's body,
            an abstract, a tweet), not in the task's words for its title.
        rng: draws the words of a writing prompt.

    Returns:
        The question, or None where the note leaves nothing to ask from (always so in task 1: a
        paper's title is not what its question asks for).
    """
    task = task_of(question.task)
    if task.number == 1:
        return None
    notes = question.history
    if general:
        # What the person wrote at length is then the history too, each text by itself.
        notes = tuple(Note(note.input or note.output) for note in notes)
    note = notes[index]
    if general:
        answer = opening(note.output)
        source = prompt = writing_prompt(answer, rng)
    else:
        answer = note.output
        source = neutralise(note.output) if task.number == 7 else note.input
        prompt = task.ask(source, like=question.input)
    written = general or task.kind == "text"
    if not source or (written and len(answer.split()) < 2):
        return None
    # A copy of the answer among the notes would teach copying, not writing. Labels and ratings
    # are few and come again with every note; there, a copy of what was asked is the giveaway.
    rest = tuple(
        other
        for i, other in enumerate(notes)
        if i != index and (other.output != note.output if written else other.input != note.input)
    )
    return Question(
        id=f"{question.id}/{index}{FREE if general else ''}",
        user=question.user,
        task=question.task,
        input=prompt,
        output=answer,
        history=rest,
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
    return f"{one_of(rng, REQUESTS)} about {', '.join(word for word in words if word in about)}."
