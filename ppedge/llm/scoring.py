"""How likely a model finds a given text."""

from __future__ import annotations

from dataclasses import dataclass
from types import EllipsisType

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Score:
    """How likely a model finds a continuation.

    Attributes:
        option: the continuation.
        logprob: natural log of its probability, the sum over its tokens.
        tokens: how many tokens it has, the token that ends a text included where it was scored.
    """

    option: str
    logprob: float
    tokens: int

    @property
    def mean(self) -> float:
        """Log-probability per token, to compare options of different length."""
        return self.logprob / self.tokens


def log_softmax(
    logits: NDArray[np.float32], tokens: int | NDArray[np.int64] | EllipsisType = ...
) -> NDArray[np.float64]:
    """Return log softmax(logits)[tokens], computed in float64; by default of every token."""
    exact = logits.astype(np.float64)
    top = exact.max()
    found: NDArray[np.float64] = exact[tokens] - top - np.log(np.exp(exact - top).sum())
    return found
