"""History in the prompt: which notes to pick, and the words that put them there.

    notes = rank_bm25(question, 4)
    prompt = prompt_with_notes(question, notes, count=lambda text: len(llm.tokenize(text)))

Three rankings, none of them trained on these tasks:

- *recency*: the latest notes;
- *bm25*: Robertson and Zaragoza's BM25 as the ``bm25s`` package computes it (its "lucene" form,
  k1 = 1.5, b = 0.75) over lower-cased words, without stemmer or stop list;
- *dense*: cosine of mean-pooled all-MiniLM-L6-v2 vectors, as it comes from its authors (weights
  rounded to int8, see ``minilm.py``); not the plug's keys, which are trained.

Both retrievers ask with what the question is about (``Task.source``) and look through each note's
output and input together, as LaMP does (a title and its text). The words around the notes are
those of LaMP's in-prompt augmentation (Salemi et al., arXiv 2304.11406).
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path

import bm25s
import numpy as np
from numpy.typing import NDArray

from export.data.lamp import Question
from export.data.tasks import task_of
from ppedge.notes.reader import Note

BUDGET = 1024  # LLM tokens of all notes in a prompt, with the words around them
CITED = ", which reference is related?"  # what follows the author's title in a task 1 question


# --- which notes ------------------------------------------------------------------------------


def rank_recency(question: Question, k: int) -> list[Note]:
    """The ``k`` latest notes, the latest first: by time where all have one, else by place."""
    return [question.history[i] for i in _latest_places(question.history, k)]


def latest(notes: Sequence[Note], k: int) -> tuple[Note, ...]:
    """The ``k`` latest notes as `rank_recency` finds them, in the history's own order."""
    return tuple(notes[i] for i in sorted(_latest_places(notes, k)))


def _latest_places(notes: Sequence[Note], k: int) -> list[int]:
    places = list(range(len(notes)))
    if all(note.time is not None for note in notes):
        places.sort(key=lambda i: (notes[i].time, i))
    return places[::-1][:k]


def rank_bm25(question: Question, k: int) -> list[Note]:
    """The ``k`` notes with the highest BM25 score, best first; of equals, the later note first."""
    scores = _bm25_index(question.history).scores(_words(_query(question)))
    return _best(question.history, scores, k)


class Dense:
    """Retrieval by cosine of frozen MiniLM vectors; each text is encoded once.

    Texts are cut at 128 word pieces, as everywhere that MiniLM reads them here.

    Args:
        encoder: a MiniLM folder; None takes the packaged all-MiniLM-L6-v2.
        keep: how many note vectors are kept in memory before the oldest go.
    """

    def __init__(self, encoder: Path | None = None, keep: int = 20_000) -> None:
        # Here, not above: the other methods of an evaluation run without torch.
        from export.models.features import Features
        from export.models.text_encoder import find_minilm

        self._features = Features(encoder or find_minilm())
        self._keep = keep

    def warm(self, question: Question) -> None:
        """Encode the question's notes ahead of time, as a user's machine would have them stored."""
        vectors = self._features.vectors
        self._features.encode([_document(note) for note in question.history])
        while len(vectors) > max(self._keep, len(question.history)):
            del vectors[next(iter(vectors))]

    def rank(self, question: Question, k: int) -> list[Note]:
        """The ``k`` notes nearest to what is asked, best first; of equals, the later note first."""
        if not question.history:
            return []
        self.warm(question)
        notes = self._features.vectors_of([_document(note) for note in question.history])
        asked = _query(question)
        [query] = self._features.vectors_of([asked])
        # Not kept: whoever is timed on this question next encodes it as well.
        self._features.vectors.pop(asked)
        return _best(question.history, (notes @ query).numpy(), k)


def _query(question: Question) -> str:
    return task_of(question.task).source(question.input)


def _document(note: Note) -> str:
    return f"{note.output} {note.input}".strip()


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def _best(notes: Sequence[Note], scores: NDArray[np.float32], k: int) -> list[Note]:
    order = sorted(range(len(notes)), key=lambda i: (-scores[i], -i))
    return [notes[i] for i in order[:k]]


class _Bm25:
    """BM25 over one history."""

    def __init__(self, notes: Sequence[Note]) -> None:
        documents = [_words(_document(note)) for note in notes]
        # Numbered as they come, not by a set's order, so that sums are the same in every run.
        distinct = dict.fromkeys(word for words in documents for word in words)
        self.numbers = {word: i for i, word in enumerate(distinct)}
        self.size = len(notes)
        self.index = bm25s.BM25(method="lucene", k1=1.5, b=0.75)
        if self.numbers:
            rows = [[self.numbers[word] for word in words] for words in documents]
            self.index.index((rows, self.numbers), create_empty_token=False, show_progress=False)

    def scores(self, words: Sequence[str]) -> NDArray[np.float32]:
        """Float32 [notes]; zero everywhere if no word is known."""
        known = [self.numbers[word] for word in words if word in self.numbers]
        if not known:
            return np.zeros(self.size, np.float32)
        return self.index.get_scores_from_ids(known)


# A user's questions share a history; a user's machine would keep this index.
@lru_cache(maxsize=8)
def _bm25_index(notes: tuple[Note, ...]) -> _Bm25:
    return _Bm25(notes)


# --- how they stand in the prompt -------------------------------------------------------------


def prompt_with_notes(
    question: Question,
    notes: Sequence[Note],
    *,
    count: Callable[[str], int],
    budget: int = BUDGET,
) -> str:
    """The question's prompt with ``notes`` put in, in the words of its LaMP task.

    Notes share the budget evenly, and what a short one leaves goes to the others. What does not
    fit is cut between words: of a note's input only, never of its output (the title, tag or
    score that is to be learnt from), but tweets, which are all output, are cut themselves. Notes
    whose shortest form finds no room are left out, the worst first.

    Args:
        question: what is asked.
        notes: best first, as the rankings give them; in the prompt the best comes last.
        count: how many tokens the LLM makes of a text.
        budget: tokens that the notes may take, with the words around them.

    Returns:
        The prompt; the plain one where there are no notes.

    Raises:
        ValueError: a task 1 question is not in LaMP's words, so titles have no place in it.
    """
    items = [_item(question, note, _text(question, note)) for note in notes]
    if notes and count(_lead(question, items)) > budget:
        items = _fitted(question, notes, count, budget)
    if not items:
        return question.input
    lead = _lead(question, items)
    if question.task != 1:
        return lead + question.input
    place = question.input.find(CITED)
    if place < 0:
        raise ValueError(
            f"question {question.id}: the notes' titles go before '{CITED}', "
            "which is not in its input; give LaMP-1 questions in the official words"
        )
    return question.input[:place] + lead + question.input[place:]


def _item(question: Question, note: Note, text: str) -> str:
    """One note in the words of its task; ``text`` is its input, or the tweet, perhaps cut."""
    match question.task:
        case 1:
            return f'"{note.output}"'
        case 2:
            # LaMP-2 was news articles and their categories before it was films and their tags.
            news = "article:" in question.input
            kind = "category for the article" if news else "tag for the movie"
            return f'the {kind}: "{text}" is "{note.output}"'
        case 3:
            return f'{note.output} is the score for "{text}"'
        case 5:
            return f'"{note.output}" is a title for "{text}"'
        case 7:
            return f'"{text}"'
        case _:
            return f'"{note.output}" is the title for "{text}"'


def _lead(question: Question, items: Sequence[str]) -> str:
    """What ``items`` add to the prompt, best item last; for task 1 it goes behind a title."""
    joined = ", and ".join(reversed(items))
    match question.task:
        case 1:
            return f", and {joined}"
        case 5:
            return f"{joined}. Following the given patterns "
        case 7:
            return f"{joined} are written by a person. Following the given patterns "
        case _:
            return f"{joined}. "


def _fitted(
    question: Question, notes: Sequence[Note], count: Callable[[str], int], budget: int
) -> list[str]:
    """The items of the best notes whose shortest forms fit, cut so that all fit together."""
    least = [_cut(question, note, 0, count) for note in notes]
    while least and count(_lead(question, least)) > budget:
        least.pop()
    if not least:
        return []
    # Each item is counted by itself; what joins them is paid for by what is over at the end.
    allowance = budget
    items = _share(question, notes[: len(least)], allowance, count)
    while (over := count(_lead(question, items)) - budget) > 0:
        # This ends: the shortest forms fit, and they are what an allowance of nothing gives.
        allowance = max(0, allowance - over)
        items = _share(question, notes[: len(least)], allowance, count)
    return items


def _share(
    question: Question, notes: Sequence[Note], tokens: int, count: Callable[[str], int]
) -> list[str]:
    """The notes' items in at most ``tokens`` together, as far as their shortest forms allow."""
    whole = [count(_item(question, note, _text(question, note))) for note in notes]
    items = [""] * len(notes)
    # The shortest first: what they leave of their shares is there for the longer ones.
    for done, i in enumerate(sorted(range(len(notes)), key=lambda i: whole[i])):
        items[i] = _cut(question, notes[i], tokens // (len(notes) - done), count)
        tokens = max(0, tokens - count(items[i]))
    return items


def _text(question: Question, note: Note) -> str:
    return note.output if question.task == 7 else note.input


def _cut(question: Question, note: Note, tokens: int, count: Callable[[str], int]) -> str:
    """The note's item with as many of its text's words as fit; of a tweet, at least one."""
    text = _text(question, note)
    if count(_item(question, note, text)) <= tokens:
        return _item(question, note, text)
    ends = list(_word_ends(text)) if question.task == 7 else [0, *_word_ends(text)]
    fitting = bisect_right(
        ends, tokens, lo=1, key=lambda end: count(_item(question, note, text[:end]))
    )
    return _item(question, note, text[: ends[fitting - 1]])


def _word_ends(text: str) -> Iterator[int]:
    return (found.end() for found in re.finditer(r"\S+", text))
