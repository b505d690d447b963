"""What a context is to hold, position by position."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

# What a position holds: a token id, or the float32 bytes of a soft token.
Row = int | bytes


@dataclass(frozen=True, slots=True)
class Control:
    """A control vector at work.

    Attributes:
        start: the position from which it steers.
        layers: float32 [n_layer - 1, n_embd].
    """

    start: int
    layers: bytes


@dataclass(frozen=True, slots=True)
class Prompt:
    """What an encoder is to read (nothing without one), and what the decoder is to hold.

    Attributes:
        encoder, decoder: one row a position.
        control: what steers the last of the decoder's positions.
        n_read: positions of the decoder that are read together; those behind were written one by
            one. None: all are read together.
        n_prefix: how many of them are a prefix that is read by itself, 0 for none. None: as the
            context knows it, which is the one whose state was kept or restored last.
    """

    encoder: list[Row]
    decoder: list[Row]
    control: Control | None = None
    n_read: int | None = None
    n_prefix: int | None = None

    def __len__(self) -> int:
        """Positions of the prompt."""
        return len(self.encoder or self.decoder)

    @property
    def read_together(self) -> int:
        """``n_read``, or all positions of the decoder."""
        return len(self.decoder) if self.n_read is None else self.n_read


def count_common(a: Sequence[Row], b: Sequence[Row]) -> int:
    """How long the longest common beginning is."""
    # While a text is written this is the case, and worth the speed of one comparison in C.
    if b[: len(a)] == a:
        return len(a)
    pairs = zip(a, b, strict=False)
    return next((i for i, (x, y) in enumerate(pairs) if x != y), min(len(a), len(b)))
