"""The processes that train together; alone, every call here is the identity.

Each process computes its part of a batch and divides by what the whole batch holds; gradients are
then summed. Loss and weights are so the same for any number of processes, up to rounding.

    accelerate launch --multi_gpu --num_processes 2 -m export.train ...
    ACCELERATE_USE_CPU=true accelerate launch --multi_gpu --num_processes 2 -m export.train ...

The second line is for a machine without GPUs: there ``accelerate launch --cpu`` leaves it to MPI to
start more than one process.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from datetime import timedelta

import torch
from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs
from torch import Tensor, nn


class Distributed:
    """What ``accelerate launch`` started, or this process alone.

    Attributes:
        size: number of processes.
        index: this one's, from 0.
        device: where its tensors live; a GPU if there is one, unless ``ACCELERATE_USE_CPU=1``.
    """

    def __init__(self, device: str = "auto") -> None:
        """Join the processes; ``device``: auto, cpu or cuda.

        Raises:
            ValueError: a GPU is asked for, and torch sees none.
        """
        if device == "cuda" and not torch.cuda.is_available():
            raise ValueError("--device cuda: torch finds no GPU here")
        # The others wait while the main process evaluates, which takes longer than the usual limit.
        patience = InitProcessGroupKwargs(timeout=timedelta(hours=6))
        cpu = True if device == "cpu" else None
        self._accelerator = Accelerator(cpu=cpu, kwargs_handlers=[patience])
        self.size = self._accelerator.num_processes
        self.index = self._accelerator.process_index
        self.device = self._accelerator.device

    @property
    def main(self) -> bool:
        """Whether this is the one that writes, prints and evaluates."""
        return self.index == 0

    @property
    def note(self) -> str | None:
        """What a person should know who asked for more processes than there are."""
        # accelerate sets the address where several are asked for; on CPUs it starts one for all.
        cpu = os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true", "yes")
        if self.size > 1 or not cpu or "MASTER_ADDR" not in os.environ:
            return None
        return (
            "note: this is one process; for N of them on CPUs: "
            "ACCELERATE_USE_CPU=true accelerate launch --multi_gpu --num_processes N ..."
        )

    def sum(self, values: Tensor) -> Tensor:
        """``values`` summed over the processes; no gradient passes."""
        if self.size == 1:
            return values
        # The copy is summed in place.
        summed = self._accelerator.reduce(values.detach().clone(), reduction="sum")
        assert isinstance(summed, Tensor)
        return summed

    def of_main(self, value: float) -> float:
        """The main process's ``value``."""
        own = torch.tensor(value if self.main else 0.0, dtype=torch.float64)
        return float(self.sum(own.to(self.device)))

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Sum every parameter's gradient over the processes, in one message.

        One that has a gradient nowhere keeps none: an optimiser leaves it alone, where zeros would
        still decay it.
        """
        if self.size == 1:
            return
        trained = [p for p in parameters if p.requires_grad]
        has = torch.tensor([float(p.grad is not None) for p in trained], device=self.device)
        flat = [torch.zeros_like(p) if p.grad is None else p.grad for p in trained]
        summed = self.sum(torch.cat([has, *(gradient.flatten() for gradient in flat)]))
        has, rest = summed[: len(trained)], summed[len(trained) :]
        gradients = rest.split([p.numel() for p in trained])
        for p, found, gradient in zip(trained, has.tolist(), gradients, strict=True):
            p.grad = gradient.view_as(p) if found else None

    def wait(self) -> None:
        """Return once every process has come here."""
        if self.size > 1:
            self._accelerator.wait_for_everyone()

    def close(self) -> None:
        """Leave the group of processes."""
        self._accelerator.end_training()
