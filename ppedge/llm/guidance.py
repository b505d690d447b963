"""Guidance: how strongly a persona bears on each token, from not at all to more than it says.

    l(t) = b(t) + strength (p(t) - b(t))

p are the log-probabilities with the persona, its n-gram cache mixed in, and b those of the same
prompt without one. 0 is the bare model, 1 the persona as it is, and above 1 what the persona adds
is pushed further (classifier-free guidance: Ho and Salimans, arXiv 2207.12598; of language models:
Sanchez et al., arXiv 2306.17806). Above 1 a token that the persona holds for hardly possible may
lose and not gain, as the difference of two tiny probabilities says nothing (the plausibility of
contrastive decoding: Li et al., arXiv 2210.15097).
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ppedge.errors import ModelError
from ppedge.llm.sampling import MAX_STRENGTH
from ppedge.llm.scoring import log_softmax

PLAUSIBLE: Final = 0.05
"""Share of the likeliest token's probability that a token needs to gain by guidance."""


def ensure_strength(strength: float) -> None:
    """Raise a ModelError unless ``strength`` is a number from 0 to `MAX_STRENGTH`."""
    if not 0 <= strength <= MAX_STRENGTH:
        raise ModelError(f"strength must be 0 to {MAX_STRENGTH:g}, not {strength:g}")


def guided(
    logits: NDArray[np.float32], bare: NDArray[np.float32], strength: float
) -> NDArray[np.float32]:
    """Return l of above.

    Args:
        logits: with the persona, float32 [n_vocab]; -inf stays -inf.
        bare: without, finite, float32 [n_vocab].
        strength: from 0 to `MAX_STRENGTH`.

    Returns:
        float32 [n_vocab], not normalised.
    """
    p, b = log_softmax(logits), log_softmax(bare)
    with np.errstate(invalid="ignore"):  # 0 times what is ruled out
        pushed = b + strength * (p - b)
    if strength > 1:
        hardly = p < p.max() + math.log(PLAUSIBLE)
        pushed[hardly] = np.minimum(pushed, p)[hardly]
    pushed[np.isneginf(p)] = -np.inf
    return pushed.astype(np.float32)
