"""Where an answer ends, and what it may not copy: rules that a person's notes set for any model.

They speak of texts and words; ``ruling.py`` has a model's tokens keep them.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import groupby, pairwise
from typing import Final

COPY_WORDS: Final = 8
"""Words in a row that an answer may not have from a note."""

LEAST_WORDS: Final = 4
"""Words that an answer has before it may end, unless the person's notes are shorter."""

_HABIT_SHARE: Final = 0.2  # of the notes: who writes something in so many writes it always
_HABIT_LEAST: Final = 3
_CLOSER_WORDS: Final = 3  # words of a sign-off by which it is known
_CLOSER_TAIL: Final = 12  # words before a note's end within which a sign-off stands
_CLOSER_LATE: Final = 0.9  # share of its places that must be such
_USUAL: Final = 0.75
_LONG: Final = 1.5  # times the length of a long note, after which an answer ends with its sentence
_SHORTEST_LIMIT: Final = 24  # tokens
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
_WORD: Final = re.compile(r"[^\W_]+")
_BARE_MARKS: Final = 2  # pieces between spaces, in a row, that may have no letter or digit
_NUMBERS: Final = re.compile(r"(?:(?:^|\s)\W*\d\S*){2}\s+\W*$")
_MANY_NUMBERS: Final = re.compile(r"(?:(?:^|\s)\W*\d\S*){3}")
_SENTENCE: Final = re.compile(r"[.!?…\n]+")
_SENTENCE_END: Final = re.compile(r"[.!?…][\"'”’)]*\s*$|\n\s*$")


Run = tuple[str, ...]
"""Words in a row."""


def words_of(text: str) -> list[str]:
    """The words of a text, without case and marks; "don't" is one word."""
    return _WORD.findall(text.casefold().replace("'", "").replace("’", ""))


def habitual(n_notes: int) -> float:
    """In how many of a person's notes something must stand to be a habit of theirs."""
    return max(_HABIT_LEAST, _HABIT_SHARE * n_notes)


def _runs(words: Sequence[str], length: int) -> list[Run]:
    return [tuple(words[i : i + length]) for i in range(len(words) - length + 1)]


class NoCopying:
    """Keeps an answer from running on along a note for `COPY_WORDS` words, habits aside.

    Attributes:
        habits: runs of so many words that the person writes in many notes.

    Args:
        texts: of the person's notes, or other texts that are not to be copied.
        habits: runs that may be copied besides.
    """

    def __init__(self, texts: Sequence[str], habits: Collection[Run] = ()) -> None:
        """Remember every run of the notes that is no habit."""
        counts: Counter[Run] = Counter()
        for text in texts:
            counts.update(set(_runs(words_of(text), COPY_WORDS)))
        least = habitual(len(texts))
        self.habits = {run for run, count in counts.items() if count >= least}
        self._runs = counts.keys() - self.habits - set(habits)
        self._next: defaultdict[Run, set[str]] = defaultdict(set)
        for run in self._runs:
            self._next[run[:-1]].add(run[-1])

    def copies(self, text: str) -> bool:
        """Whether a text has a run of `COPY_WORDS` words from a note."""
        return not self._runs.isdisjoint(_runs(words_of(text), COPY_WORDS))

    def forbidden(self, text: str) -> set[str]:
        """Words that would complete such a run behind a text that ends with a whole word."""
        last = words_of(text[-40 * COPY_WORDS :])[1 - COPY_WORDS :]
        return self._next.get(tuple(last), set())


class NoLoops:
    """Keeps an answer from saying the same again, and from counting up.

    Four words in a row come once, three twice, two three times, and no word four times in twelve.
    A longer word comes three times in forty, and the same two words open two sentences. A word does
    not follow itself, no third number follows two, no letter comes five times in a row, and bare
    marks do not take over, unless the notes have such.

    Attributes:
        longest: times that a letter or mark may come in a row.

    Args:
        texts: of the person's notes.
    """

    def __init__(self, texts: Sequence[str] = ()) -> None:
        """Look for what the person does themselves."""
        words = [words_of(text) for text in texts]
        self._doubled = {a for each in words for a, b in pairwise(each) if a == b}
        self._counts = any(map(_MANY_NUMBERS.search, texts))
        self.longest = max([_DRAWN_OUT, *map(longest_run, texts)])
        self._bare = max([_BARE_MARKS, *map(_bare_marks, texts)])

    def counts_up(self, text: str) -> bool:
        """Whether a number behind this text, which ends with a space, would be the third."""
        return not self._counts and bool(_NUMBERS.search(text))

    def only_marks(self, text: str) -> bool:
        """Whether this text ends with so many marks without a word that one has to come."""
        pieces = text.split()
        return len(pieces) >= self._bare and not any(map(_WORD.search, pieces[-self._bare :]))

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
            last, seen = tuple(words[1 - length :]), Counter(_runs(words, length))
            found |= {run[-1] for run, count in seen.items() if run[:-1] == last and count >= times}
        nearby = Counter(words[1 - _NEARBY :])
        found |= {word for word, count in nearby.items() if count >= _OFTEN}
        if len(words) >= _STUTTER - 1 and len(set(words[1 - _STUTTER :])) == 1:
            found.add(words[-1])
        return found


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
    words = map(_WORD.search, text.split())
    runs = [len(list(group)) for has, group in groupby(words, bool) if not has]
    return max(runs, default=0)


def _opened(text: str) -> set[str]:
    """Words that, behind the first word of a sentence, would open one too many likewise."""
    *before, now = map(words_of, _SENTENCE.split(text))
    if len(now) != 1:
        return set()
    openers = Counter(tuple(each[:2]) for each in before if len(each) > 1)
    return {b for (a, b), count in openers.items() if a == now[0] and count >= _OPENERS}


class Ending:
    """Ends an answer where its author would: behind a sign-off, and not long after their length.

    A sign-off is a run of words that stands near the end of many notes, and hardly elsewhere.

    Args:
        texts: of the person's notes.
        lengths: how many tokens each of them has.
    """

    def __init__(self, texts: Sequence[str], lengths: Sequence[int]) -> None:
        """Find the sign-offs and the usual length."""
        self._closers, self._tail = _closers(texts)
        shortest = min((len(words_of(text)) for text in texts), default=LEAST_WORDS)
        self.least_words = min(LEAST_WORDS, max(1, shortest))
        long = quantile(lengths, 0.9) if len(lengths) else math.inf
        self.limit = max(_SHORTEST_LIMIT, _LONG * long)

    def is_over(self, text: str, n_tokens: int) -> bool:
        """Whether an answer is done: its sign-off is, or it is long and so is its sentence."""
        if n_tokens >= self.limit and _SENTENCE_END.search(text):
            return True
        behind = self._behind_closer(text)
        if behind is None:
            return False
        return not self._tail or "\n" in behind or len(words_of(behind)) > self._tail

    def is_last_word(self, text: str) -> bool:
        """Whether what is being written is the last word behind a sign-off: a name, a mood."""
        behind = self._behind_closer(text)
        return behind is not None and len(words_of(behind)) >= self._tail

    def _behind_closer(self, text: str) -> str | None:
        """What stands behind the first sign-off of a text; None where there is none."""
        for closer in self._closers:
            found = closer.search(text)
            if found:
                return text[found.end() :]
        return None


def _closers(texts: Sequence[str]) -> tuple[list[re.Pattern[str]], int]:
    """Patterns of the person's sign-offs, and how many words at most stand behind one."""
    split = [list(re.finditer(r"\S+", text)) for text in texts]
    late = Counter(
        " ".join(token[0] for token in tokens[i:end])
        for text, tokens in zip(texts, split, strict=True)
        for i, end in _late_runs(text, tokens)
    )
    least = habitual(len(texts))
    often = {run: count for run, count in late.items() if count >= least}
    # Where else they stand is looked up for these alone, which are few.
    openers = {run.split(" ", 1)[0] for run in often}
    places = Counter(
        " ".join(words[i : i + size])
        for words in ([token[0] for token in tokens] for tokens in split if openers)
        for i in range(len(words))
        if words[i] in openers
        for size in range(1, min(_CLOSER_WORDS, len(words) - i) + 1)
    )
    found = [run for run, count in often.items() if count >= _CLOSER_LATE * places[run]]
    found.sort(key=lambda run: (len(run), run))
    # A sign-off of one letter is no part of a word.
    patterns = [
        re.compile(r"(?<!\S)" + r"\s+".join(map(re.escape, run.split(" "))) + r"(?!\w)")
        for run in found
    ]
    return patterns, _usual_tail(texts, patterns)


def _late_runs(text: str, tokens: Sequence[re.Match[str]]) -> Iterator[tuple[int, int]]:
    """Where the words of a sign-off may stand: on a line of their own near the end, or at it."""
    count = len(tokens)
    for i in range(max(0, count - _CLOSER_TAIL), count):
        on_its_own = i > 0 and "\n" in text[tokens[i - 1].end() : tokens[i].start()]
        for size in range(1, min(_CLOSER_WORDS, count - i) + 1):
            if on_its_own or i + size == count:
                yield i, i + size


def _usual_tail(texts: Iterable[str], patterns: Sequence[re.Pattern[str]]) -> int:
    """Words behind a sign-off, in most of the notes that have one."""
    tails = [
        len(words_of(text[found.end() :]))
        for text in texts
        for pattern in patterns
        if (found := pattern.search(text))
    ]
    return math.ceil(quantile(tails, _USUAL)) if tails else 0


def quantile(values: Sequence[int], share: float) -> float:
    """What ``share`` of some numbers, at least one, do not exceed; linear between two of them."""
    # That of numpy imports a module of numpy's which takes longer than all else here.
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (place - low) * (ordered[high] - ordered[low])
