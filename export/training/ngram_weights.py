"""Fits the gates of an n-gram cache: how much to trust what followed the last n tokens.

    gates = fit(places, n_orders=4)
    nats(places, gates).mean()

The formula is in ``ppedge/llm/ngram_cache.py``. The gates minimise the nats per gold token, each
task weighing the same, plus a Gaussian prior on each term around ``START``, so that an order which
the data hardly asks for stays closed. What each term is worth: docs/ablations.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ppedge.llm.ngram_cache import MAX_SCORE, MIN_ENTROPY, Gate

START = Gate(bias=-2.0, total=0.0, kinds=0.0, entropy=0.0)
PRIOR = 3.0  # standard deviation of a gate's terms around START
_STEPS = 300


@dataclass(frozen=True, eq=False)
class Places:
    """Places where a gold token was to be written, and what model and memory said there.

    Attributes:
        task: int64 [n].
        user: text [n].
        logprob: float64 [n], of the gold token by the model alone.
        entropy: float64 [n], H, of the model's distribution.
        total: float64 [n, orders], C_n, 0 where the order has no say.
        kinds: float64 [n, orders], U_n.
        count: float64 [n, orders], c_n of the gold token.
    """

    task: NDArray[np.int64]
    user: NDArray[np.str_]
    logprob: NDArray[np.float64]
    entropy: NDArray[np.float64]
    total: NDArray[np.float64]
    kinds: NDArray[np.float64]
    count: NDArray[np.float64]

    def where(self, chosen: NDArray[np.bool_]) -> Places:
        """The places for which ``chosen``, bool [n], is true."""
        return Places(*(getattr(self, field.name)[chosen] for field in fields(self)))


def nats(places: Places, gates: Sequence[Gate]) -> NDArray[np.float64]:
    """Negative log-probability of every gold token with the memory, float64 [n]."""
    return _nats(places, _terms(gates)).numpy()


def _terms(gates: Sequence[Gate]) -> Tensor:
    return torch.tensor([astuple(gate) for gate in gates], dtype=torch.float64)


def _nats(places: Places, terms: Tensor) -> Tensor:
    p = torch.from_numpy(places.logprob).exp()
    doubt = (torch.from_numpy(places.entropy) + MIN_ENTROPY).log()
    for order, (bias, of_total, of_kinds, of_entropy) in enumerate(terms):
        total, kinds, count = (
            torch.from_numpy(column[:, order])
            for column in (places.total, places.kinds, places.count)
        )
        has_say = total > 0
        total, kinds = total.where(has_say, 1.0), kinds.where(has_say, 1.0)
        score = bias + of_total * total.log() + of_kinds * kinds.log() + of_entropy * doubt
        trust = score.clamp(-MAX_SCORE, MAX_SCORE).sigmoid() * has_say
        p = (1 - trust) * p + trust * count / total
    return -p.clamp_min(1e-300).log()


def fit(places: Places, n_orders: int) -> tuple[Gate, ...]:
    """The gates of orders 0 .. ``n_orders`` - 1 that make the gold tokens likeliest.

    Deterministic: L-BFGS in float64 from ``START``; terms are rounded to 4 decimals.

    Args:
        places: at least one; they may have further orders, which are not looked at.
        n_orders: at least 1.
    """
    start = _terms([START] * n_orders)
    terms = start.clone().requires_grad_()
    tasks, of_task = np.unique(places.task, return_inverse=True)
    share = 1 / np.bincount(of_task)[of_task] / len(tasks)
    weight = torch.from_numpy(share)
    # A prior weighs as much beside n places as its log-density does beside their sum.
    prior = 1 / (2 * PRIOR**2 * len(places.task))
    optimizer = torch.optim.LBFGS([terms], max_iter=_STEPS, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = (_nats(places, terms) * weight).sum() + prior * ((terms - start) ** 2).sum()
        value.backward()
        return value

    optimizer.step(loss)
    return tuple(Gate(*(round(term, 4) for term in row)) for row in terms.detach().tolist())


def offset(gates: Sequence[Gate], by: float) -> tuple[Gate, ...]:
    """The gates with ``by`` taken off every bias.

    Gates are fitted where all that was written before is the person's own. An answer goes on from
    the model's own tokens, and from a wrong one the memory leads further astray: what is best for
    the likelihood of the gold text trusts too much for writing.
    """
    return tuple(replace(gate, bias=round(gate.bias - by, 4)) for gate in gates)


def held_out_nats(
    own: Places, others: Sequence[Places], n_orders: int, seed: int, gate_offset: float = 0.0
) -> list[NDArray[np.float64]]:
    """Nats with gates that were fitted on other people: of two halves, each by the other's.

    Args:
        own: what is fitted to, of at least two users.
        others: whose nats are wanted; of the same users.
        n_orders: as in `fit`.
        seed: of the halves.
        gate_offset: see `offset`.

    Returns:
        For each of ``others``, float64 [n].
    """
    users = np.unique(own.user)
    half = np.random.default_rng([seed, 3]).permutation(users)[: len(users) // 2]
    found = [np.empty(len(places.task)) for places in others]
    for first in (True, False):
        gates = offset(fit(own.where(np.isin(own.user, half) != first), n_orders), gate_offset)
        for places, result in zip(others, found, strict=True):
            chosen = np.isin(places.user, half) == first
            result[chosen] = nats(places.where(chosen), gates)
    return found
