"""Kept soft tokens in torch: from a pooled value to what stands behind a person's turns.

Shapes: B people, V value width, n soft tokens, E the LLM's embedding width.

    K = U D P + K0

D is [rank, V], U is [n E, rank], and K0, the start, is what everybody has: P is the pooled value.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn


class KeptHead(nn.Module):
    """Pooled values [..., V] -> kept soft tokens [..., n, E]."""

    def __init__(self, d_value: int, start: Tensor, rank: int) -> None:
        """Begin with the same for everybody.

        Args:
            d_value: V.
            start: float32 [n, E].
            rank: of what hangs on the person.
        """
        super().__init__()
        self.shape = tuple(start.shape)
        self.down = nn.Linear(d_value, rank, bias=False)
        self.up = nn.Linear(rank, start.numel())
        with torch.no_grad():
            self.up.weight.zero_()
            self.up.bias.copy_(start.flatten())

    def forward(self, pooled: Tensor) -> Tensor:
        """See the class."""
        kept: Tensor = self.up(self.down(pooled)).unflatten(-1, self.shape)
        return kept

    @torch.no_grad()
    def toward(self, other: KeptHead, share: float) -> KeptHead:
        """A head whose weights are ``share`` of the way from these to another's of the same form.

        Between what was taught and what it began from lies some of both (WiSE-FT: Wortsman et al.,
        arXiv 2109.01903).
        """
        found, theirs = copy.deepcopy(self), other.state_dict()
        mixed = {name: mine.lerp(theirs[name], share) for name, mine in self.state_dict().items()}
        found.load_state_dict(mixed)
        return found
