"""What is added to a note's attention score beside its match: marks, age, and the null note's say.

Row 0 is the null note; row i of n + 1 is the i-th note of the store's order.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

PIN, MUTE = 1, -1
PIN_WEIGHT = 8.0
"""A pinned note weighs as much as this many notes like it."""

_OF_MARK = {PIN: math.log(PIN_WEIGHT), MUTE: -math.inf}


def of_marks(marks: Iterable[tuple[int, int]], n_notes: int) -> NDArray[np.float32] | None:
    """The bias of pinned and muted notes.

    Args:
        marks: (row, `PIN` or `MUTE`).
        n_notes: n.

    Returns:
        float32 [n + 1], -inf for muted notes; None if there are no marks.
    """
    bias = None
    for row, mark in marks:
        if bias is None:
            bias = np.zeros(n_notes + 1, np.float32)
        bias[row] = _OF_MARK[mark]
    return bias


def with_plug(
    marks: NDArray[np.float32] | None, n_notes: int, *, recency: float, null_competes: bool
) -> NDArray[np.float32] | None:
    """The bias of marks and of what the plug learned about age and the null note.

    Args:
        marks: from `of_marks`; not changed.
        n_notes: n.
        recency: row i gets ``-recency * log1p(n - i)``: n - i notes come after it, muted or not.
        null_competes: False masks the null note, unless no note can be heard.

    Returns:
        float32 [n + 1], or None if every row's bias is 0.
    """
    if n_notes == 0 or (recency == 0 and null_competes):
        return marks
    bias = np.zeros(n_notes + 1, np.float32) if marks is None else marks.copy()
    if recency:
        bias[1:] -= recency * np.log1p(np.arange(n_notes - 1, -1, -1, dtype=np.float32))
    if not null_competes and not np.isneginf(bias[1:]).all():
        bias[0] = -math.inf
    return bias
