"""What is done to a frozen model from outside while it runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor


@contextmanager
def selecting(output: torch.nn.Module, wanted: Tensor) -> Iterator[None]:
    """Within it, ``output`` gets the ``wanted`` rows of its input [B, L, E] alone: [1, n, E]."""
    hook = output.register_forward_pre_hook(lambda _, args: (args[0][wanted][None],))
    try:
        yield
    finally:
        hook.remove()


@contextmanager
def steering(
    layers: Sequence[torch.nn.Module], control: Tensor | None, start: int
) -> Iterator[None]:
    """Within it, what ``layers`` put out at positions from ``start`` on is moved by ``control``.

    As llama.cpp does it: behind the whole layer.

    Args:
        layers: all but the first.
        control: [B, len(layers), E], or None to move nothing.
        start: as above.
    """
    if control is None:
        yield
        return

    def moved(hidden: Tensor, vector: Tensor) -> Tensor:
        behind = hidden[:, start:] + vector[:, None].to(hidden.dtype)
        return torch.cat([hidden[:, :start], behind], 1)

    def hook(vector: Tensor) -> Callable[[torch.nn.Module, Any, Any], Any]:
        def move(_: torch.nn.Module, __: Any, out: Any) -> Any:
            if isinstance(out, Tensor):
                return moved(out, vector)
            return (moved(out[0], vector), *out[1:])

        return move

    hooks = [
        layer.register_forward_hook(hook(control[:, place])) for place, layer in enumerate(layers)
    ]
    try:
        yield
    finally:
        for each in hooks:
            each.remove()
