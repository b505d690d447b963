"""Intervals: how far a figure would move had other people been asked.

    estimate(table, users, metric.value, seed=0)          # Estimate(value, low, high)
    difference(ours, theirs, users, metric.value, seed=0)

Percentile bootstrap (Efron and Tibshirani, 1993) over *users*: whole people are drawn with
replacement, for one person's answers are alike, and a hundred answers of one are not a hundred
people. A difference is paired: both sides are computed on the same drawn people.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

DRAWS = 2000
LEVEL = 0.95
_CHUNK = 1 << 20  # counts in memory at a time, draws times users

Table = NDArray[np.float64]
Value = Callable[[Table], Table]


@dataclass(frozen=True)
class Estimate:
    """A figure and its 95 % interval, all in the figure's own unit.

    With fewer than some ten users the interval is too narrow; with one it is a point.
    """

    value: float
    low: float
    high: float


def estimate(statistics: Table, users: Sequence[str], value: Value, seed: int) -> Estimate:
    """A metric on all questions, with its interval over users.

    Args:
        statistics: [n, m], what each question adds to the metric's sums.
        users: who was asked, [n].
        value: sums [..., m] to the metric [...], as ``export.evaluation.metrics.Metric.value``.
        seed: of the draws; the same seed and users draw the same people for every table.

    Raises:
        ValueError: there is no question, or ``users`` has another length.
    """
    by_user = _by_user(statistics, users)
    return _estimate(value(by_user.sum(0)), value(_draw(by_user, seed)))


def difference(a: Table, b: Table, users: Sequence[str], value: Value, seed: int) -> Estimate:
    """A metric of ``a`` less that of ``b``, on the same questions, with its paired interval.

    Args:
        a: [n, m], what each question adds to the sums of one side.
        b: [n, m], of the other side; row i is the same question.
        users: who was asked, [n].
        value: as in `estimate`.
        seed: likewise.

    Raises:
        ValueError: there is no question, or the lengths differ.
    """
    if a.shape != b.shape:
        raise ValueError(f"the sides have shapes {a.shape} and {b.shape}; pair their questions")
    both = _by_user(np.stack([a, b], axis=1), users)
    drawn = value(_draw(both, seed))
    whole = value(both.sum(0))
    return _estimate(whole[0] - whole[1], drawn[:, 0] - drawn[:, 1])


def _by_user(statistics: Table, users: Sequence[str]) -> Table:
    """Sums of each user's rows, [users, ...], users in sorted order."""
    if len(statistics) != len(users) or not users:
        raise ValueError(f"{len(statistics)} rows and {len(users)} users; one a question is wanted")
    names, owner = np.unique(np.array(users), return_inverse=True)
    sums = np.zeros((len(names), *statistics.shape[1:]))
    np.add.at(sums, owner, statistics)
    return sums


def _draw(by_user: Table, seed: int) -> Table:
    """Sums over ``DRAWS`` samples of as many users as there are, [DRAWS, ...]."""
    count = len(by_user)
    rng = np.random.default_rng(seed)
    rows = by_user.reshape(count, -1)
    step = max(1, _CHUNK // count)
    parts = []
    for start in range(0, DRAWS, step):
        # How often each user is drawn says all; the order of the draws does not matter.
        times = rng.multinomial(count, np.full(count, 1 / count), min(step, DRAWS - start))
        parts.append(times @ rows)
    return np.concatenate(parts).reshape(DRAWS, *by_user.shape[1:])


def _estimate(value: Table, drawn: Table) -> Estimate:
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Estimate(float(value), float(low), float(high))
