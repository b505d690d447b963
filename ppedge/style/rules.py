"""Where an answer ends, and what it may not copy: rules that a person's notes set for any model.

Each is a function of logits and the tokens so far, to be put between a model and its sampling.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import groupby, pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ppedge.style.shapes import Vocabulary, likeliest

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
_BEGUN: Final = 4  # letters by which a word is known before it ends
_OPENERS: Final = 2  # sentences that the same two words may open
_DRAWN_OUT: Final = 4  # times that a letter or mark may come in a row, "sooo"
_SAME: Final = re.compile(r"(\S)\1*", re.IGNORECASE)
_WORD: Final = re.compile(r"[^\W_]+")
_BARE_MARKS: Final = 2  # pieces between spaces, in a row, that may have no letter or digit
_NUMBERS: Final = re.compile(r"(?:(?:^|\s)\W*\d\S*){2}\s+\W*$")
_MANY_NUMBERS: Final = re.compile(r"(?:(?:^|\s)\W*\d\S*){3}")
_LAST_WORD: Final = re.compile(r"[^\W_]+$")
_SENTENCE: Final = re.compile(r"[.!?…\n]+")
_SENTENCE_END: Final = re.compile(r"[.!?…][\"'”’)]*\s*$|\n\s*$")


def words_of(text: str) -> list[str]:
    """The words of a text, without case and marks; "don't" is one word."""
    return _WORD.findall(text.casefold().replace("'", "").replace("’", ""))


def habitual(n_notes: int) -> float:
    """In how many of a person's notes something must stand to be a habit of theirs."""
    return max(_HABIT_LEAST, _HABIT_SHARE * n_notes)


def _runs(words: Sequence[str], length: int) -> list[tuple[str, ...]]:
    return [tuple(words[i : i + length]) for i in range(len(words) - length + 1)]


class NoCopying:
    """Keeps an answer from running on along a note for `COPY_WORDS` words, habits aside.

    Args:
        texts: of the person's notes.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        """Remember every run of the notes that is no habit."""
        counts: Counter[tuple[str, ...]] = Counter()
        for text in texts:
            counts.update(set(_runs(words_of(text), COPY_WORDS)))
        self._habit = habitual(len(texts))
        self._runs = {run for run, count in counts.items() if count < self._habit}
        self._next: defaultdict[tuple[str, ...], set[str]] = defaultdict(set)
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

    Args:
        texts: of the person's notes.
    """

    def __init__(self, texts: Sequence[str] = ()) -> None:
        """Look for what the person does themselves."""
        words = [words_of(text) for text in texts]
        self._doubled = {a for each in words for a, b in pairwise(each) if a == b}
        self._counts = any(map(_MANY_NUMBERS.search, texts))
        self._longest = max([_DRAWN_OUT, *map(_longest_run, texts)])
        self._bare = max([_BARE_MARKS, *map(_bare_marks, texts)])

    def counts_up(self, text: str) -> bool:
        """Whether a number behind this text, which ends with a space, would be the third."""
        return not self._counts and bool(_NUMBERS.search(text))

    def only_marks(self, text: str) -> bool:
        """Whether this text ends with so many marks without a word that one has to come."""
        pieces = text.split()
        return len(pieces) >= self._bare and not any(map(words_of, pieces[-self._bare :]))

    def draws_out(self, text: str, piece: str) -> bool:
        """Whether a piece behind this text would say one letter or mark too often in a row."""
        if _longest_run(piece) > self._longest:
            return True
        last, first = text[-1:].casefold(), piece[:1].casefold()
        if not last.strip() or last != first:
            return False
        said = len(text) - len(text.rstrip(last + last.upper()))
        return said + len(piece) - len(piece.lstrip(last + last.upper())) > self._longest

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


@lru_cache(1 << 16)  # Of hundreds of pieces at each token, mostly the same.
def _longest_run(text: str) -> int:
    """How often a letter or mark comes in a row, at most."""
    return max((len(found[0]) for found in _SAME.finditer(text)), default=0)


def _bare_marks(text: str) -> int:
    """How many pieces between spaces have no letter or digit, at most in a row."""
    runs = [
        len(list(group))
        for has, group in groupby(text.split(), lambda p: bool(words_of(p)))
        if not has
    ]
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
        long = float(np.quantile(lengths, 0.9)) if len(lengths) else math.inf
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
    places: Counter[str] = Counter()
    late: Counter[str] = Counter()
    for text in texts:
        tokens = list(re.finditer(r"\S+", text))
        for size in range(1, _CLOSER_WORDS + 1):
            for i in range(len(tokens) - size + 1):
                run = " ".join(token[0] for token in tokens[i : i + size])
                places[run] += 1
                # A sign-off has its own line, or ends the note.
                on_its_own = i > 0 and "\n" in text[tokens[i - 1].end() : tokens[i].start()]
                at_end = i + size == len(tokens)
                if (on_its_own or at_end) and i + _CLOSER_TAIL >= len(tokens):
                    late[run] += 1
    least = habitual(len(texts))
    found = [
        run for run, count in late.items() if count >= least and count >= _CLOSER_LATE * places[run]
    ]
    found.sort(key=len)
    # A sign-off of one letter is no part of a word.
    patterns = [
        re.compile(r"(?<!\S)" + r"\s+".join(map(re.escape, run.split(" "))) + r"(?!\w)")
        for run in found
    ]
    return patterns, _usual_tail(texts, patterns)


def _usual_tail(texts: Iterable[str], patterns: Sequence[re.Pattern[str]]) -> int:
    """Words behind a sign-off, in most of the notes that have one."""
    tails = [
        len(words_of(text[found.end() :]))
        for text in texts
        for pattern in patterns
        if (found := pattern.search(text))
    ]
    return math.ceil(np.quantile(tails, _USUAL)) if tails else 0


def _is_said(word: str, forbidden: set[str]) -> bool:
    """Whether a word is forbidden, or so much of a longer one that nothing else comes of it."""
    if word in forbidden:
        return True
    return len(word) >= _BEGUN and any(each.startswith(word) for each in forbidden)


class Rules:
    """`NoCopying`, `NoLoops` and `Ending` as one logits processor.

    Args:
        vocabulary: of the model.
        end: the token that ends a text; None where there is none, and answers cannot be ended.
        copying, loops, ending: the rules.
        brackets: whether the person writes square brackets; a small model fills letters with
            "[Your Name]" otherwise.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        end: int | None,
        copying: NoCopying,
        loops: NoLoops,
        ending: Ending,
        *,
        brackets: bool = True,
    ) -> None:
        """Join them."""
        self._vocabulary, self._end = vocabulary, end
        self._copying, self._loops, self._ending = copying, loops, ending
        self._brackets = brackets
        # Of hundreds of tokens at each step, mostly the same.
        self._pieces: dict[int, str] = {}
        self._first_words: dict[int, tuple[bool, str]] = {}

    def process(self, logits: NDArray[np.float32], written: Sequence[int]) -> NDArray[np.float32]:
        """Rule out what the rules forbid.

        Args:
            logits: float32 [n_vocab], -inf where a token is ruled out already; changed.
            written: the answer's tokens so far.

        Returns:
            float32 [n_vocab]; as it came where nothing would be left.
        """
        text = self._text(written)
        if self._end is not None and self._ending.is_over(text, len(written)):
            logits.fill(-np.inf)
            logits[self._end] = 0
            return logits
        if self._end is not None and self._ending.is_last_word(text):
            self._end_word(logits, self._end)
        ruled_out = self._ruled_out(logits, text)
        if len(ruled_out) < int(np.isfinite(logits).sum()):
            logits[ruled_out] = -np.inf
        return logits

    def _end_word(self, logits: NDArray[np.float32], end: int) -> None:
        """End the text in place of beginning another word."""
        possible = likeliest(logits).tolist()
        others = [token for token in possible if not self._piece(token)[:1].isalnum()]
        if others:
            # Their share of the probability goes to the end.
            share = float(np.logaddexp.reduce(logits[others].astype(np.float64)))
            logits[others] = -np.inf
            logits[end] = share

    def _ruled_out(self, logits: NDArray[np.float32], text: str) -> list[int]:
        possible = likeliest(logits).tolist()
        found = []
        if len(words_of(text)) < self._ending.least_words:
            found = [token for token in possible if self._vocabulary.is_end(token)]
        words = self._forbidden(text)
        last = _LAST_WORD.search(text)
        longer = self._forbidden(text[: last.start()]) if last else set()
        if words or longer:
            begun = last[0] if last else ""
            found += [token for token in possible if self._says(token, begun, words, longer)]
        if self._loops.counts_up(text.rstrip() + " "):
            found += [token for token in possible if self._begins_number(token, text)]
        if self._loops.only_marks(text):
            found += [t for t in possible if self._is_mark(t)]
        found += [t for t in possible if self._loops.draws_out(text, self._piece(t))]
        if not self._brackets:
            found += [token for token in possible if "[" in self._piece(token)]
        return found

    def _forbidden(self, text: str) -> set[str]:
        return self._copying.forbidden(text) | self._loops.forbidden(text)

    def _says(self, token: int, begun: str, words: set[str], longer: set[str]) -> bool:
        """Whether a token says a forbidden word.

        Args:
            token: the next one.
            begun: the word that the text ends with, "" where it ends with none.
            words: that may not follow it.
            longer: that may not stand in its place.
        """
        goes_on, word = self._first_word(token)
        if not (begun and goes_on):
            return bool(word) and _is_said(word, words)
        if not longer:
            return False
        return _is_said(words_of(begun + self._piece(token))[0], longer)

    def _first_word(self, token: int) -> tuple[bool, str]:
        """Whether a token may go on with a word, and its own first word, "" where it has none."""
        found = self._first_words.get(token)
        if found is None:
            piece = self._piece(token)
            found = piece[:1].isalnum(), next(iter(words_of(piece)), "")
            self._first_words[token] = found
        return found

    def _begins_number(self, token: int, text: str) -> bool:
        piece = self._piece(token)
        if piece and not piece.strip(" "):
            return True  # A space by itself stands before a number, where digits are tokens.
        is_new = not text or text[-1].isspace() or piece[:1].isspace()
        return is_new and piece.lstrip()[:1].isdigit()

    def _is_mark(self, token: int) -> bool:
        return not (self._first_word(token)[1] or self._vocabulary.is_end(token))

    def _piece(self, token: int) -> str:
        found = self._pieces.get(token)
        if found is None:
            found = self._vocabulary.piece(token).decode("utf-8", "replace")
            self._pieces[token] = found
        return found

    def _text(self, written: Sequence[int]) -> str:
        return b"".join(map(self._vocabulary.piece, written)).decode("utf-8", "replace")
