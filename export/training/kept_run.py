"""A run that teaches kept soft tokens: its options, steps, checkpoints, losses of dev people."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from export.models.base_llm import FrozenLLM
from export.models.kept import KeptHead
from export.tools.commands import check_output, check_seed, number, positive
from export.training.distributed import Distributed
from ppedge.plug.plug import Plug

WARMUP = 10  # steps

Part = tuple[Tensor, NDArray[np.float64]]
"""Of some examples of a step: their share of its loss, and what is told of each, [B, k]."""


class Objective(Protocol):
    """What is taught, and on whom.

    Attributes:
        head: makes the kept soft tokens.
        names: of the k numbers that are told of an example.
    """

    head: KeptHead
    names: tuple[str, ...]

    def step(self, step: int) -> Iterator[Part]:
        """The loss of one step, which hangs on its number alone, in parts that add up."""

    def dev(self) -> Iterator[Part]:
        """That of dev people, whom no step sees."""


@dataclass
class Run:
    """What a run works with.

    Attributes:
        args: of the command: ``out`` is the checkpoint; ``steps``, ``lr``, ``save_every``.
        settings: what changes the result, as text.
        objective: is taught.
        optimizer: of its head.
        step: that comes next.
        seconds: of the sessions before this one.
    """

    args: argparse.Namespace
    settings: dict[str, str]
    objective: Objective
    optimizer: torch.optim.Optimizer
    step: int = 0
    seconds: float = 0.0

    @classmethod
    def open(cls, args: argparse.Namespace, settings: dict[str, str], objective: Objective) -> Run:
        """Begin, or go on from the checkpoint if there is one.

        Raises:
            ValueError: the checkpoint is of another run.
        """
        optimizer = torch.optim.AdamW(objective.head.parameters(), lr=args.lr, weight_decay=0.0)
        run = cls(args, settings, objective, optimizer)
        if args.out.exists():
            run._resume(args.out)
        return run

    def _resume(self, path: Path) -> None:
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
            before = state["settings"]
        except Exception as error:  # torch raises what its readers do
            raise ValueError(f"{path} is not a checkpoint of this command: {error}"[:300]) from None
        names = [name for name, now in self.settings.items() if before.get(name) != now]
        if names:
            raise ValueError(
                f"{path} was trained with another {', '.join(names)}; "
                "give the same, or another --out for a new run"
            )
        self.objective.head.load_state_dict(state["head"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.seconds = state["step"], state["seconds"]
        print(f"resumed at step {self.step}", flush=True)

    def _save(self, seconds: float) -> None:
        """Write the checkpoint, whole or not at all."""
        state = {
            "head": self.objective.head.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "seconds": seconds,
            "settings": self.settings,
        }
        beside = self.args.out.with_suffix(".tmp")
        torch.save(state, beside)
        beside.replace(self.args.out)

    def take_step(self) -> NDArray[np.float64]:
        """One optimiser step; returns what is told of its examples, [B, k]."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.args.lr * share_of_rate(self.step, self.args.steps)
        self.optimizer.zero_grad(set_to_none=True)
        told = [np.empty((0, len(self.objective.names)))]
        for loss, numbers in self.objective.step(self.step):
            loss.backward()
            told.append(numbers)
        torch.nn.utils.clip_grad_norm_(self.objective.head.parameters(), 1.0)
        self.optimizer.step()
        self.step += 1
        return np.concatenate(told)

    @torch.no_grad()
    def dev(self) -> dict[str, float]:
        """What is told of dev people, in the mean; printed."""
        means = np.concatenate([numbers for _, numbers in self.objective.dev()]).mean(0)
        told = dict(zip(self.objective.names, means.round(4).tolist(), strict=True))
        print(json.dumps({"step": self.step, "dev": told}), flush=True)
        return told

    def train(self) -> dict[str, float]:
        """Take the steps that are left; returns what is told of dev people at the end."""
        begun, recent = time.time(), list[NDArray[np.float64]]()
        told = self.dev()
        while self.step < self.args.steps:
            recent.append(self.take_step())
            if self.step % 10 == 0:
                mean = np.concatenate(recent).mean(0).round(3).tolist()
                print(f"step {self.step} {mean} {time.time() - begun:.0f} s", flush=True)
                recent.clear()
            if self.step == self.args.steps or self.step % self.args.save_every == 0:
                self._save(self.seconds + time.time() - begun)
                told = self.dev()
        return told


def share_of_rate(step: int, steps: int) -> float:
    """Share of the peak rate: a short linear warm-up, on a cosine down to a twenty-fifth."""
    return min(1.0, (step + 1) / WARMUP) * (0.52 + 0.48 * float(np.cos(np.pi * step / steps)))


# --- the command line ---


def add_options(parser: argparse.ArgumentParser, *, steps: int, lr: float, save_every: int) -> None:
    """The options of every such run, with some defaults."""
    add = parser.add_argument
    add("plug", type=Path, metavar="PLUG_DIR", help="the plug, unpacked")
    add("new", type=Path, metavar="NEW_PLUG", help="folder to write, which must not exist")
    add("--llm", help="GGUF file (default: the one that ppedge uses)")
    add("--out", type=Path, required=True, help="checkpoint")
    add("--steps", type=positive, default=steps)
    add("--lr", type=number("'{}' is not a rate above 0", 1e-9), default=lr)
    add("--save-every", type=positive, default=save_every, metavar="STEPS")
    add("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    add("--device", choices=("auto", "cpu", "cuda"), default="auto")
    add("--seed", type=int, default=0)


def parse_options(
    parser: argparse.ArgumentParser, words: Sequence[str] | None
) -> argparse.Namespace:
    """Parse a command line, and end at a seed or checkpoint that cannot be."""
    args = parser.parse_args(words)
    check_seed(parser, args.seed)
    check_output(parser, args.out)
    return args


def open_llm(args: argparse.Namespace, plug: Plug) -> FrozenLLM:
    """The model of a command line, in a plug's template."""
    device = Distributed(args.device).device
    return FrozenLLM(args.llm, plug.manifest.template, getattr(torch, args.dtype), device)
