"""What a token looks like, whatever it says: its case, its spacing, or which mark it is."""

from __future__ import annotations

from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from ppedge.style.token_table import TokenTable

END: Final = "end"
"""Shape of every token that ends a text."""

START: Final = "start"
"""Stands before the first token."""


LIKELY: Final = 256
"""Tokens that the model holds for likeliest, and that rules and manner look at."""

_GROUPS: Final = 1024  # of tokens; more than `LIKELY`


def likeliest(logits: NDArray[np.float32]) -> NDArray[np.int64]:
    """The `LIKELY` tokens of the highest logits, in order; fewer where others are -inf."""
    bound = _bound(logits)
    near = np.flatnonzero(logits >= bound if bound > -np.inf else logits > -np.inf)
    if len(near) <= LIKELY:
        return near
    values = logits[near]
    least = np.partition(values, -LIKELY)[-LIKELY]
    found = near[values >= least]
    surplus = len(found) - LIKELY
    return np.delete(found, np.flatnonzero(logits[found] == least)[-surplus:]) if surplus else found


def _bound(logits: NDArray[np.float32]) -> float:
    """A logit that `LIKELY` tokens have at least; -inf where that is not known.

    So many of some groups have a highest logit that high, and each has a token of its own. Few
    others are above it, and parting them all is ten times the work.
    """
    in_groups = len(logits) - len(logits) % _GROUPS
    highest = logits[:in_groups].reshape(-1, _GROUPS).max(0, initial=-np.inf)
    return float(np.partition(highest, -LIKELY)[-LIKELY])


class Vocabulary(Protocol):
    """The tokens of a model, as far as their shapes need them."""

    def piece(self, token: int) -> bytes:
        """The bytes that a token stands for; none of a control token."""

    def is_end(self, token: int) -> bool:
        """Whether a token ends a text."""


class Shapes:
    """The shape of each token of a vocabulary, found when it is first asked for.

    Letters are told apart by their case and by the space before them, digits by the space, line
    breaks by their number. A mark or an emoji is a shape of its own: which ones a person uses,
    and where, is their manner.

    Attributes:
        names: of the shapes that have a number so far.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        """Know no token yet."""
        self._vocabulary = vocabulary
        self._known: dict[int, str] = {}
        self.names: list[str] = []
        self._numbers: dict[str, int] = {}
        self._table = TokenTable(self._number, 1)

    def __call__(self, token: int) -> str:
        """The shape of a token."""
        shape = self._known.get(token)
        if shape is None:
            end = self._vocabulary.is_end(token)
            shape = END if end else text_shape(self._vocabulary.piece(token))
            self._known[token] = shape
        return shape

    def numbers(self, tokens: NDArray[np.int64]) -> NDArray[np.int32]:
        """The shapes of some tokens, int64 [n], as places in ``names``, int32 [n]."""
        return self._table(tokens)[:, 0]

    def _number(self, token: int) -> tuple[int]:
        name = self(token)
        if name not in self._numbers:
            self.names.append(name)
            self._numbers[name] = len(self.names) - 1
        return (self._numbers[name],)


def text_shape(piece: bytes) -> str:
    """The shape of a token's bytes."""
    try:
        text = piece.decode()
    except UnicodeDecodeError:  # a part of a character, most often of an emoji
        return piece.hex()
    if not text.strip():
        return f"break {min(text.count(chr(10)), 2)}" if "\n" in text else repr(text)
    if "\n" in text:
        return f"break {min(text.count(chr(10)), 2)}"
    space, core = " " if text[0] == " " else "", text.strip()
    letters = "".join(char for char in core if char.isalpha())
    if not letters:
        return f"{space}9" if any(char.isdigit() for char in core) else text
    if len(letters) < len(core):
        return "'s" if core[0] in "'’" else f"{space}mixed"
    return space + _case(core)


def _case(word: str) -> str:
    if word.islower():
        return "a"
    if word.isupper():
        return "A" if len(word) > 1 else "I"
    return "Aa" if word[0].isupper() and word[1:].islower() else "aA"
