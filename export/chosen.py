"""Teach a plug's kept soft tokens which of several answers is the better one.

    python -m export.preferences --data DATA --corpus runs/corpus.json --out runs/preferences.jsonl
    python -m export.preferences … --dev --people 12 --out runs/dev_preferences.jsonl
    python -m export.chosen PLUG_DIR NEW_PLUG --preferences runs/preferences.jsonl \\
        --dev runs/dev_preferences.jsonl --out runs/chosen.pt
    python -m export.chosen …          # the same again goes on where it stopped

The plug stays as it is, but for that one graph, which goes on from where it is. How it is taught:
``export/training/preference.py``. What is told of dev people: the mean preference loss, the share
of pairs in which the better answer gained more than the worse one, and nats a token of the better.
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import sys
from collections.abc import Sequence
from pathlib import Path

from export.models.kept import KeptHead
from export.package.kept_graph import ensure_writable, read_head, write_plug
from export.tools.commands import number, one_line_errors, positive
from export.training.kept_run import Run, add_options, open_llm, parse_options
from export.training.preference import Preference, read_people
from ppedge.defaults import find_model
from ppedge.plug.plug import Plug


def open_run(args: argparse.Namespace, plug: Plug, head: KeptHead) -> Run:
    """Load everything, and go on from the checkpoint if there is one.

    Args:
        args: the command line.
        plug: whose kept soft tokens are taught.
        head: theirs, and will be taught.

    Raises:
        ValueError: something cannot be read, or the checkpoint is of another run.
    """
    train = [person for path in args.preferences for person in read_people(path)]
    dev = read_people(args.dev)
    llm = open_llm(args, plug)
    objective = Preference(
        plug,
        llm,
        head.to(llm.device),
        train,
        dev,
        n_people=args.people,
        beta=args.beta,
        anchor=args.anchor,
        seed=args.seed,
    )
    print(
        f"{len(train)} people with {sum(len(p.pairs) for p in train)} pairs, "
        f"dev: {len(dev)} with {sum(len(p.pairs) for p in dev)}",
        flush=True,
    )
    return Run.open(args, settings(args, plug), objective)


def settings(args: argparse.Namespace, plug: Plug) -> dict[str, str]:
    """What changes the result of a run, as text."""
    names = ("people", "lr", "beta", "anchor", "seed", "dtype")
    told = {name: str(getattr(args, name)) for name in names}
    digests = [hashlib.sha256(path.read_bytes()).hexdigest()[:16] for path in args.preferences]
    return {"plug": plug.sha256, "preferences": " ".join(digests), **told}


def parse(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m export.chosen",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add_options(parser, steps=180, lr=1.5e-3, save_every=40)
    add("--preferences", type=Path, nargs="+", required=True, metavar="FILE",
        help="of export.preferences")  # fmt: skip
    add("--dev", type=Path, required=True, metavar="FILE", help="the same of dev people")
    add("--people", type=positive, default=4, help="of a step (default: 4)")
    add("--beta", type=number("'{}' is not a number above 0", 1e-9), default=0.1,
        help="how far it may go (default: 0.1)")  # fmt: skip
    add("--anchor", type=number("'{}' is not a weight, 0 or more", 0), default=0.5,
        help="weight of the better answers' likelihood (default: 0.5)")  # fmt: skip
    add("--share", type=number("'{}' is not a number from 0 to 1", 0, 1), default=1.0,
        help="of the way from the plug's weights to those taught (default: 1)")  # fmt: skip
    return parse_options(parser, words)


def main(words: Sequence[str] | None = None) -> None:
    """The command line."""
    args = parse(words)
    with one_line_errors("export.chosen", stopped="the same command goes on"):
        args.llm = args.llm or find_model()
        ensure_writable(args.plug, args.new)
        plug = Plug(args.plug)
        before = read_head(plug)
        run = open_run(args, plug, copy.deepcopy(before))
        dev = run.train()
        told = {"steps": run.step, "dev people": dev, **run.settings, "share": args.share}
        about = plug.manifest.about.get("kept soft tokens", {})
        about = {**about, "chosen": [*about.get("chosen", ()), told]}
        head = before.toward(run.objective.head.cpu(), args.share)
        write_plug(args.plug, head, args.new, about)
        print(f"written: {args.new}")


if __name__ == "__main__":
    main(sys.argv[1:])
