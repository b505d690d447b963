"""Whether a GGUF is another quantisation of a model that a plug was made for.

A fingerprint holds a hash of some embedding rows, and rounding a model otherwise changes them a
little. ``plugs/embedding_rows`` has the rows themselves of the models that shipped plugs are for,
named by that hash, float16 [64, n_embd].
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

TOLERANCE: Final = 0.15
"""Median relative error of a row, in the Euclidean norm. float16 is off by 0.0002, 8 bits by some
0.005, 4 bits by some 0.1; rows of other tokens by 1."""

_ROWS: Final = Path(__file__).parents[1] / "plugs" / "embedding_rows"


def is_requantised(embedding_sha256: str, rows: NDArray[np.float32]) -> bool:
    """Whether rows are those of a known model, rounded otherwise.

    Args:
        embedding_sha256: of the wanted model's fingerprint.
        rows: the found model's at the same places, float32 [64, n_embd].
    """
    path = _ROWS / f"{embedding_sha256[:16]}.f16"
    if not path.is_file():
        return False
    wanted = np.fromfile(path, "<f2").astype(np.float32)
    if wanted.size != rows.size:
        return False
    wanted = wanted.reshape(rows.shape)
    errors = np.linalg.norm(rows - wanted, axis=1) / np.linalg.norm(wanted, axis=1)
    return bool(np.median(errors) < TOLERANCE)
