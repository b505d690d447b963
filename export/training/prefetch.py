"""Batches drawn ahead of the step that wants them, by processes of their own.

    batches = Prefetch(sampler.step, workers=8)
    batch = batches(0)

A GPU waits for nothing as long as for its batches to be drawn. The batch of a step hangs on the
seed and the step alone, so whoever draws it draws the same.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from typing import Any

AHEAD = 2  # steps that each process is ahead by

_draws: list[Callable[[int], Any]] = []  # of a worker's process, one


def _step(step: int) -> Any:
    return _draws[-1](step)


class Prefetch:
    """Calls ``draw`` for steps, one after the other; in this process where there are no workers.

    Args:
        draw: makes the batch of a step.
        workers: processes; 0 for none. They are forked, so that nothing is read twice, and do no
            torch.
    """

    def __init__(self, draw: Callable[[int], Any], *, workers: int) -> None:
        self.draw, self.ahead = draw, AHEAD * workers
        self._next = 0  # the step that is drawn next
        self._waiting: dict[int, Future[Any]] = {}
        self._pool = (
            ProcessPoolExecutor(
                workers,
                multiprocessing.get_context("fork"),
                initializer=_draws.append,
                initargs=(draw,),
            )
            if workers
            else None
        )

    def __call__(self, step: int) -> Any:
        """The batch of ``step``."""
        if self._pool is None:
            return self.draw(step)
        for coming in range(max(self._next, step), step + self.ahead + 1):
            self._waiting[coming] = self._pool.submit(_step, coming)
            self._next = coming + 1
        waiting = self._waiting.pop(step, None)
        return self.draw(step) if waiting is None else waiting.result()

    def close(self) -> None:
        """End the processes."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
