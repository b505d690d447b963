"""Words of a text, and how many of a person's notes make something a habit of theirs."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any, Final

_HABIT_SHARE: Final = 0.2  # of the notes: who writes something in so many writes it always
_HABIT_LEAST: Final = 3
_WORD: Final = re.compile(r"[^\W_]+")

Run = tuple[str, ...]
"""Words in a row."""

Found = dict[str, Any]
"""What a rule has to know of notes, as JSON holds it."""


def words_of(text: str) -> list[str]:
    """The words of a text, without case and marks; "don't" is one word."""
    return _WORD.findall(text.casefold().replace("'", "").replace("’", ""))


def has_word(text: str) -> bool:
    """Whether a text has a letter or a digit."""
    return bool(_WORD.search(text))


def habitual(n_notes: int) -> float:
    """In how many of a person's notes something must stand to be a habit of theirs."""
    return max(_HABIT_LEAST, _HABIT_SHARE * n_notes)


def runs(words: Sequence[str], length: int) -> list[Run]:
    """Each so many words in a row."""
    return [tuple(words[i : i + length]) for i in range(len(words) - length + 1)]


def quantile(values: Sequence[int], share: float) -> float:
    """What ``share`` of some numbers, at least one, do not exceed; linear between two of them."""
    # That of numpy imports a module of numpy's which takes longer than all else here.
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (place - low) * (ordered[high] - ordered[low])
