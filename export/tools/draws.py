"""Draws from a seeded generator."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

Thing = TypeVar("Thing")


def one_of(rng: np.random.Generator, things: Sequence[Thing]) -> Thing:
    """One of some things, each as likely."""
    return things[int(rng.integers(len(things)))]
