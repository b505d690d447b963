"""Fit a plug's n-gram cache on people of the training set, and write its gates into the plug.

    python -m export.ngrams PLUG --data DATA --tasks 4 5 6 7 --split train --limit 100 --seed 0

Asks the run time itself: every question goes through the plug as ``export.evaluate`` would ask it,
and at each gold token the model's log-probability is noted beside what the memory of the user's
own notes counted there. The gates that make the gold tokens likeliest
(``export/training/ngram_weights.py``) go into PLUG/plug.json; no vector changes, so stores of notes
stay as they are. What is printed is held out: nats per token under gates that were fitted on the
other half of the users, with their own notes and with another user's.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.data.lamp import choose, with_swaps
from export.evaluation.methods import Asked, Bench, Composed, parse_method
from export.package.golden_vectors import write_manifest
from export.tools.commands import (
    check_output,
    check_seed,
    number,
    one_line_errors,
    renamed,
    replacing,
)
from export.tools.progress import Bar
from export.training.ngram_weights import START, Places, fit, held_out_nats, offset
from ppedge.defaults import find_model
from ppedge.fitting import ensure_fits
from ppedge.llm.llm import LLM
from ppedge.llm.ngram_cache import MAX_SCORE, NgramCache, NgramCacheConfig, log_sum_exp_and_entropy
from ppedge.plug.manifest import (
    MANIFEST_NAME,
    MAX_GATES,
    MAX_NGRAM_NOTES,
    Manifest,
)
from ppedge.plug.plug import Plug

N_ORDERS = 4
GATE_OFFSET = 1.0  # measured: docs/ablations.md
MAX_NOTES = 256
SIDES = ("own", "swapped")


# --- what model and memory say at every gold token ------------------------------------------------


class Probe:
    """A processor that changes nothing, and notes what was said at each token of a known text.

    Attributes:
        rows: for each token so far, float64 [2 + 3 * orders]: the model's log-probability of the
            token, the entropy H, then C_n, U_n and c_n of every order.

    Args:
        memory: None counts nothing.
        text: the token ids that will be scored.
        n_orders: of the memory.
    """

    def __init__(self, memory: NgramCache | None, text: Sequence[int], n_orders: int) -> None:
        self.rows: list[NDArray[np.float64]] = []
        self._memory, self._text, self._n_orders = memory, text, n_orders

    def __call__(self, logits: NDArray[np.float32], written: Sequence[int]) -> NDArray[np.float32]:
        """Note, and hand the logits on."""
        token = self._text[len(written)]
        total, entropy = log_sum_exp_and_entropy(logits)
        row = np.zeros(2 + 3 * self._n_orders)
        row[:2] = float(logits[token]) - total, entropy
        for order, counts in enumerate(self._memory.counts(written) if self._memory else ()):
            assert self._memory is not None
            of_token = counts[self._memory.types == token].sum()
            at = 2 + 3 * order
            row[at : at + 3] = counts.sum(), np.count_nonzero(counts), of_token
        self.rows.append(row)
        return logits


def probe(llm: LLM, composed: Composed, gold: str, n_orders: int) -> NDArray[np.float64]:
    """What is said at each token of ``gold`` and at its end, float64 [tokens, 2 + 3 * orders]."""
    assert llm.end_token is not None  # `LLM.score` refuses a model without one.
    noted = Probe(composed.memory, [*llm.tokenize(gold), llm.end_token], n_orders)
    llm.score(composed.segments, [gold], end=True, processor=noted)
    return np.array(noted.rows)


def gather(
    bench: Bench, asked: Sequence[Asked], n_orders: int, bar: Bar, done: int = 0
) -> dict[str, Places]:
    """Ask the questions with their own and with swapped histories.

    Args:
        bench: its plug has an n-gram cache of ``n_orders`` orders.
        asked: with swaps.
        n_orders: as above.
        bar: is told of every question.
        done: how many questions are behind.

    Returns:
        The places of all gold tokens, for each of `SIDES`.
    """
    found: dict[str, list[NDArray[np.float64]]] = {side: [] for side in SIDES}
    task, user = [], []
    for place, each in enumerate(asked, done):
        bar(place, f"task {each.question.task}", worked=place)
        for side, name in zip(SIDES, ("persona", "swapped"), strict=True):
            method = parse_method(name)
            bench.warm(method, each)
            composed = bench.compose(method, each)
            found[side].append(probe(bench.llm, composed, each.question.output, n_orders))
        n_tokens = len(found["own"][-1])
        task += [each.question.task] * n_tokens
        user += [each.question.user] * n_tokens
    return {side: _places(task, user, np.concatenate(rows)) for side, rows in found.items()}


def _places(task: list[int], user: list[str], rows: NDArray[np.float64]) -> Places:
    columns = [np.ascontiguousarray(rows[:, 2 + i :: 3]) for i in range(3)]
    return Places(np.array(task), np.array(user), rows[:, 0].copy(), rows[:, 1].copy(), *columns)


# --- what the memory gains ------------------------------------------------------------------------


@dataclass(frozen=True)
class Gain:
    """Nats per gold token of one task without and with the memory.

    Attributes:
        task: its number.
        users, tokens: how many.
        before, after: by side; ``after`` with gates fitted on the other half of the users.
    """

    task: int
    users: int
    tokens: int
    before: dict[str, float]
    after: dict[str, float]


def gains(
    places: dict[str, Places], n_orders: int, seed: int, gate_offset: float = 0.0
) -> list[Gain]:
    """What the memory gains on each task, held out."""
    own = places["own"]
    nats = held_out_nats(own, list(places.values()), n_orders, seed, gate_offset)
    after = dict(zip(places, nats, strict=True))
    return [
        Gain(
            task=int(task),
            users=len(np.unique(own.user[own.task == task])),
            tokens=int((own.task == task).sum()),
            before={s: float(-p.logprob[p.task == task].mean()) for s, p in places.items()},
            after={s: float(after[s][p.task == task].mean()) for s, p in places.items()},
        )
        for task in np.unique(own.task)
    ]


def show(rows: Sequence[Gain]) -> str:
    """A Markdown table."""
    lines = [
        "| task | users | tokens | own, nats per token | swapped | swapped - own |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        cells = [f"{row.before[side]:.3f} -> {row.after[side]:.3f}" for side in SIDES]
        gap = [told["swapped"] - told["own"] for told in (row.before, row.after)]
        lines.append(
            f"| {row.task} | {row.users} | {row.tokens} | {cells[0]} | {cells[1]} | "
            f"{gap[0]:.3f} -> {gap[1]:.3f} |"
        )
    return "\n".join(lines)


# --- the command ----------------------------------------------------------------------------------


gate_offset = number(f"must be a number from 0 to {MAX_SCORE:g}, not '{{}}'", 0, MAX_SCORE)


def parse(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line, checked as far as that goes without opening a file."""
    parser = argparse.ArgumentParser(
        prog="python -m export.ngrams",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("plug", type=Path, metavar="PLUG", help="folder of the plug; its plug.json is written anew")
    add("--data", type=Path, required=True, help="folder of LaMP_N_style folders")
    add("--llm", type=Path, help="GGUF file (default: the packaged model)")
    add("--tasks", type=int, nargs="+", default=[4, 5, 6, 7], choices=range(1, 8), metavar="TASK")
    add("--split", default="train", help="whose users to fit on (default: train)")
    add("--limit", type=int, default=100, help="questions a task (default: 100)")
    add("--orders", type=int, default=N_ORDERS, choices=range(1, MAX_GATES + 1), metavar="N",
        help=f"orders 0 .. N-1: look at up to N-1 tokens before (default: {N_ORDERS})")  # fmt: skip
    add("--notes", type=int, default=MAX_NOTES, choices=range(1, MAX_NGRAM_NOTES + 1),
        metavar="N", help=f"notes remembered for a prompt (default: {MAX_NOTES})")  # fmt: skip
    add("--gate-offset", type=gate_offset, default=GATE_OFFSET, metavar="X",
        help=f"taken off every gate's bias, for writing (default: {GATE_OFFSET:g})")  # fmt: skip
    add("--seed", type=int, default=0, help="of choices, swaps and halves (default: 0)")
    add("--json", type=Path, help="also write gates and gains to this file")
    add("--dry-run", action="store_true", help="leave the plug as it is")
    add("--context", type=int, default=4096, help="positions of the model (default: 4096)")
    add("--threads", type=int, help="CPU threads of the model (default: chosen)")
    given = sys.argv[1:] if words is None else words
    args = parser.parse_args(renamed(given, {"--caution": "--gate-offset"}))
    for name in ("limit", "context", "threads"):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            parser.error(f"--{name} must be at least 1, not {getattr(args, name)}")
    check_seed(parser, args.seed)
    if len(set(args.tasks)) < len(args.tasks):
        parser.error("--tasks names a task twice")
    check_output(parser, args.json)
    return args


def questions(args: argparse.Namespace) -> Iterator[Asked]:
    """The chosen questions of all tasks, each with another user's history to swap."""
    for task in args.tasks:
        folder = args.data / f"LaMP_{task}_style"
        files = (folder / f"{args.split}_{kind}.json" for kind in ("questions", "outputs"))
        for pair in with_swaps(choose(*files, args.limit, args.seed), args.seed):
            yield Asked(*pair)


def run(args: argparse.Namespace) -> tuple[NgramCacheConfig, list[Gain]]:
    """Gather, fit and measure.

    Raises:
        PpedgeError, ValueError, OSError: one line that says what is wrong.
    """
    plug = Plug(args.plug, n_threads=args.threads)
    if not args.plug.is_dir():
        raise ValueError(f"{args.plug}: a packed plug cannot be written to; unpack it first")
    asked = list(questions(args))
    # Whatever the plug remembers so far, the counts are those of the memory to be.
    spec = NgramCacheConfig(args.notes, (START,) * args.orders)
    plug.manifest = replace(plug.manifest, ngram_cache=spec)
    with (
        LLM(find_model(args.llm), n_ctx=args.context, n_threads=args.threads) as llm,
        Bar(len(asked)) as bar,
    ):
        ensure_fits(plug, llm)
        places = gather(Bench(llm, plug, seed=args.seed), asked, args.orders, bar)
    rows = gains(places, args.orders, args.seed, args.gate_offset)
    gates = offset(fit(places["own"], args.orders), args.gate_offset)
    return replace(spec, gates=gates), rows


def told(args: argparse.Namespace, rows: Sequence[Gain]) -> dict[str, Any]:
    """How the gates came about, for the manifest's ``about``: for people, and rounded for them."""
    return {
        "fitted on": {f"LaMP_{row.task}_style": f"{row.users} {args.split} users" for row in rows},
        "limit": args.limit,
        "seed": args.seed,
        "gate_offset": args.gate_offset,
        "nats per token without and with it, held out": {
            f"LaMP_{row.task}_style": {
                side: [round(row.before[side], 4), round(row.after[side], 4)] for side in SIDES
            }
            for row in rows
        },
    }


def write_spec(folder: Path, spec: NgramCacheConfig, about: dict[str, Any]) -> None:
    """Give the plug in ``folder`` an n-gram cache; its manifest is replaced whole or not at all.

    Raises:
        PpedgeError, OSError: the plug cannot be read or written.
    """
    before: Manifest = Plug(folder).manifest
    manifest = replace(before, ngram_cache=spec, about={**before.about, "n-gram cache": about})
    write_manifest(folder, manifest)


def main(words: Sequence[str] | None = None) -> None:
    """The command line."""
    args = parse(words)
    with one_line_errors("export.ngrams", stopped="the plug is as it was"):
        spec, rows = run(args)
        print(show(rows))
        for order, gate in enumerate(spec.gates):
            terms = (f"{name} {value:g}" for name, value in asdict(gate).items())
            print(f"order {order}: {', '.join(terms)}")
        if args.json:
            whole = {"ngram_cache": asdict(spec), "gains": [asdict(row) for row in rows]}
            with replacing(args.json) as file:
                file.write(json.dumps(whole, indent=2) + "\n")
        if not args.dry_run:
            write_spec(args.plug, spec, told(args, rows))
            print(f"written to {args.plug / MANIFEST_NAME}")


if __name__ == "__main__":
    main()
