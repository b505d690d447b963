"""What an answer may not copy, repeat or say: rules that a person's notes set for any model.

They speak of texts and words; ``ruling.py`` has a model's tokens keep them.
"""

from __future__ import annotations

import math
import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from functools import cached_property
from itertools import groupby, pairwise
from typing import Final, Literal

from ppedge.style.words import Found, Run, habitual, has_word, quantile, runs, words_of

COPY_WORDS: Final = 8
"""Words in a row that an answer may not have from a note."""

# Words in a row, and how often an answer may have them.
_REPEATABLE: Final = {4: 1, 3: 2, 2: 3}
_OFTEN: Final = 3  # times that a word may come within so many words:
_NEARBY: Final = 12
_STUTTER: Final = 3  # times in a row that it may not
# Words, within which one of `_TELLING` letters or more may come `_WORN` times.
_WORN_WITHIN: Final = 40
_WORN: Final = 3
_TELLING: Final = 5
_OPENERS: Final = 2  # sentences that the same two words may open
_ECHO_WORDS: Final = 3  # of a prompt's beginning that no sentence of its answer may begin with
_DRAWN_OUT: Final = 4  # times that a letter or mark may come in a row, "sooo"
_SAME: Final = re.compile(r"(\S)\1+", re.IGNORECASE)
_BARE_MARKS: Final = 2  # pieces between spaces, in a row, that may have no letter or digit
Dense = Literal["number", "tag"]
"""What some write many of: numbers, and #tags or @names."""

Limit = tuple[int, int]
"""Pieces of a text, and how many such may be within so many."""

# How a text falls into pieces, of which each or none is such: tags need no space between them.
_DENSE: Final[dict[Dense, tuple[re.Pattern[str], re.Pattern[str]]]] = {
    "number": (re.compile(r"\S+"), re.compile(r"\d")),
    "tag": (re.compile(r"#+[^\s#]*|[^\s#]+"), re.compile(r"#|(?<!\w)@\w")),
}
# Of who writes hardly any; and of who does, or as many as in this share of their notes.
_FEW: Final = (3, 2)
_MANY: Final = ((8, 2, 0.75), (24, 3, 0.9))
_LINK: Final = re.compile(r"https?:|www\.", re.IGNORECASE)
_LINKS: Final = ("http", "https", "www")
_CERTAIN: Final = ("sure", "certain")
_DOUBT: Final = re.compile(r"\bnot (?:\S+ )?(?:sure|certain)\b", re.IGNORECASE)
_LAST_WORDS: Final = 24  # characters, among which is "not" where a doubt is being said
_SENTENCE: Final = re.compile(r"[.!?…\n]+")


class NoCopying:
    """Keeps an answer from running on along a note for `COPY_WORDS` words, habits aside.

    A habit is a run of so many words that the person writes in many notes.

    Args:
        texts: of the person's notes, or other texts that are not to be copied.
        habits: whose habits may be copied besides.
    """

    def __init__(self, texts: Sequence[str], habits: NoCopying | None = None) -> None:
        """Take the notes; they are looked through when there is something to look for."""
        self._texts, self._others = texts, habits
        self._least = habitual(len(texts))

    @cached_property
    def _said(self) -> str:
        """The words of every note, each between spaces, and a line break behind each note."""
        return "".join(f" {' '.join(words_of(text))} \n" for text in self._texts) + " "

    def is_habit(self, run: Run) -> bool:
        """Whether the person writes this run of words in many notes."""
        words = f" {' '.join(run)} "
        return sum(words in note for note in self._said.split("\n")) >= self._least

    def copies(self, text: str) -> bool:
        """Whether a text has a run of `COPY_WORDS` words from a note."""
        said = runs(words_of(text), COPY_WORDS)
        return any(run[-1] in self._following(run[:-1]) for run in said)

    def forbidden(self, text: str) -> set[str]:
        """Words that would complete such a run behind a text that ends with a whole word."""
        last = words_of(text[-40 * COPY_WORDS :])[1 - COPY_WORDS :]
        return self._following(tuple(last)) if len(last) == COPY_WORDS - 1 else set()

    def _following(self, run: Run) -> set[str]:
        """The words that follow some words in a note, where all together are no habit."""
        words, said, found = f" {' '.join(run)} ", self._said, set[str]()
        place = said.find(words)
        while place >= 0:
            end = place + len(words)
            found.add(said[end : said.index(" ", end)])
            place = said.find(words, place + 1)
        return {word for word in found if word != "\n" and not self._is_allowed((*run, word))}

    def _is_allowed(self, run: Run) -> bool:
        return self.is_habit(run) or bool(self._others and self._others.is_habit(run))


class NoLoops:
    """Keeps an answer from saying the same again, and from counting up.

    Four words in a row come once, three twice, two three times, and no word four times in twelve.
    A longer word comes three times in forty, and the same two words open two sentences. A word does
    not follow itself, no third number follows two, no letter comes five times in a row, and bare
    marks do not take over, unless the notes have such; and who often writes numbers or #tags writes
    them no closer than in most notes.

    Attributes:
        longest: times that a letter or mark may come in a row.

    Args:
        texts: of the person's notes.
    """

    def __init__(self, texts: Sequence[str] = ()) -> None:
        """Look for what the person does themselves."""
        words = [words_of(text) for text in texts]
        self._doubled = {a for each in words for a, b in pairwise(each) if a == b}
        self._limits: dict[Dense, list[Limit]] = {kind: _limits(kind, texts) for kind in _DENSE}
        self.longest = max([_DRAWN_OUT, *map(longest_run, texts)])
        self._bare = max([_BARE_MARKS, *map(_bare_marks, texts)])

    def found(self) -> Found:
        """What was found in the notes, as JSON holds it."""
        doubled = sorted(self._doubled)
        return {
            "doubled": doubled,
            "limits": self._limits,
            "run": self.longest,
            "bare": self._bare,
        }

    @classmethod
    def of(cls, found: Found) -> NoLoops:
        """The rule of notes in which this was found.

        Raises:
            ValueError, TypeError, KeyError, AttributeError, OverflowError: it is something else.
        """
        rule = cls()
        rule._doubled = set(found["doubled"])
        told = found["limits"]
        rule._limits = {
            kind: [(int(within), int(most)) for within, most in told[kind]] for kind in _DENSE
        }
        rule.longest, rule._bare = int(found["run"]), int(found["bare"])
        return rule

    def too_dense(self, text: str) -> list[Dense]:
        """Of what one more behind this text, which ends with a space, would be one too many."""
        return [
            kind
            for kind, limits in self._limits.items()
            if (found := _are(kind, text))
            and any(sum(found[1 - within :]) >= most for within, most in limits)
        ]

    def only_marks(self, text: str) -> bool:
        """Whether this text ends with so many marks without a word that one has to come."""
        pieces = text.split()
        return len(pieces) >= self._bare and not any(map(has_word, pieces[-self._bare :]))

    def draws_out(self, text: str, piece: str) -> bool:
        """Whether a piece behind this text would say one letter or mark too often in a row."""
        if longest_run(piece) > self.longest:
            return True
        last, first = text[-1:].casefold(), piece[:1].casefold()
        if not last.strip() or last != first:
            return False
        said = len(text) - len(text.rstrip(last + last.upper()))
        return said + len(piece) - len(piece.lstrip(last + last.upper())) > self.longest

    def forbidden(self, text: str) -> set[str]:
        """Words that would repeat too much behind a text that ends with a whole word."""
        words = words_of(text)
        found = set(words[-1:]) - self._doubled | _opened(text)
        recent = Counter(word for word in words[-_WORN_WITHIN:] if len(word) >= _TELLING)
        found |= {word for word, count in recent.items() if count >= _WORN}
        for length, times in _REPEATABLE.items():
            last, seen = tuple(words[1 - length :]), Counter(runs(words, length))
            found |= {run[-1] for run, count in seen.items() if run[:-1] == last and count >= times}
        nearby = Counter(words[1 - _NEARBY :])
        found |= {word for word, count in nearby.items() if count >= _OFTEN}
        if len(words) >= _STUTTER - 1 and len(set(words[1 - _STUTTER :])) == 1:
            found.add(words[-1])
        return found


class NoFiller:
    """Keeps an answer from what small models say where they have nothing to say.

    That is "[Your Name]" in letters, made-up links, and that they are not sure; unless the notes
    have such.

    Attributes:
        brackets: whether an answer may have square brackets.

    Args:
        texts: of the person's notes.
    """

    def __init__(self, texts: Sequence[str] = ()) -> None:
        """Look for what the person writes themselves."""
        self.brackets = any("[" in text for text in texts)
        self._links = any(map(_LINK.search, texts))
        self._doubts = any(map(_DOUBT.search, texts))

    def forbidden(self, text: str, prompt: str = "") -> set[str]:
        """Words that begin a link, or say a doubt, behind a text that ends with a whole word.

        Args:
            text: what is written.
            prompt: what is asked; where it has a link, there may be one.
        """
        found = set() if self._links or _LINK.search(prompt) else set(_LINKS)
        is_denied = not self._doubts and "not" in words_of(text[-_LAST_WORDS:])[-2:]
        return found.union(_CERTAIN) if is_denied else found


class NoEcho:
    """Keeps a sentence of the answer from beginning as the prompt does.

    Args:
        prompt: what is asked.
    """

    def __init__(self, prompt: str) -> None:
        """Remember how it begins; one that is hardly longer may be a greeting, and is returned."""
        words = words_of(prompt)
        self._begun, self._next = words[: _ECHO_WORDS - 1], set(words[_ECHO_WORDS - 1 :][:1])
        if len(words) <= _ECHO_WORDS + 1:
            self._next.clear()

    def forbidden(self, text: str) -> set[str]:
        """Words that would say the prompt back behind a text that ends with a whole word."""
        return self._next if words_of(_SENTENCE.split(text)[-1]) == self._begun else set()


def longest_run(text: str) -> int:
    """How often a letter or mark comes in a row, at most."""
    alone = int(bool(text.strip()))
    return max((len(found[0]) for found in _SAME.finditer(text)), default=alone)


def _bare_marks(text: str) -> int:
    """How many pieces between spaces have no letter or digit, at most in a row."""
    words = map(has_word, text.split())
    bare = [len(list(group)) for has, group in groupby(words, bool) if not has]
    return max(bare, default=0)


def _are(kind: Dense, text: str) -> list[bool]:
    """Of each piece of a text, whether it is such; empty where none is."""
    piece, mark = _DENSE[kind]
    if not mark.search(text):
        return []
    return [bool(mark.search(each)) for each in piece.findall(text)]


def _limits(kind: Dense, texts: Sequence[str]) -> list[Limit]:
    """Within how many pieces how many such may come, by the notes."""
    notes = [_are(kind, text) for text in texts]
    usual = [
        math.floor(quantile([_closest(each, within) for each in notes] or [0], share))
        for within, _, share in _MANY
    ]
    if usual[0]:
        limits = zip(_MANY, usual, strict=True)
        return [(within, max(least, most)) for (within, least, _), most in limits]
    within, most = _FEW
    return [] if any(_closest(each, within) > most for each in notes) else [_FEW]


def _closest(are: Sequence[bool], within: int) -> int:
    """How many such a text has within so many pieces, at most."""
    places = [i for i, is_one in enumerate(are) if is_one]
    return max((bisect_left(places, i + within) - n for n, i in enumerate(places)), default=0)


def _opened(text: str) -> set[str]:
    """Words that, behind the first word of a sentence, would open one too many likewise."""
    *before, now = map(words_of, _SENTENCE.split(text))
    if len(now) != 1:
        return set()
    openers = Counter(tuple(each[:2]) for each in before if len(each) > 1)
    return {b for (a, b), count in openers.items() if a == now[0] and count >= _OPENERS}
