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
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from export.data.authors import read_authors
from export.data.lamp import read_questions
from export.models.kept import KeptHead
from export.package.kept_graph import ensure_writable, write_plug
from export.synthetic.corpus import read_corpus
from export.synthetic.dataset import SyntheticPersonas
from export.tools.commands import number, one_line_errors, positive
from export.training.distil import Distillation, start_rows
from export.training.kept_run import Run, add_options, open_llm, parse_options
from export.training.options import parse_shares
from export.training.sampler import SHARES, Sampler
from export.training.turn_sampler import TurnedSampler
from export.training.turns import TURNS
from ppedge.defaults import find_model
from ppedge.plug.plug import Plug

START = "Answer what is asked, in my own words. "
DEV_SEED_OFFSET = 991
DEV_STEPS = (3, 40, 90)  # of a sampler of dev's people, who have other seeds
DEFAULT_SHARES = {**SHARES, 0: 0.55, 8: 0.33, 5: 0.02, 6: 0.05, 7: 0.05}


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
    llm = open_llm(args, plug)
    start = start_rows(llm, args.rows, START)
    head = KeptHead(plug.manifest.encoder.d_value, start, args.rank).to(llm.device)
    dev = [other.step(step) for step in DEV_STEPS]
    objective = Distillation(plug, llm, head, train, dev, n_answer=args.answer, nll_weight=args.nll)
    return Run.open(args, settings(args, plug), objective)


def settings(args: argparse.Namespace, plug: Plug) -> dict[str, str]:
    """What changes the result of a run, as text."""
    names = ("tasks", "rows", "rank", "batch", "lr", "nll", "answer", "shares", "seed", "dtype")
    return {"plug": plug.sha256, **{name: str(getattr(args, name)) for name in names}}


def parse(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m export.kept",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add_options(parser, steps=360, lr=3e-3, save_every=60)
    add("--data", type=Path, required=True, help="folder of LaMP_N_style folders")
    add("--corpus", type=Path, required=True, help="file of export.corpus")
    add("--authors", type=Path, metavar="FILE", help="of export.authors")
    add("--tasks", type=int, nargs="+", default=[5, 6, 7], choices=range(1, 8), metavar="TASK")
    add("--shares", type=parse_shares, help="of the people, by task, such as 0=0.5,8=0.5")
    add("--rows", type=positive, default=8, help="kept soft tokens (default: 8)")
    add("--rank", type=positive, default=64, help="of what hangs on the person (default: 64)")
    add("--batch", type=positive, default=16, help="examples a step (default: 16)")
    add("--nll", type=number("'{}' is not a weight, 0 or more", 0), default=0.2,
        help="weight of the answers themselves (default: 0.2)")  # fmt: skip
    add("--answer", type=positive, default=32, help="tokens of each that count (default: 32)")
    return parse_options(parser, words)


def main(words: Sequence[str] | None = None) -> None:
    """The command line."""
    args = parse(words)
    with one_line_errors("export.kept", stopped="the same command goes on"):
        args.llm = args.llm or find_model()
        ensure_writable(args.plug, args.new)
        run = open_run(args)
        dev = run.train()
        told = {"steps": run.step, "nats of dev people": dev, **run.settings}
        write_plug(args.plug, run.objective.head, args.new, told)
        print(f"written: {args.new}")


if __name__ == "__main__":
    main(sys.argv[1:])
