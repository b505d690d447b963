"""Training examples of made-up people who choose: a label or a score for a text.

    Labelled(texts).draw(rng)

Whoever reads headlines, titles and tweets alone answers everything at length. These people have
some labels, of which they like a few, and say nothing else; their notes are the only place where it
can be seen which. Labels and the words that ask for them are ours, and no benchmark's.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from export.data import Question
from export.plain import Plain
from export.voiced import TASK
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


class Labelled:
    """Draws a made-up person, their labels for some texts, and a text to be labelled.

    Args:
        texts: what is labelled.
    """

    def __init__(self, texts: Sequence[Plain]) -> None:
        """Take the texts that are for training."""
        self.texts = list(texts)

    def draw(self, rng: np.random.Generator) -> Question:
        """One example, of a person who is drawn for it."""
        sets = WORDS["labels"]
        labels = [str(label) for label in rng.permutation(sets[int(rng.integers(len(sets)))])]
        labels = labels[: int(rng.integers(2, len(labels) + 1))]
        liking = rng.dirichlet([LIKING] * len(labels))
        n_notes = int(rng.integers(3, 25))
        texts = [self.texts[i] for i in rng.choice(len(self.texts), n_notes + 1, replace=False)]
        chosen = [labels[i] for i in rng.choice(len(labels), n_notes + 1, p=liking)]
        form = FORMS[int(rng.integers(len(FORMS)))]
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
