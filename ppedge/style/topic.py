"""Keeping a small model to what was asked: the prompt's own words gain until they are said."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from ppedge.style.shapes import Vocabulary
from ppedge.style.words import words_of
from ppedge.turns.ask import telling_words

# What a prompt wants done, not what it is about.
_ORDERS: Final = frozenset(
    re.findall(
        r"\w+",
        """
        advice answer briefly describe draft email explain kindly lines list mail message nicely
        note paragraph politely post reply respond sentence sentences short summarise summarize
        text words write
        """,
    )
)


class Tokenizer(Vocabulary, Protocol):
    """A vocabulary that can also cut a text into tokens."""

    def tokenize(self, text: str) -> list[int]:
        """Token ids of a text, control tokens not recognised."""


class Topic:
    """A logits processor that makes the telling words of a prompt likelier, each until it is said.

    Args:
        tokenizer: of the model.
        prompt: what is asked.
        gain: nats that are added to the first token of each such word.
    """

    def __init__(self, tokenizer: Tokenizer, prompt: str, gain: float) -> None:
        """Find the words, and the tokens that begin them."""
        self._tokenizer, self._gain = tokenizer, np.float32(gain)
        self._tokens: dict[str, list[int]] = {}
        words = telling_words(prompt.encode("utf-8", "replace").decode())
        for word in dict.fromkeys(word for word in words if word not in _ORDERS):
            forms = (word, word.capitalize(), word.upper())
            begun = (tokenizer.tokenize(f" {form}")[:1] for form in forms)
            self._tokens[word] = sorted({token for tokens in begun for token in tokens})

    def process(self, logits: NDArray[np.float32], written: Sequence[int]) -> NDArray[np.float32]:
        """Add the gain.

        Args:
            logits: float32 [n_vocab]; changed and returned.
            written: the answer's tokens so far.
        """
        if not self._tokens:
            return logits
        pieces = map(self._tokenizer.piece, written)
        said = set(words_of(b"".join(pieces).decode("utf-8", "replace")))
        for word, tokens in self._tokens.items():
            if word not in said:
                logits[tokens] += self._gain
        return logits
