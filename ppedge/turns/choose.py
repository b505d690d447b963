"""Which notes become turns: typical of the person, unlike each other, of middling length.

They are chosen without the prompt, so that what a model made of them can be kept.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from typing import Final

import numpy as np

from ppedge.notes.reader import Note

_GRAM: Final = 3  # characters
_MAX_CHARS: Final = 400  # of a note that are looked at
_LIKENESS: Final = 0.5  # cost of being like a note that was chosen
_SAME: Final = 0.95  # as alike as a note and its copy
_LENGTH: Final = 0.15  # cost of e times the middling length
_TOO_LONG: Final = 60  # words; a turn would be cut before the note's end


def choose_notes(
    notes: Sequence[Note], count: int, pinned: Collection[int] = frozenset()
) -> list[int]:
    """Choose up to ``count`` notes for turns; all that are pinned, if there are more of these.

    Greedy maximal marginal relevance (Carbonell and Goldstein, SIGIR 1998): how alike the notes
    are is the cosine of their log-scaled character trigrams; how typical a note is, that to the
    sum of all the others.

    Args:
        notes: of one person; time grows with ``count`` times their number.
        count: 0 or more.
        pinned: indices of notes that are always chosen, unless ``count`` is 0.

    Returns:
        Indices of ``notes``, ascending.
    """
    if not notes or count <= 0:
        return []
    profiles = [_profile(note.output[:_MAX_CHARS]) for note in notes]
    total: defaultdict[str, float] = defaultdict(float)
    for profile in profiles:
        for gram, value in profile.items():
            total[gram] += value
    size = _square(total)
    lengths = np.array([max(1, len(note.output.split())) for note in notes], np.float64)
    worth = np.array([_typical(profile, total, size) for profile in profiles])
    worth -= _LENGTH * np.abs(np.log(lengths / np.median(lengths)))
    worth[lengths > _TOO_LONG] -= 1
    likeness, chosen, wanted = np.zeros(len(notes)), list[int](), sorted(pinned)
    for i in range(max(len(wanted), min(count, len(notes)))):
        scores = worth - _LIKENESS * likeness - (likeness > _SAME)
        scores[chosen] = -np.inf
        best = wanted[i] if i < len(wanted) else int(scores.argmax())
        chosen.append(best)
        near = [_cosine(profiles[best], profile) for profile in profiles]
        likeness = np.maximum(likeness, near)
    return sorted(chosen)


def keep_last(chosen: Sequence[int], pinned: Collection[int], count: int) -> list[int]:
    """Those of some chosen notes that stay where there is room for ``count`` of them.

    The first ones make way, and pinned ones after all others.

    Args:
        chosen: indices of notes, ascending.
        pinned: indices of those that are pinned.
        count: at most as many as ``chosen``.

    Returns:
        Indices of notes, ascending.
    """
    in_order = sorted(chosen, key=lambda index: (index in pinned, index))
    return sorted(in_order[len(in_order) - count :])


def _profile(text: str) -> dict[str, float]:
    flat = " ".join(text.split())
    counts = Counter(flat[i : i + _GRAM] for i in range(max(1, len(flat) - _GRAM + 1)))
    return {gram: 1 + math.log(count) for gram, count in counts.items()}


def _typical(profile: Mapping[str, float], total: Mapping[str, float], size: float) -> float:
    """Cosine of a profile to the sum of the others; ``size`` is the square of the sum of all."""
    own = _square(profile)
    both = sum(value * total[gram] for gram, value in profile.items())
    # |total - profile|^2, from parts that need no walk over all of `total`.
    rest = size - 2 * both + own
    return (both - own) / math.sqrt(own * rest) if rest > 1e-9 else 0.0


def _square(profile: Mapping[str, float]) -> float:
    return sum(value * value for value in profile.values())


def _cosine(a: Mapping[str, float], b: Mapping[str, float]) -> float:
    if len(b) < len(a):
        a, b = b, a
    dot = sum(value * b.get(gram, 0.0) for gram, value in a.items())
    size = math.sqrt(_square(a) * _square(b))
    return dot / size if size else 0.0
