"""Logits processors: functions of logits and the tokens so far, between a model and its sampler."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from ppedge.errors import ModelError

LogitsProcessor = Callable[[NDArray[np.float32], Sequence[int]], NDArray[np.float32]]
"""(logits float32 [n_vocab], the answer's tokens so far) -> the logits to go on with, likewise.

The logits are a copy, which it may change and return. It must depend on its arguments alone: a
text that is scored asks it in the same way as one that is written. -inf makes a token impossible.
"""


def chain(processors: Sequence[LogitsProcessor]) -> LogitsProcessor | None:
    """Return one that calls each of ``processors`` in turn; None for none."""
    if not processors:
        return None

    def processor(logits: NDArray[np.float32], written: Sequence[int]) -> NDArray[np.float32]:
        for each in processors:
            logits = each(logits, written)
        return logits

    return processor


def apply(
    processor: LogitsProcessor, logits: NDArray[np.float32], written: Sequence[int]
) -> NDArray[np.float32]:
    """Return what ``processor`` makes of ``logits``.

    Raises:
        ModelError: that is not float32 [n_vocab], or nothing that can be drawn from.
    """
    found = processor(logits, written)
    is_float32 = isinstance(found, np.ndarray) and found.dtype == np.float32
    if not is_float32 or found.shape != logits.shape:
        told = f"{getattr(found, 'dtype', type(found).__name__)} {list(np.shape(found))}"
        raise ModelError(f"processor must return float32 {list(logits.shape)}, not {told}")
    # The largest is NaN if any is.
    if not math.isfinite(top := float(found.max())):
        raise ModelError(
            f"processor returned logits whose largest is {top}; it must be a finite number"
        )
    return found
