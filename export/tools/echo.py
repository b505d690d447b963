"""How much of an answer says back what was asked."""

from __future__ import annotations

from collections.abc import Sequence

RUN = 3  # words in a row


def echo(prompt: Sequence[str], answer: Sequence[str]) -> float:
    """Share of an answer's words that stand in runs of `RUN` which the prompt has too, 0 to 1.

    Args:
        prompt, answer: their words, in order.
    """
    asked = {tuple(prompt[i : i + RUN]) for i in range(len(prompt) - RUN + 1)}
    places = {
        place
        for i in range(len(answer) - RUN + 1)
        if tuple(answer[i : i + RUN]) in asked
        for place in range(i, i + RUN)
    }
    return len(places) / max(1, len(answer))
