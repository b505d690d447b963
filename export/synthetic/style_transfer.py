"""Real examples in a synthetic person's hand: the same habits on every note and on the answer.

    styled = transfer_style(question, draw_persona(rng), rng)

A plug that is trained on four tasks learns how their answers look, and need not look at the notes
to know. Under a persona drawn for the example, the notes are the only place where that can be seen.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from export.data.lamp import Question
from export.data.leave_one_out import FREE
from export.data.tasks import task_of
from export.synthetic.personas import SyntheticPersona
from ppedge.notes.reader import Note

STYLED = "/styled"  # ends the id of such a question
MAX_NOTES = 16  # of a styled history: each of its texts is new, and has to be encoded


def in_words_of_task(question: Question) -> bool:
    """Whether the prompt is the task's own, and not a general writing prompt."""
    free = question.id.removesuffix(STYLED).endswith(FREE)
    return not free and task_of(question.task).source(question.input) != question.input


def transfer_style(
    question: Question, persona: SyntheticPersona, rng: np.random.Generator
) -> Question:
    """Rewrite the answer and the notes' outputs in a persona; what was asked stays as it is.

    Args:
        question: of a task whose answers are written.
        persona: whose habits. Texts keep all their sentences.
        rng: of where an unfaithful persona forgets itself, and of which notes are kept.

    Returns:
        The question with at most ``MAX_NOTES`` notes, in random order.
    """
    running = question.task == 7 or not in_words_of_task(question)
    persona = replace(persona, sentences=99, bullet="")

    def say(text: str) -> str:
        return persona.say(text, rng) if running else _head(text, persona, rng)

    kept = rng.permutation(len(question.history))[:MAX_NOTES]
    notes = (question.history[i] for i in kept)
    return replace(
        question,
        id=question.id + STYLED,
        output=say(question.output),
        history=tuple(Note(say(note.output), note.input) for note in notes),
    )


def _head(text: str, persona: SyntheticPersona, rng: np.random.Generator) -> str:
    """A title with the persona's closer and emoji behind it."""
    said = persona.title(text, rng)
    if persona.closer and rng.random() < persona.faith:
        said += f" {persona.closer}"
    if persona.emoji and rng.random() < persona.faith:
        said += f" {persona.emoji[0]}"
    return said
