"""Rows of unlike length as one batch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def left_padded(rows: Sequence[Sequence[int]], filler: int) -> tuple[Tensor, Tensor]:
    """Rows of ids as int64 [B, L] that end together, and which are real, bool [B, L]."""
    width = max(map(len, rows))
    ids = torch.full((len(rows), width), filler)
    mask = torch.zeros(len(rows), width, dtype=torch.bool)
    for i, row in enumerate(rows):
        ids[i, width - len(row) :] = torch.tensor(row, dtype=torch.long)
        mask[i, width - len(row) :] = True
    return ids, mask


def alike(lengths: Sequence[int], least: int = 4) -> list[list[int]]:
    """Indices of rows that are worth running together: of like length, ``least`` at least.

    Padding is computed like everything else: without groups, 28 to 50 % of the answers of
    a step was padding.
    """
    groups: list[list[int]] = []
    for i in sorted(range(len(lengths)), key=lambda i: lengths[i]):
        if not groups or (
            len(groups[-1]) >= least and lengths[i] > 1.25 * lengths[groups[-1][0]] + 4
        ):
            groups.append([])
        groups[-1].append(i)
    if len(groups) > 1 and len(groups[-1]) < least:
        last = groups.pop()
        groups[-1] += last
    return groups
