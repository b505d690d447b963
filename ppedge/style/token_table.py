"""What is known of each token of a vocabulary, as arrays: found once, looked up by the hundred."""

from __future__ import annotations

import threading
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

FindRow = Callable[[int], tuple[int, ...]]
"""Takes a token, returns whole numbers that say what it is; always as many."""


class TokenTable:
    """Some whole numbers for each token, found when the token is first asked for.

    It may be shared between threads.

    Args:
        find: says what a token is.
        width: how many numbers that is.
    """

    def __init__(self, find: FindRow, width: int) -> None:
        """Know no token yet."""
        self._find = find
        self._mutex = threading.Lock()
        self._rows = np.zeros((0, width), np.int32)
        self._known = np.zeros(0, np.bool_)

    def __call__(self, tokens: NDArray[np.int64]) -> NDArray[np.int32]:
        """What each of some tokens is.

        Args:
            tokens: int64 [n], 0 or above.

        Returns:
            int32 [n, width].
        """
        top = int(tokens.max(initial=-1))
        if top < len(self._known) and self._known[tokens].all():
            return self._rows[tokens]
        with self._mutex:
            self._grow(top + 1)
            for token in set(tokens[~self._known[tokens]].tolist()):
                self._rows[token] = self._find(token)
                self._known[token] = True
            return self._rows[tokens]

    def _grow(self, size: int) -> None:
        more = size - len(self._known)
        if more > 0:
            # Doubled, so that growing token by token costs little. Rows first: who reads without
            # the lock looks at what is known before.
            more = max(more, len(self._known))
            self._rows = np.pad(self._rows, ((0, more), (0, 0)))
            self._known = np.pad(self._known, (0, more))
