"""Several continuations of one prompt, decoded together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ppedge.llm.binding.context import MAX_SEQUENCES, Context
from ppedge.llm.prompt import count_common

MAX_WIDTH = MAX_SEQUENCES - 1


@dataclass(frozen=True, slots=True)
class _Branch:
    """A sequence of the context, and which cells it holds after the prompt, one a position."""

    sequence: int
    cells: tuple[int, ...] = ()


class Branches:
    """What a beam search walks along; needs ``model.lock`` held.

    Each branch is a sequence of one context. A branch that goes on in several ways shares its
    cells with the new ones. One that does not go on leaves its cells to one last sequence, the
    *grave*: were they free, later positions would take them, and a branch would no longer lie in
    the order of its positions. Attention sums in the order of cells, so its log-probability would
    then depend on the other branches; this way
    it is what the same model gives to the same text read alone, up to the rounding of batches.

    Attributes:
        logits: float32 [branches, n_vocab], the logits after each branch.

    Args:
        context: with the prompt in sequence 0; of ``count_sequences(width)`` sequences, and with
            a cell for every position of every branch that there will ever be.
        at: the position after the prompt.
        width: how many branches there may be at once, 1 to ``MAX_WIDTH``.
        logits: float32 [n_vocab], after the prompt: the first branch.
    """

    def __init__(self, context: Context, at: int, width: int, logits: NDArray[np.float32]) -> None:
        """Begin with the prompt as the only branch."""
        self._context = context
        self._start = self._at = at
        self._width = self._grave = width
        self._branches = [_Branch(0)]
        self._n_cells = 0
        self.logits = logits[None]

    def extend(self, kept: Sequence[tuple[int, int]]) -> None:
        """Go on with 1..width branches, each given as (index of the branch extended, token)."""
        parents = [self._branches[branch] for branch, _ in kept]
        self._bury([branch for branch in self._branches if branch not in parents], parents)
        free = set(range(self._width)) - {parent.sequence for parent in parents}
        self._branches, used = [], set[int]()
        for parent in parents:
            sequence = parent.sequence
            if sequence in used:
                sequence = free.pop()
                self._context.share(parent.sequence, sequence)
            used.add(sequence)
            self._branches.append(_Branch(sequence, (*parent.cells, self._n_cells)))
            self._n_cells += 1
        tokens = [token for _, token in kept]
        sequences = [branch.sequence for branch in self._branches]
        self._context.decode_each(tokens, sequences, self._at)
        self._at += 1
        back = reversed(range(len(tokens)))
        self.logits = np.stack([self._context.logits(row) for row in back])

    def _bury(self, dead: list[_Branch], alive: list[_Branch]) -> None:
        while dead:
            branch = dead.pop()
            # What others hold too stays theirs; the rest is its own, to the end.
            shared = max(count_common(branch.cells, other.cells) for other in (*dead, *alive))
            self._context.share(branch.sequence, self._grave, self._start + shared)
            self._context.drop(branch.sequence)


def count_sequences(width: int) -> int:
    """Return how many sequences ``width`` branches take, the grave included."""
    return width + 1 if width > 1 else 1
