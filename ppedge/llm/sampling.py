"""How answers are drawn and cut: sampling settings, and token bytes to clean text."""

from __future__ import annotations

import codecs
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from ppedge.errors import ModelError

# llama.cpp reads 2**32 - 1 as "choose one for me", which could not be reproduced.
MAX_SEED: Final = 2**32 - 2

DEFAULT_TEMPERATURE: Final = 0.2
"""What a small model makes most sense at (docs/ablations.md)."""

MAX_CANDIDATES: Final = 16
"""Answers to one prompt that can be decoded side by side."""

MAX_STRENGTH: Final = 5.0
"""Of guidance (``ppedge.llm.guidance``)."""

DRY_MULTIPLIER: Final = 0.8
"""As its author has it (oobabooga/text-generation-webui#5677)."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the next token is chosen, and when to end.

    Attributes:
        max_tokens: at most this many new tokens.
        temperature: 0 takes the likeliest token every time, of what the penalties leave.
        top_k: only the k likeliest tokens; 0 keeps all.
        top_p: only the likeliest tokens that together reach this probability; 1 keeps all.
        min_p: only tokens at least this likely relative to the likeliest; 0 keeps all.
        repeat_penalty: above 1, tokens written in the last 64 are made less likely; 1 is none.
        dry_multiplier: against loops: a token that would go on repeating 2 or more tokens of the
            answer loses so much from its logit, 1.75 times as much for each token more ("DRY" in
            llama.cpp). The prompt may be repeated. 0 is none.
        seed: 0..2**32 - 2; the same seed on the same machine writes the same text; None draws one.
        stop: the answer ends before the first of these strings.

    Raises:
        ModelError: a value is outside its range.
    """

    max_tokens: int = 256
    temperature: float = DEFAULT_TEMPERATURE
    top_k: int = 40
    top_p: float = 0.95
    min_p: float = 0.05
    repeat_penalty: float = 1.0
    dry_multiplier: float = DRY_MULTIPLIER
    seed: int | None = None
    stop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Check every value."""
        _check("max_tokens", self.max_tokens, self.max_tokens >= 1, "at least 1")
        _check("temperature", self.temperature, self.temperature >= 0, "0 or more")
        _check("top_k", self.top_k, 0 <= self.top_k < 2**31, "0 or more")
        _check("top_p", self.top_p, 0 < self.top_p <= 1, "above 0 and at most 1")
        _check("min_p", self.min_p, 0 <= self.min_p < 1, "at least 0 and below 1")
        _check("repeat_penalty", self.repeat_penalty, self.repeat_penalty > 0, "above 0")
        _check("dry_multiplier", self.dry_multiplier, self.dry_multiplier >= 0, "0 or more")
        if self.seed is not None:
            _check("seed", self.seed, 0 <= self.seed <= MAX_SEED, f"0 to {MAX_SEED}")
        if isinstance(self.stop, str) or not all(self.stop):
            raise ModelError("sampling: stop must be a tuple of strings that are not empty")


def _check(name: str, value: float, fits: bool, wanted: str) -> None:
    if not (fits and math.isfinite(value)):
        raise ModelError(f"sampling: {name} must be {wanted}, not {value}")


class TextStream:
    """Turns the bytes of tokens into pieces of text that are safe to show at once.

    A piece never ends inside a UTF-8 character, and never holds a beginning of a stop string that
    the next token could complete.

    Args:
        stop: the strings that end the text; none is ever part of it.
    """

    def __init__(self, stop: Sequence[str] = ()) -> None:
        """Begin with no text."""
        self._stop = tuple(stop)
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._held = ""
        self.stopped = False

    def feed(self, data: bytes) -> str:
        """Take a token's bytes; return the text that is now certain, maybe ""."""
        text = self._held + self._decoder.decode(data)
        ends = [at for at in map(text.find, self._stop) if at >= 0]
        if ends:
            self.stopped = True
            self._held = ""
            return text[: min(ends)]
        cut = len(text) - self._pending(text)
        self._held = text[cut:]
        return text[:cut]

    def finish(self) -> str:
        """Return what was held back for a stop string; an incomplete character is dropped."""
        held, self._held = self._held, ""
        if self.stopped:
            return ""
        # Half a surrogate waits like a beginning of a character, and is none: two replacements.
        waiting = self._decoder.decode(b"", final=True)
        return held + (waiting if len(waiting) > 1 else "")

    def _pending(self, text: str) -> int:
        """Return the length of the longest end of ``text`` that begins a stop string."""
        return max(
            (
                size
                for stop in self._stop
                for size in range(1, min(len(stop), len(text) + 1))
                if text.endswith(stop[:size])
            ),
            default=0,
        )
