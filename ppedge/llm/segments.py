"""What a prompt is made of: text and soft tokens; and what soft tokens must satisfy."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ppedge.errors import ModelError


@dataclass(frozen=True, slots=True)
class Text:
    """A piece of text for the model.

    Attributes:
        text: any text; a lone surrogate is refused when it is tokenized.
        special: whether control tokens such as ``<|im_end|>`` are recognised in it.
    """

    text: str
    special: bool = False


@dataclass(frozen=True, slots=True)
class Soft:
    """Soft tokens, and what the model is steered by from the first of them on.

    Attributes:
        vectors: float32 [n, n_embd], at the scale of the model's own embedding rows.
        control: control vector, float32 [n_layer - 1, n_embd]: row i is added to the output of
            layer i + 1 at the soft tokens and all that follows them. None: nothing is added.
    """

    vectors: NDArray[np.float32]
    control: NDArray[np.float32] | None = None


Segment = Text | Soft
"""A part of a prompt."""


def soft_rows(soft: Soft, index: int, n_embd: int) -> NDArray[np.float32]:
    """Return soft tokens, once they fit.

    Args:
        soft: of any shape.
        index: of its segment, for messages.
        n_embd: width that they must have.

    Returns:
        float32 [n, n_embd].

    Raises:
        ModelError: they have another shape, or one is not finite.
    """
    vectors = np.asarray(soft.vectors)
    if vectors.ndim != 2 or vectors.shape[1] != n_embd:
        raise ModelError(
            f"segment {index}: soft tokens must be [n, {n_embd}] for this model, "
            f"not {list(vectors.shape)}"
        )
    with np.errstate(over="ignore"):
        rows = vectors.astype(np.float32)
        # An architecture may multiply them by as much (``ppedge.llm.probe``).
        widest = rows * np.sqrt(np.float32(n_embd))
    if not np.isfinite(widest).all():
        row = int(np.argwhere(~np.isfinite(widest))[0][0])
        raise ModelError(f"segment {index}: soft token {row} holds a NaN or an infinity")
    return rows


def control_layers(control: NDArray[np.float32], index: int, n_layer: int, n_embd: int) -> bytes:
    """Return a control vector as llama.cpp reads it: float32 [n_layer - 1, n_embd].

    Raises:
        ModelError: it has another shape, or holds what is not finite.
    """
    wanted, found = (n_layer - 1, n_embd), np.asarray(control)
    if found.shape != wanted:
        raise ModelError(
            f"segment {index}: a control vector must be {list(wanted)} for this model, "
            f"not {list(found.shape)}"
        )
    with np.errstate(over="ignore"):
        layers = found.astype(np.float32)
    if not np.isfinite(layers).all():
        raise ModelError(f"segment {index}: the control vector holds a NaN or an infinity")
    return layers.tobytes()
