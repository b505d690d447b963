"""Several continuations of one prompt, decoded together."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ppedge._session import Session


class Branches:
    """What a beam search walks along; needs ``model.lock`` held.

    Each branch is a sequence of one session. A branch that goes on in several ways hands its
    cells to as many sequences; one that does not go on makes room for them.

    Attributes:
        logits: float32 [branches, n_vocab], the logits after each branch.

    Args:
        session: with the prompt in sequence 0, and as many sequences as there may be branches.
        at: the position after the prompt.
        width: how many sequences.
        logits: float32 [n_vocab], after the prompt: the first branch.
    """

    def __init__(self, session: Session, at: int, width: int, logits: NDArray[np.float32]) -> None:
        self._session = session
        self._at = at
        self._all = range(width)
        self._sequences = [0]
        self.logits = logits[None]

    def extend(self, kept: Sequence[tuple[int, int]]) -> None:
        """Go on with 1..width branches, each given as (index of the branch extended, token)."""
        parents = [self._sequences[branch] for branch, _ in kept]
        free = [sequence for sequence in self._all if sequence not in parents]
        for sequence in free:
            self._session.drop(sequence)
        self._sequences = []
        for parent in parents:
            if parent in self._sequences:
                self._session.share(parent, free[-1])
                self._sequences.append(free.pop())
            else:
                self._sequences.append(parent)
        tokens = [token for _, token in kept]
        self._session.decode_each(tokens, self._sequences, self._at)
        self._at += 1
        back = reversed(range(len(tokens)))
        self.logits = np.stack([self._session.logits(row) for row in back])
