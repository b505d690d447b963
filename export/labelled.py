"""Training examples of made-up people who choose: a label or a score for a text.

    draw_choice(texts, rng)

Whoever reads headlines, titles and tweets alone answers everything at length. These people have
some labels, of which they like a few, and say nothing else; their notes are the only place where it
can be seen which. Labels and the words that ask for them are ours, and no benchmark's.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from export.data import Question
from export.plain import Plain
from export.voiced import TASK, one_of
from export.voices import WORDS
from ppedge.history import Note

FORMS = (
    "Which of these fits best: {labels}? {text}",
    "Choose one of {labels} for the following and say no more. {text}",
    "File this under {labels}: {text}",
    "Pick the best label. Labels: {labels}. Text: {text}",
    "{text}\n\nYour choice ({labels}):",
)
LIKING = 0.4  # of a Dirichlet distribution over a person's labels: one or two of them prevail


def draw_choice(plain: Sequence[Plain], rng: np.random.Generator) -> Question:
    """One example: a person who is drawn for it, with some labelled texts, and one to be labelled.

    Args:
        plain: the texts, 25 or more.
        rng: of everything that is drawn.
    """
    labels = [str(label) for label in rng.permutation(one_of(rng, WORDS["labels"]))]
    labels = labels[: int(rng.integers(2, len(labels) + 1))]
    liking = rng.dirichlet([LIKING] * len(labels))
    n_notes = int(rng.integers(3, 25))
    texts = [plain[i] for i in rng.choice(len(plain), n_notes + 1, replace=False)]
    chosen = [labels[i] for i in rng.choice(len(labels), n_notes + 1, p=liking)]
    form = one_of(rng, FORMS)
    number = int(rng.integers(1 << 62))
    return Question(
        id=f"chooser-{number}",
        user=f"chooser-{number}",
        task=TASK,
        input=form.format(labels=", ".join(labels), text=texts[0].text),
        output=chosen[0],
        history=tuple(
            Note(label, text.text) for label, text in zip(chosen[1:], texts[1:], strict=True)
        ),
    )
