"""Training examples of made-up people who choose: a label, a score, or one of some texts.

    draw_choice(texts, rng, varied=True)

Whoever reads headlines, titles and tweets alone answers everything at length. These people have
some labels, of which they like a few, and say nothing else; their notes are the only place where it
can be seen which. Labels and the words that ask for them are ours, and no benchmark's.

Where it is *varied*, some file by what a text is about, so that only the notes that are like it say
which label it gets, and some pick among numbered texts the one that is about what they write about.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from export.data.lamp import Question
from export.synthetic.corpus import Plain
from export.synthetic.dataset import TASK
from export.synthetic.personas import WORDS, sentences
from export.tools.draws import one_of
from ppedge.notes.reader import Note

FORMS = (
    "Which of these fits best: {labels}? {text}",
    "Choose one of {labels} for the following and say no more. {text}",
    "File this under {labels}: {text}",
    "Pick the best label. Labels: {labels}. Text: {text}",
    "{text}\n\nYour choice ({labels}):",
)
PICKS = (
    "Which of these would I have written? Just answer with {marks}. {options}",
    "Which one goes with what I write, {marks}? {options}",
    "{options} Which is mine? Say {marks} and nothing else.",
    "Choose between {marks} for me, without an explanation. {options}",
)
MARKS = (("[{}]", "[{}]: "), ("({})", "({}) "), ("{}", "{}. "), ("Option {}", "Option {}: "))
LIKING = 0.4  # of a Dirichlet distribution over a person's labels: one or two of them prevail
KINDS = {"liking": 0.4, "topics": 0.35, "pick": 0.25}  # of varied choosers
MOST_TOPICS = 6  # that one person has labels for
Labelled = list[tuple[str, Plain]]


def draw_choice(
    plain: Sequence[Plain], rng: np.random.Generator, *, varied: bool = False
) -> Question:
    """One example: a person who is drawn for it, some labelled texts, and one to be labelled.

    Args:
        plain: the texts, 25 or more.
        rng: of everything that is drawn.
        varied: whether people may choose by topic, pick texts, and give scores about a usual one.
    """
    topics = _topics(plain, rng) if varied else []
    kind = "liking"
    if len(topics) >= MOST_TOPICS:  # Of texts of which no two are alike, topics tell nothing.
        kind = str(rng.choice(list(KINDS), p=list(KINDS.values())))
    if kind == "pick":
        return _pick(topics, rng)
    labels = [str(label) for label in rng.permutation(one_of(rng, WORDS["labels"]))]
    labels = labels[: int(rng.integers(2, len(labels) + 1))]
    if kind == "topics":
        asked, *others = _by_topic(topics, labels, rng)
    else:
        asked, *others = _by_liking(plain, labels, rng, scores=varied)
    form = one_of(rng, FORMS)
    return _question(
        form.format(labels=", ".join(labels), text=asked[1].text),
        asked[0],
        [Note(label, text.text) for label, text in others],
        rng,
    )


def _question(prompt: str, answer: str, notes: list[Note], rng: np.random.Generator) -> Question:
    id_ = f"chooser-{int(rng.integers(1 << 62))}"
    return Question(id=id_, user=id_, task=TASK, input=prompt, output=answer, history=tuple(notes))


def _by_liking(
    plain: Sequence[Plain], labels: Sequence[str], rng: np.random.Generator, *, scores: bool
) -> Labelled:
    """Texts of any kind under the labels that a person likes; the first is the one to ask for."""
    if scores and all(label.isdigit() for label in labels):
        # Who gives scores has a usual one, and strays from it a little.
        values = np.array([int(label) for label in labels])
        usual, spread = rng.choice(values), rng.uniform(0.3, 1.5)
        liking = np.exp(-(((values - usual) / spread) ** 2) / 2)
        liking /= liking.sum()
    else:
        liking = rng.dirichlet([LIKING] * len(labels))
    n_notes = int(rng.integers(3, 25))
    texts = [plain[i] for i in rng.choice(len(plain), n_notes + 1, replace=False)]
    chosen = [labels[i] for i in rng.choice(len(labels), n_notes + 1, p=liking)]
    return list(zip(chosen, texts, strict=True))


def _by_topic(
    topics: Sequence[list[Plain]], labels: Sequence[str], rng: np.random.Generator
) -> Labelled:
    """Texts of two to six topics, each under a label of its own; the first is to be asked for."""
    count = min(len(labels), int(rng.integers(2, MOST_TOPICS + 1)))
    named = zip(labels[:count], topics[:count], strict=True)
    texts = [(label, text) for label, of_one in named for text in of_one]
    return [texts[i] for i in rng.permutation(len(texts))[: int(rng.integers(10, 26))]]


def _pick(topics: Sequence[list[Plain]], rng: np.random.Generator) -> Question:
    """Which of two or three texts is about what this person's notes are about."""
    own, *others = topics[: int(rng.integers(2, 4))]
    options = [_first(own[0]), *(_first(of_one[0]) for of_one in others)]
    places = rng.permutation(len(options))
    mark, before = one_of(rng, MARKS)
    marks = [mark.format(i + 1) for i in range(len(options))]
    listed = " ".join(
        before.format(i + 1) + f'"{options[place]}"' for i, place in enumerate(places)
    )
    asked = one_of(rng, PICKS).format(
        marks=", ".join(marks[:-1]) + " or " + marks[-1], options=listed
    )
    answer = marks[int(np.flatnonzero(places == 0)[0])]
    return _question(asked, answer, [Note(text.text) for text in own[1:]], rng)


def _topics(plain: Sequence[Plain], rng: np.random.Generator) -> list[list[Plain]]:
    """The texts of each topic that has two or more; topics and texts in random order."""
    found: dict[str, list[Plain]] = {}
    for text in plain:
        found.setdefault(text.topic, []).append(text)
    enough = [texts for texts in found.values() if len(texts) > 1]
    chosen = [enough[i] for i in rng.permutation(len(enough))[:MOST_TOPICS]]
    return [[texts[i] for i in rng.permutation(len(texts))] for texts in chosen]


def _first(text: Plain) -> str:
    """The first sentence: two or three of them leave room for the question in a training prompt."""
    return sentences(text.text)[0]
