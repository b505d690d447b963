"""Measures of an answer to an everyday prompt, where no right answer is known.

    voices = Voices({"ann": notes_of_ann, "bob": notes_of_bob, ...})
    nearest_among(voices.scores(answer), voices.place("ann"))  # 0..1; chance is 1/8
    copies(answer, notes_of_ann), loops(answer), is_short(answer)

*Whose hand is it?* is asked in two ways that know nothing of how the answer was made: `Voices` by
n-grams of characters, `Manners` by rates (punctuation, case, lengths, function words) among which
is no n-gram at all, so that one who copies pieces of notes gains little by it.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Scores = NDArray[np.float64]

GROUP = 8  # people among whom an answer's author is looked for
GRAMS = (1, 2, 3, 4)  # lengths of character n-grams
COPIED = 8  # words in a row that are a copy
REPEATED = 3  # words of a sequence, and times that it comes, that are a loop
STUTTER = 4  # times that one word comes in a row
SHORT = 4  # an answer of fewer words is short
_COUNTING = re.compile(r"(?:(?:^|\s)\W*\d\S*){4}")  # numbers with nothing between
FAR = 3.0  # standard deviations; what is farther off in one feature counts as this

# --- whose hand -------------------------------------------------------------------------------


def nearest_among(scores: Scores, own: int, group: int = GROUP) -> float:
    """The chance that ``own`` scores best in a random group of people that it is in.

    With r of the n - 1 others scoring at least as high, a group of itself and k = ``group`` - 1
    others holds none of those r in C(n - 1 - r, k) of C(n - 1, k) cases. Of fewer than ``group``
    people all are the group. An answer that tells nothing has on average 1 / ``group``.

    Args:
        scores: how near the answer is to each person, higher is nearer, float64 [n].
        own: the place of the right person.
        group: people in a group, itself counted.
    """
    others = len(scores) - 1
    rivals = int(np.sum(scores >= scores[own])) - 1
    k = min(group - 1, others)
    return math.comb(others - rivals, k) / math.comb(others, k)


class Voices:
    """Nearness by character n-grams: the cosine of an answer's profile and a person's.

    A text's profile has an entry for each of its 1- to 4-grams of characters, 1 + ln(count), times
    ln((1 + n) / (1 + df)) + 1 where df of the n people use the n-gram, and is scaled to length 1.
    Letter case, punctuation and spaces count; a text begins and ends with a line break, so that
    openings and endings count too. A person's counts are summed over their notes. What no person
    ever wrote is passed over.

    Args:
        people: each person's notes, by name.
    """

    def __init__(self, people: Mapping[str, Sequence[str]]) -> None:
        self.names = list(people)
        self._counts = counts = [_summed(people[name]) for name in self.names]
        known = dict.fromkeys(gram for each in counts for gram in each)
        self._number = {gram: i for i, gram in enumerate(known)}
        used = np.zeros(len(known))
        for each in counts:
            used[[self._number[gram] for gram in each]] += 1
        self._rarity = np.log((1 + len(counts)) / (1 + used)) + 1
        self._profiles = np.zeros((len(known), len(counts)))
        for i, each in enumerate(counts):
            numbers, weights = self._weights(each)
            self._profiles[numbers, i] = weights

    def place(self, name: str) -> int:
        """Where a person's score is in `scores`."""
        return self.names.index(name)

    def scores(self, text: str) -> Scores:
        """Cosine to each person, float64 [n]; all zero for an empty text."""
        numbers, weights = self._weights(_grams(text))
        scores: Scores = weights @ self._profiles[numbers]
        return scores

    def held_out(self, name: str, note: str) -> Scores:
        """`scores` of one of a person's own notes, as if their profile were without it."""
        scores, own = self.scores(note), self.place(name)
        numbers, weights = self._weights(self._counts[own] - _grams(note))
        profile = np.zeros(len(self._number))
        profile[numbers] = weights
        numbers, weights = self._weights(_grams(note))
        scores[own] = weights @ profile[numbers]
        return scores

    def _weights(self, counts: Counter[str]) -> tuple[list[int], Scores]:
        known = [(self._number[gram], n) for gram, n in counts.items() if gram in self._number]
        numbers = [number for number, _ in known]
        weights = (1 + np.log([n for _, n in known])) * self._rarity[numbers]
        return numbers, weights / (np.linalg.norm(weights) or 1)


def _summed(notes: Sequence[str]) -> Counter[str]:
    total = Counter[str]()
    for note in notes:
        total.update(_grams(note))
    return total


def _grams(text: str) -> Counter[str]:
    if not (text := text.strip()):
        return Counter()
    text = f"\n{text}\n"
    return Counter(text[i : i + n] for n in GRAMS for i in range(len(text) - n + 1))


class Manners:
    """Nearness by manner: the Euclidean distance, negated, of standardised features.

    The features are those of `manner`. They are standardised by the mean and the deviation over all
    notes, cut at ``FAR`` deviations, and a person is the mean of their notes.

    Args:
        people: each person's notes, by name.
    """

    def __init__(self, people: Mapping[str, Sequence[str]]) -> None:
        self.names = list(people)
        notes = [np.array([manner(note) for note in people[name]]) for name in self.names]
        whole = np.concatenate(notes)
        self._mean, deviation = whole.mean(0), whole.std(0)
        self._deviation = np.where(deviation > 0, deviation, 1)
        self._people = np.array([self._standardised(rows).mean(0) for rows in notes])
        self._sizes = [len(rows) for rows in notes]

    def place(self, name: str) -> int:
        """Where a person's score is in `scores`."""
        return self.names.index(name)

    def scores(self, text: str) -> Scores:
        """Distance to each person times -1, float64 [n]; all equal for an empty text."""
        if not text.strip():
            return np.zeros(len(self.names))
        return self._nearness(self._people, text)

    def held_out(self, name: str, note: str) -> Scores:
        """`scores` of one of a person's own notes, as if their mean were without it."""
        people, own = self._people.copy(), self.place(name)
        mine = self._standardised(np.array(manner(note)))
        size = self._sizes[own]
        people[own] = (people[own] * size - mine) / max(1, size - 1)
        return self._nearness(people, note)

    def _nearness(self, people: Scores, text: str) -> Scores:
        place = self._standardised(np.array(manner(text)))
        distances: Scores = np.linalg.norm(people - place, axis=1)
        return -distances

    def _standardised(self, rows: Scores) -> Scores:
        return np.clip((rows - self._mean) / self._deviation, -FAR, FAR)


MARKS = (".", ",", "!", "?", ";", ":", "'’", '"“”', "()", "-–—", "…", "*•#", "/&")
_FUNCTION_WORDS = """
    a about after all also although an and any are as at be because been but by can could do
    does for from had has have he her his how however i if in is it its just may me might my no
    not of on or our perhaps she should so some still than that the their them then there
    therefore they this though to very was we were what when which who will with would you your
"""
FUNCTION_WORDS = frozenset(_FUNCTION_WORDS.split())


@lru_cache(maxsize=1 << 14)
def manner(text: str) -> tuple[float, ...]:
    """How a text is written, in numbers that hold none of its words.

    Rates per character of each of ``MARKS`` and of dots in a row, of upper case among letters, of
    characters outside ASCII that are no letters or quotes, and of line breaks; sentences that begin
    in lower case and lines that end without a mark, as shares; ln(1 + words) of the text and of its
    mean sentence; mean word length; shares of words that are function words, have an apostrophe,
    are "I" in lower case, or are in capitals.

    Args:
        text: not empty.
    """
    text = text.strip()
    size = max(1, len(text))
    letters = [c for c in text if c.isalpha()] or ["a"]
    words = re.findall(r"[^\W_]+(?:['’][^\W_]+)*", text) or ["a"]
    sentences = [s for s in re.split(r"[.!?…\n]+", text) if re.search(r"\w", s)] or [text]
    lines = [line for line in text.splitlines() if line.strip()] or [text]
    starts = [found[0] for s in sentences if (found := re.search(r"[^\W\d_]", s))] or ["A"]
    odd = [c for c in text if ord(c) > 127 and not c.isalpha() and c not in "’‘“”–—…"]
    return (
        *(sum(text.count(c) for c in mark) / size for mark in MARKS),
        len(re.findall(r"\.\.+", text)) / size,
        sum(c.isupper() for c in letters) / len(letters),
        len(odd) / size,
        text.count("\n") / size,
        sum(c.islower() for c in starts) / len(starts),
        sum(line.rstrip()[-1:].isalnum() for line in lines) / len(lines),
        math.log1p(len(words)),
        math.log1p(len(words) / len(sentences)),
        sum(map(len, words)) / len(words),
        sum(word.lower() in FUNCTION_WORDS for word in words) / len(words),
        sum("'" in word or "’" in word for word in words) / len(words),
        sum(word == "i" or word.startswith(("i'", "i’")) for word in words) / len(words),
        sum(len(word) > 1 and word.isupper() for word in words) / len(words),
    )


# --- what should not be there -----------------------------------------------------------------


def words_of(text: str) -> list[str]:
    """The words of a text, case folded, without punctuation; an apostrophe joins ("dont")."""
    return re.findall(r"\w+", re.sub(r"['’]", "", text.casefold()))


def copies(answer: str, notes: Sequence[str]) -> bool:
    """Whether an answer repeats ``COPIED`` words in a row of some note.

    What the person says time and again is theirs to say: a run counts only while few notes have it,
    fewer than three and fewer than a fifth of them (a single note is always few).

    Args:
        answer: the answer.
        notes: the person's notes, all that is in each.
    """
    runs = _runs(words_of(answer), COPIED)
    if not runs:
        return False
    times = Counter(run for note in notes for run in runs & _note_runs(note))
    many = min(3, max(2, math.ceil(len(notes) / 5)))
    return any(count < many for count in times.values())


@lru_cache(maxsize=1 << 14)
def _note_runs(note: str) -> set[tuple[str, ...]]:
    return _runs(words_of(note), COPIED)


def _runs(words: Sequence[str], size: int) -> set[tuple[str, ...]]:
    return {tuple(words[i : i + size]) for i in range(len(words) - size + 1)}


def loops(answer: str) -> bool:
    """Whether an answer goes round in circles.

    It does where a sequence of three or more words comes three or more times, a line of two or more
    words does, one word comes four or more times in a row, or four numbers stand in a row.
    """
    words = words_of(answer)
    triples = Counter(zip(words, words[1:], words[2:], strict=False))
    lines = Counter(tuple(line) for text in answer.splitlines() if len(line := words_of(text)) >= 2)
    stutters = zip(*(words[i:] for i in range(STUTTER)), strict=False)
    return (
        max(triples.values(), default=0) >= REPEATED
        or max(lines.values(), default=0) >= REPEATED
        or any(len(set(run)) == 1 for run in stutters)
        or _COUNTING.search(answer) is not None
    )


def is_short(answer: str) -> bool:
    """Whether an answer has fewer than four words."""
    return len(answer.split()) < SHORT
