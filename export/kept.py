"""Teach a plug kept soft tokens: what its soft tokens say, but before the prompt, and read once.

    python -m export.kept PLUG_DIR NEW_PLUG --data DATA --corpus runs/corpus.json --out runs/kept.pt
    python -m export.kept …            # the same again goes on where it stopped

The plug stays as it is; NEW_PLUG is a copy of it with one graph more. How they are taught:
``export/training/distil.py``. People and prompts are those of a training with turns
(``export/training/turn_sampler.py``); losses are printed for dev people, whom no step sees. A
checkpoint is written at each of these.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from export.data.authors import read_authors
from export.data.lamp import read_questions
from export.models.base_llm import FrozenLLM
from export.models.kept import KeptHead
from export.onnx import write_graph
from export.package.golden_vectors import file_entry, write_manifest
from export.synthetic.corpus import read_corpus
from export.synthetic.dataset import SyntheticPersonas
from export.tools.commands import check_output, check_seed, number, one_line_errors, positive
from export.training.distil import Distillation, Losses, start_rows
from export.training.distributed import Distributed
from export.training.options import parse_shares
from export.training.sampler import SHARES, Batch, Sampler
from export.training.turn_sampler import TurnedSampler
from export.training.turns import TURNS
from ppedge.defaults import find_model
from ppedge.plug.golden import pack_golden, shapes
from ppedge.plug.manifest import KeptSpec, Manifest
from ppedge.plug.plug import Plug

FILE = "kept.onnx"
START = "Answer what is asked, in my own words. "
DEV_SEED_OFFSET = 991
DEV_STEPS = (3, 40, 90)  # of a sampler of dev's people, who have other seeds
WARMUP = 10  # steps
DEFAULT_SHARES = {**SHARES, 0: 0.55, 8: 0.33, 5: 0.02, 6: 0.05, 7: 0.05}


@dataclass
class Run:
    """What a run works with."""

    args: argparse.Namespace
    distillation: Distillation
    train: TurnedSampler
    dev: list[Batch]
    optimizer: torch.optim.Optimizer
    step: int = 0
    seconds: float = 0.0  # of the sessions before this one

    @property
    def head(self) -> KeptHead:
        """What is taught."""
        return self.distillation.head


def samplers(args: argparse.Namespace) -> tuple[TurnedSampler, TurnedSampler]:
    """Who is trained on, and who is not: other texts of the corpus, dev people of the tasks."""
    plain = read_corpus(args.corpus)
    authors = read_authors(args.authors) if args.authors else []
    found = []
    for split, seed in (("train", args.seed), ("dev", args.seed + DEV_SEED_OFFSET)):
        dev = split == "dev"
        questions = [
            question
            for task in args.tasks
            for question in read_questions(args.data / f"LaMP_{task}_style", split)
        ]
        shares = {**DEFAULT_SHARES, **(args.shares or {})}
        synthetic = SyntheticPersonas(plain, dev=dev)
        sampler = Sampler(questions, args.batch, seed, shares=shares, synthetic=synthetic)
        found.append(TurnedSampler(sampler, authors, shares=shares, turns=TURNS, dev=dev))
    return found[0], found[1]


def open_run(args: argparse.Namespace) -> Run:
    """Load everything, and go on from the checkpoint if there is one.

    Raises:
        ValueError: something cannot be read, or the checkpoint is of another run.
    """
    torch.manual_seed(args.seed)
    train, other = samplers(args)  # first: what is wrong with them is then said in seconds
    plug = Plug(args.plug)
    device = Distributed(args.device).device
    llm = FrozenLLM(args.llm, plug.manifest.template, getattr(torch, args.dtype), device)
    start = start_rows(llm, args.rows, START)
    head = KeptHead(plug.manifest.encoder.d_value, start, args.rank).to(llm.device)
    dev = [other.step(step) for step in DEV_STEPS]
    seats = train.seats + len({turns for batch in dev for turns in map(tuple, batch.turns)})
    run = Run(
        args,
        Distillation(plug, llm, head, n_answer=args.answer, n_prefixes=seats),
        train,
        dev,
        torch.optim.AdamW(head.parameters(), lr=args.lr, weight_decay=0.0),
    )
    if args.out.exists():
        resume(run)
    return run


def settings(args: argparse.Namespace, plug: Plug) -> dict[str, str]:
    """What changes the result of a run, as text."""
    names = ("tasks", "rows", "rank", "batch", "lr", "nll", "answer", "shares", "seed", "dtype")
    return {"plug": plug.sha256, **{name: str(getattr(args, name)) for name in names}}


def resume(run: Run) -> None:
    """Go on from the run's checkpoint.

    Raises:
        ValueError: it was trained with other settings, or is no checkpoint.
    """
    path = run.args.out
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        kept = state["settings"]
    except Exception as error:  # torch raises what its readers do
        raise ValueError(f"{path} is not a checkpoint of export.kept: {error}"[:300]) from None
    now = settings(run.args, run.distillation.plug)
    differs = [name for name, value in now.items() if kept.get(name) != value]
    if differs:
        raise ValueError(
            f"{path} was trained with another {', '.join(differs)}; "
            "give the same, or another --out for a new run"
        )
    run.head.load_state_dict(state["head"])
    run.optimizer.load_state_dict(state["optimizer"])
    run.step, run.seconds = state["step"], state["seconds"]
    print(f"resumed at step {run.step}", flush=True)


def save(run: Run, seconds: float) -> None:
    """Write the checkpoint, whole or not at all."""
    state = {
        "head": run.head.state_dict(),
        "optimizer": run.optimizer.state_dict(),
        "step": run.step,
        "seconds": seconds,
        "settings": settings(run.args, run.distillation.plug),
    }
    beside = run.args.out.with_suffix(".tmp")
    torch.save(state, beside)
    beside.replace(run.args.out)


def share_of_rate(step: int, steps: int) -> float:
    """Share of the peak rate: a short linear warm-up, on a cosine down to a twenty-fifth."""
    return min(1.0, (step + 1) / WARMUP) * (0.52 + 0.48 * float(np.cos(np.pi * step / steps)))


def take_step(run: Run) -> list[Losses]:
    """One optimiser step; returns the losses of its examples."""
    batch, args = run.train.step(run.step), run.args
    for group in run.optimizer.param_groups:
        group["lr"] = args.lr * share_of_rate(run.step, args.steps)
    run.optimizer.zero_grad(set_to_none=True)
    found = []
    for losses in run.distillation.losses(batch):
        (losses.weighed(args.nll).sum() / len(batch.questions)).backward()
        found.append(losses)
    torch.nn.utils.clip_grad_norm_(run.head.parameters(), 1.0)
    run.optimizer.step()
    run.step += 1
    return found


@torch.no_grad()
def dev_losses(run: Run) -> dict[str, float]:
    """Mean losses of dev people, in nats."""
    numbers = [losses.numbers() for batch in run.dev for losses in run.distillation.losses(batch)]
    first, rest, nll = np.concatenate(numbers).mean(0).round(4).tolist()
    return {"first token": first, "other tokens": rest, "nll": nll}


def train(run: Run) -> dict[str, float]:
    """Take the steps that are left; returns the losses of dev people at the end."""
    begun, recent = time.time(), list[NDArray[np.float64]]()
    told = dev_losses(run)
    print(json.dumps({"step": run.step, "dev": told}), flush=True)
    while run.step < run.args.steps:
        recent += [losses.numbers() for losses in take_step(run)]
        last = run.step == run.args.steps
        if run.step % 10 == 0:
            mean = np.concatenate(recent).mean(0).round(3).tolist()
            print(f"step {run.step} {mean} {time.time() - begun:.0f} s", flush=True)
            recent.clear()
        if last or run.step % run.args.save_every == 0:
            save(run, run.seconds + time.time() - begun)
            told = dev_losses(run)
            print(json.dumps({"step": run.step, "dev": told}), flush=True)
    return told


def write_plug(folder: Path, head: KeptHead, out: Path, about: dict[str, Any]) -> None:
    """Write a copy of a plug with kept soft tokens, whole or not at all.

    Args:
        folder: the plug's.
        head: makes them.
        out: a new folder.
        about: of the training, for people.

    Raises:
        ValueError: ``out`` exists.
    """
    if out.exists():
        raise ValueError(f"{out} exists already; name another folder, or remove it first")
    plug = Plug(folder)
    before = plug.manifest
    beside = out.with_name(f".{out.name}.part")
    shutil.rmtree(beside, ignore_errors=True)
    shutil.copytree(folder, beside)
    head = head.cpu().eval()
    pooled = torch.zeros(before.encoder.d_value)
    write_graph(head, (pooled,), beside / FILE, ["pooled"], ["soft"])
    manifest = replace(
        before,
        kept=KeptSpec(FILE, head.shape[0]),
        files={**before.files, FILE: file_entry(beside / FILE)},
        about={**before.about, "kept soft tokens": about},
    )
    write_manifest(beside, with_golden(beside, plug, manifest, head))
    worst = Plug(beside).golden_differences()
    print("torch against onnxruntime, share of the largest number:", json.dumps(worst))
    beside.rename(out)


@torch.inference_mode()
def with_golden(folder: Path, plug: Plug, manifest: Manifest, head: KeptHead) -> Manifest:
    """The manifest, and beside its golden vectors those of the new graph, computed in torch."""
    if manifest.golden is None:
        return manifest
    golden = plug.golden_vectors()
    names = shapes(replace(plug.manifest, kept=None))  # Those that it has are replaced.
    assert golden is not None  # The manifest says that there are some.
    kept = head(torch.from_numpy(golden["value"])).numpy()
    texts = zip(*(golden[name] for name in names), kept, strict=True)
    path = folder / manifest.golden.file
    path.write_bytes(pack_golden(texts))
    return replace(manifest, files={**manifest.files, path.name: file_entry(path)})


def parse(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m export.kept",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("plug", type=Path, metavar="PLUG_DIR", help="the plug, unpacked")
    add("new", type=Path, metavar="NEW_PLUG", help="folder to write, which must not exist")
    add("--data", type=Path, required=True, help="folder of LaMP_N_style folders")
    add("--corpus", type=Path, required=True, help="file of export.corpus")
    add("--authors", type=Path, metavar="FILE", help="of export.authors")
    add("--llm", help="GGUF file (default: the one that ppedge uses)")
    add("--out", type=Path, required=True, help="checkpoint")
    add("--tasks", type=int, nargs="+", default=[5, 6, 7], choices=range(1, 8), metavar="TASK")
    add("--shares", type=parse_shares, help="of the people, by task, such as 0=0.5,8=0.5")
    add("--rows", type=positive, default=8, help="kept soft tokens (default: 8)")
    add("--rank", type=positive, default=64, help="of what hangs on the person (default: 64)")
    add("--steps", type=positive, default=360)
    add("--batch", type=positive, default=16, help="examples a step (default: 16)")
    add("--lr", type=number("'{}' is not a rate above 0", 1e-9), default=3e-3)
    add("--nll", type=number("'{}' is not a weight, 0 or more", 0), default=0.2,
        help="weight of the answers themselves (default: 0.2)")  # fmt: skip
    add("--answer", type=positive, default=32, help="tokens of each that count (default: 32)")
    add("--save-every", type=positive, default=60, metavar="STEPS")
    add("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    add("--device", choices=("auto", "cpu", "cuda"), default="auto")
    add("--seed", type=int, default=0)
    args = parser.parse_args(words)
    check_seed(parser, args.seed)
    check_output(parser, args.out)
    return args


def main(words: Sequence[str] | None = None) -> None:
    """The command line."""
    args = parse(words)
    with one_line_errors("export.kept", stopped="the same command goes on"):
        args.llm = args.llm or find_model()
        if args.plug.is_file():
            raise ValueError(f"{args.plug}: a packed plug cannot be copied; unpack it first")
        if args.new.exists():
            raise ValueError(f"{args.new} exists already; name another folder, or remove it first")
        run = open_run(args)
        dev = train(run)
        told = {"steps": run.step, "nats of dev people": dev, **settings(args, Plug(args.plug))}
        write_plug(args.plug, run.head, args.new, told)
        print(f"written: {args.new}")


if __name__ == "__main__":
    main(sys.argv[1:])
