"""Where an answer ends: behind its author's sign-off, and not long after their length."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from ppedge.style.words import Found, habitual, quantile, words_of

LEAST_WORDS: Final = 4
"""Words that an answer has before it may end, unless the person's notes are shorter."""

_CLOSER_WORDS: Final = 3  # words of a sign-off by which it is known
_CLOSER_TAIL: Final = 12  # words before a note's end within which a sign-off stands
_CLOSER_LATE: Final = 0.9  # share of its places that must be such
_LONG: Final = 1.5  # times the length of a long note, after which an answer ends with its sentence
_SHORTEST_LIMIT: Final = 24  # tokens
_SENTENCE_END: Final = re.compile(r"[.!?…][\"'”’)]*\s*$|\n\s*$")
_USUAL: Final = 0.75


class Ending:
    """Ends an answer where its author would: behind a sign-off, and not long after their length.

    A sign-off is a run of words that stands near the end of many notes, and hardly elsewhere.

    Args:
        texts: of the person's notes.
        lengths: how many tokens each of them has.
    """

    def __init__(self, texts: Sequence[str], lengths: Sequence[int]) -> None:
        """Find the sign-offs and the usual length."""
        self._said, self._tail = _closers(texts)
        self._closers = [_pattern(run) for run in self._said]
        shortest = min((len(words_of(text)) for text in texts), default=LEAST_WORDS)
        self.least_words = min(LEAST_WORDS, max(1, shortest))
        long = quantile(lengths, 0.9) if len(lengths) else math.inf
        self.limit = max(_SHORTEST_LIMIT, _LONG * long)

    def found(self) -> Found:
        """What was found in the notes, as JSON holds it."""
        said, tail = self._said, self._tail
        return {"said": said, "tail": tail, "least": self.least_words, "limit": self.limit}

    @classmethod
    def of(cls, found: Found) -> Ending:
        """The rule of notes in which this was found.

        Raises:
            ValueError, TypeError, KeyError, AttributeError, OverflowError: it is something else.
        """
        rule = cls((), ())
        rule._said, rule._tail = list(found["said"]), int(found["tail"])
        rule._closers = [_pattern(run) for run in rule._said]
        rule.least_words, rule.limit = int(found["least"]), float(found["limit"])
        return rule

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


def _pattern(closer: str) -> re.Pattern[str]:
    """What finds a sign-off; one of one letter is no part of a word."""
    return re.compile(r"(?<!\S)" + r"\s+".join(map(re.escape, closer.split(" "))) + r"(?!\w)")


def _closers(texts: Sequence[str]) -> tuple[list[str], int]:
    """The person's sign-offs, and how many words at most stand behind one."""
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
    return found, _usual_tail(texts, list(map(_pattern, found)))


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
