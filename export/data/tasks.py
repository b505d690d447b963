"""Facts of the seven LaMP tasks: what is asked, how it may be answered, how it is judged.

    task = task_of(2)
    task.options(prompt)    # the tags that the prompt offers
    task.source(prompt)     # the film's description alone

Wording, labels and metrics are those of the benchmark (Salemi et al., arXiv 2304.11406, and its
repository's ``eval/evaluation.py``). The shared ``LaMP_N_style`` files ask in the same words.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

MOVIE_TAGS = (
    "sci-fi",
    "based on a book",
    "comedy",
    "action",
    "twist ending",
    "dystopia",
    "dark comedy",
    "classic",
    "psychology",
    "fantasy",
    "romance",
    "thought-provoking",
    "social commentary",
    "violence",
    "true story",
)
# Task 2 was about news articles before it was about films.
NEWS_CATEGORIES = (
    "food & drink",
    "sports",
    "education",
    "parents",
    "religion",
    "travel",
    "business",
    "crime",
    "science & technology",
    "culture & arts",
    "entertainment",
    "politics",
    "women",
    "style & beauty",
    "healthy living",
)

_OFFERED = re.compile(r"\b(?:tags|categories):\s*\[([^\]]+)\]")
_REFERENCES = re.compile(r'\[1\]:\s*"(.*)"\s*\[2\]:\s*"(.*)"', re.DOTALL)


@dataclass(frozen=True)
class Task:
    """One LaMP task.

    Attributes:
        number: 1 to 7.
        kind: "labels" and "rating" have closed answers, "text" is written.
        metrics: names of the official metrics, the main one first.
        instruction: the official words in front of what a prompt is about, so that a note can be
            asked for like a question; "" for task 1, whose notes cannot.
        markers: what ends the instruction in a prompt; the first that occurs counts.
        note_fields: (input, output) fields of a profile record: what the person was shown, and
            what they wrote or chose. The first pair whose output field is there counts; an input
            of "" means that there is none.
        max_tokens: LLM tokens of a decoded answer; no gold of the shared train files has more.
        labels: the official closed answers; () for text.
    """

    number: int
    kind: Literal["labels", "rating", "text"]
    metrics: tuple[str, ...]
    instruction: str
    markers: tuple[str, ...]
    note_fields: tuple[tuple[str, str], ...]
    max_tokens: int
    labels: tuple[str, ...] = ()

    def options(self, prompt: str) -> tuple[str, ...]:
        """The closed answers to this prompt, as it lists them; () where the answer is written."""
        offered = _OFFERED.search(prompt) if self.number == 2 else None
        if offered:
            found = tuple(label.strip() for label in offered[1].split(",") if label.strip())
            return found or self.labels
        return self.labels

    def source(self, prompt: str) -> str:
        """The part of a prompt that it is about; a retriever should ask with this.

        An article, abstract, description, review, message or tweet; in task 1, as in LaMP's own
        retrieval, the titles of the two references. The whole prompt where none of it is found.
        """
        if self.number == 1:
            titles = _REFERENCES.search(prompt)
            return f"{titles[1]} {titles[2]}" if titles else prompt
        for marker in self.markers:
            _, found, rest = prompt.partition(marker)
            if found and rest.strip():
                return rest.strip()
        return prompt

    def ask(self, source: str, like: str = "") -> str:
        """A prompt about ``source``, in the words of the prompt ``like`` or the official ones.

        Files differ in their words (task 6 asks about e-mails or commits, task 2 about films or
        news), so a note should be asked for in those of its owner's own question.
        """
        own = self.source(like)
        if own != like and like.rstrip().endswith(own) and self.number != 1:
            return like.rstrip()[: -len(own)] + source
        return self.instruction + source


_ROUGE = ("rouge-1", "rouge-L")
_TASKS = (
    Task(
        number=1,
        kind="labels",
        metrics=("accuracy", "f1"),
        instruction="",
        markers=(),
        note_fields=(("abstract", "title"),),
        max_tokens=8,
        labels=("[1]", "[2]"),
    ),
    Task(
        number=2,
        kind="labels",
        metrics=("accuracy", "f1"),
        instruction=(
            "Which tag does this movie relate to among the following tags? Just answer with the "
            f"tag name without further explanation. tags: [{', '.join(MOVIE_TAGS)}] description: "
        ),
        markers=("description:", "article:"),
        note_fields=(("description", "tag"), ("text", "category")),
        max_tokens=8,
        labels=MOVIE_TAGS,
    ),
    Task(
        number=3,
        kind="rating",
        metrics=("mae", "rmse"),
        instruction=(
            "What is the score of the following review on a scale of 1 to 5? just answer with 1, "
            "2, 3, 4, or 5 without further explanation. review: "
        ),
        markers=("review:",),
        note_fields=(("text", "score"),),
        max_tokens=8,
        labels=("1", "2", "3", "4", "5"),
    ),
    Task(
        number=4,
        kind="text",
        metrics=_ROUGE,
        instruction="Generate a headline for the following article: ",
        markers=("article:",),
        note_fields=(("text", "title"),),
        max_tokens=48,
    ),
    Task(
        number=5,
        kind="text",
        metrics=_ROUGE,
        instruction="Generate a title for the following abstract of a paper: ",
        markers=("paper:",),
        note_fields=(("abstract", "title"),),
        max_tokens=64,
    ),
    Task(
        number=6,
        kind="text",
        metrics=_ROUGE,
        instruction="Generate a subject for the following commit message: ",
        markers=(":",),
        note_fields=(("text", "title"),),
        max_tokens=48,
    ),
    Task(
        number=7,
        kind="text",
        metrics=_ROUGE,
        instruction=(
            "Paraphrase the following text into tweet without any explanation before or after it: "
        ),
        markers=(":",),
        note_fields=(("", "text"),),
        max_tokens=64,
    ),
)


def task_of(number: int) -> Task:
    """The task of this number.

    Raises:
        ValueError: there is no such task.
    """
    if not 1 <= number <= len(_TASKS):
        raise ValueError(f"there is no LaMP task {number}; they are numbered 1 to {len(_TASKS)}")
    return _TASKS[number - 1]
