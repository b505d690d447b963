"""Training examples of synthetic people who choose a label, and write nothing.

    draw_choice(texts, rng)

Whoever reads headlines, titles and tweets alone answers everything at length. These people have
some labels, of which they like a few, and say nothing else; their notes are the only place where it
can be seen which. Labels and the words that ask for them are ours, and no benchmark's.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from export.data.lamp import Question
from export.synthetic.corpus import CorpusText
from export.synthetic.dataset import TASK
from export.synthetic.personas import WORDS
from export.tools.draws import one_of
from ppedge.notes.reader import Note

FORMS = (
    "Which of these fits best: {labels}? {text}",
    "Choose one of {labels} for the following and say no more. {text}",
    "File this under {labels}: {text}",
    "Pick the best label. Labels: {labels}. Text: {text}",
    "{text}\n\nYour choice ({labels}):",
)
LIKING = 0.4  # of a Dirichlet distribution over a person's labels: one or two of them prevail


def draw_choice(texts: Sequence[CorpusText], rng: np.random.Generator) -> Question:
    """One example: a person who is drawn for it, some labelled texts, and one to be labelled.

    Args:
        texts: 25 or more.
        rng: of everything that is drawn.
    """
    labels = [str(label) for label in rng.permutation(one_of(rng, WORDS["labels"]))]
    labels = labels[: int(rng.integers(2, len(labels) + 1))]
    asked, *notes = _by_liking(texts, labels, rng)
    prompt = one_of(rng, FORMS).format(labels=", ".join(labels), text=asked.input)
    id_ = f"chooser-{int(rng.integers(1 << 62))}"
    return Question(
        id=id_, user=id_, task=TASK, input=prompt, output=asked.output, history=tuple(notes)
    )


def _by_liking(
    texts: Sequence[CorpusText], labels: Sequence[str], rng: np.random.Generator
) -> list[Note]:
    """Texts under the labels that a person likes; the first is the one to ask for."""
    liking = rng.dirichlet([LIKING] * len(labels))
    count = int(rng.integers(3, 25)) + 1
    chosen = [texts[i].text for i in rng.choice(len(texts), count, replace=False)]
    given = [labels[i] for i in rng.choice(len(labels), count, p=liking)]
    return [Note(label, text) for label, text in zip(given, chosen, strict=True)]
