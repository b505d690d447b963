"""What of a persona bears on an answer: each part can be turned off, and has a measured default.

The defaults are those that gave the best answers to everyday prompts by people whom nobody trained
on (docs/evaluation.md). The plug's control vector is off: with it answers made more sense and were
less like the person. So is the n-gram cache: behind turns it made answers less of an answer.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Final

from ppedge.errors import ModelError

DEFAULT_TURNS: Final = 8
MAX_TURNS: Final = 32
MAX_STYLE: Final = 2.0
MAX_TOPIC: Final = 5.0
MAX_CONTROL: Final = 2.0

PARTS: Final = ("turns", "soft", "control", "ngrams", "style", "rules", "topic", "address")
"""Names of what `Blend.with_parts` and `Blend.without` turn on and off."""

_FULL: Final[dict[str, Any]] = {
    "turns": DEFAULT_TURNS,
    "control": 1.0,
    "style": 0.4,
    "topic": 1.5,
}


@dataclass(frozen=True, slots=True)
class Blend:
    """The parts of a persona, and how much each counts.

    Attributes:
        turns: how many notes stand before the prompt as earlier turns; 0 is none.
        soft: whether the plug's soft tokens are given; without a plug there are none.
        control: share of the plug's control vector that steers, 0 to `MAX_CONTROL`; it needs soft
            tokens to start from. 1 is as it was trained.
        ngrams: whether the n-gram cache of the notes is blended in (``ppedge.llm.ngram_cache``).
        style: weight of the person's shapes (``ppedge.style.model``), 0 to `MAX_STYLE`.
        rules: whether an answer ends where its author would, and may neither copy nor loop.
        topic: nats that the prompt's own words gain until they are said, 0 to `MAX_TOPIC`.
        address: whether an answer that is for somebody begins with a word to them
            (``ppedge.style.address``).

    Raises:
        ModelError: a value is out of range.
    """

    turns: int = DEFAULT_TURNS
    soft: bool = True
    control: float = 0.0
    ngrams: bool = False
    style: float = 0.4
    rules: bool = True
    topic: float = 1.5
    address: bool = True

    def __post_init__(self) -> None:
        """Check the numbers."""
        if not 0 <= self.turns <= MAX_TURNS:
            raise ModelError(f"turns must be 0 to {MAX_TURNS}, not {self.turns}")
        if not 0 <= self.control <= MAX_CONTROL:
            raise ModelError(f"control must be 0 to {MAX_CONTROL:g}, not {self.control:g}")
        if not 0 <= self.style <= MAX_STYLE:
            raise ModelError(f"style must be 0 to {MAX_STYLE:g}, not {self.style:g}")
        if not 0 <= self.topic <= MAX_TOPIC:
            raise ModelError(f"topic must be 0 to {MAX_TOPIC:g}, not {self.topic:g}")

    def with_parts(self, *parts: str) -> Blend:
        """This blend with some of `PARTS` turned on, as they are by default where they are on.

        Raises:
            ModelError: there is no such part.
        """
        _ensure_known(parts)
        return replace(self, **{part: _FULL.get(part, True) for part in parts})

    def without(self, *parts: str) -> Blend:
        """This blend with some of `PARTS` turned off.

        Raises:
            ModelError: there is no such part.
        """
        _ensure_known(parts)
        changes = {part: type(getattr(self, part))(0) for part in parts}
        return replace(self, **changes)


def _ensure_known(parts: Iterable[str]) -> None:
    unknown = [part for part in parts if part not in PARTS]
    if unknown:
        raise ModelError(f"no part '{unknown[0]}' of a persona; known: {', '.join(PARTS)}")
