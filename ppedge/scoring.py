"""How likely a model finds a given text."""

from __future__ import annotations

from dataclasses import dataclass


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
