"""How many processors there are, and how many of them to compute on."""

from __future__ import annotations

import os


def usable_cores() -> int:
    """Processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def default_threads() -> int:
    """Threads that compute where nobody says how many; models and encoders take as many alike.

    Decoding waits for memory: beyond a few cores, second hardware threads only get in the way.
    """
    usable = usable_cores()
    return usable if usable <= 4 else max(4, usable // 2)
