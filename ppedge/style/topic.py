"""Keeping a small model to what was asked: the prompt's own words gain until they are said."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ppedge.style.rules import words_of
from ppedge.style.shapes import Vocabulary
from ppedge.turns.ask import telling_words

_REACH: Final = 12.0  # nats below the likeliest: what is farther off has no place here
_LEAST_LETTERS: Final = 3  # that a token must give away of a word


class Topic:
    """A logits processor that makes the telling words of a prompt likelier, each until it is said.

    Args:
        vocabulary: of the model.
        prompt: what is asked.
        gain: nats that are added to tokens which begin such a word.
    """

    def __init__(self, vocabulary: Vocabulary, prompt: str, gain: float) -> None:
        """Find the words."""
        self._vocabulary, self._gain = vocabulary, gain
        self._words = frozenset(telling_words(prompt))
        self._begun: dict[int, str] = {}

    def process(self, logits: NDArray[np.float32], written: Sequence[int]) -> NDArray[np.float32]:
        """Add the gain.

        Args:
            logits: float32 [n_vocab]; changed and returned.
            written: the answer's tokens so far.
        """
        text = b"".join(map(self._vocabulary.piece, written)).decode("utf-8", "replace")
        words = words_of(text)
        wanted = tuple(self._words.difference(words))
        # What is being written, letter by letter, may be one of them.
        if not wanted or (text[-1:].isalnum() and any(w.startswith(words[-1]) for w in wanted)):
            return logits
        for token in np.flatnonzero(logits > logits.max() - _REACH).tolist():
            begun = self._begins(token)
            if begun and any(word.startswith(begun) for word in wanted):
                logits[token] += self._gain
        return logits

    def _begins(self, token: int) -> str:
        """The beginning of a word that a token is, in lower case; "" if it is none."""
        found = self._begun.get(token)
        if found is None:
            piece = self._vocabulary.piece(token).decode("utf-8", "replace")
            words = words_of(piece) if piece[:1].isspace() else []
            found = words[0] if len(words) == 1 and len(words[0]) >= _LEAST_LETTERS else ""
            self._begun[token] = found
        return found
