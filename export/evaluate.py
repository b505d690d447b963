"""Likelihood of what dev users wrote, with their own history and with the controls.

    python -m export.evaluate runs/a/plug.pt --data DATA --gguf MODEL.gguf --limit 200

Prints, for each task, nats per target token with the person's own history, with another person's
through the same plug (*swapped*), with the null note alone (*cold*) and with no soft tokens
(*none*); and the differences own - swapped and own - none with 95 % intervals from a paired
bootstrap over users. Below zero is better. Dev users were never trained on.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from export.data import Question
from export.features import Features
from export.frozen import FrozenLLM
from export.minilm import find_minilm
from export.onnx import load_plug
from export.train import TEMPLATE, VARIANTS, Trainer, dev_questions

DRAWS = 2000


def bootstrap(
    nats: np.ndarray, counts: np.ndarray, users: Sequence[str], seed: int
) -> tuple[float, float]:
    """95 % interval of sum(nats) / sum(counts), resampling whole users.

    Args:
        nats: float64 [n], a difference of two variants on the same answers.
        counts: float64 [n], target tokens.
        users: who was asked, [n].
        seed: of the resampling.
    """
    _, owner = np.unique(np.array(users), return_inverse=True)
    # A user's questions are drawn together: they are not independent of each other.
    by_user = np.stack([np.bincount(owner, nats), np.bincount(owner, counts)])
    rng = np.random.default_rng(seed)
    drawn = rng.integers(by_user.shape[1], size=(DRAWS, by_user.shape[1]))
    sums = by_user[:, drawn].sum(-1)
    low, high = np.quantile(sums[0] / sums[1], [0.025, 0.975])
    return float(low), float(high)


def summarise(questions: Sequence[Question], table: np.ndarray, seed: int) -> list[dict]:
    """One record a task: users, questions, each variant, and the two differences."""
    tasks = np.array([q.task for q in questions])
    records = []
    for task in sorted(set(tasks.tolist())):
        rows = table[tasks == task]
        users = [q.user for q in questions if q.task == task]
        counts = rows[:, -1]
        record = {"task": task, "users": len(set(users)), "questions": len(users)}
        for column, name in enumerate(VARIANTS):
            record[name] = float(rows[:, column].sum() / counts.sum())
        for other in ("swapped", "none"):
            nats = rows[:, 0] - rows[:, VARIANTS.index(other)]
            record[f"own-{other}"] = float(nats.sum() / counts.sum())
            record[f"own-{other} 95%"] = bootstrap(nats, counts, users, seed)
        records.append(record)
    return records


def show(records: Sequence[dict]) -> str:
    """The records as a Markdown table."""
    lines = [
        "| task | users | questions | own | swapped | cold | none | own - swapped | own - none |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for r in records:
        cells = [str(r["task"]), str(r["users"]), str(r["questions"])]
        cells += [f"{r[name]:.3f}" for name in VARIANTS]
        for other in ("swapped", "none"):
            low, high = r[f"own-{other} 95%"]
            cells.append(f"{r[f'own-{other}']:+.3f} [{low:+.3f}, {high:+.3f}]")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--data", type=Path, required=True, help="folder of LaMP_N_style folders")
    parser.add_argument("--gguf", type=Path, required=True)
    parser.add_argument("--encoder", type=Path, help="MiniLM folder (default: the package's)")
    parser.add_argument("--features", type=Path, help="file that keeps the text vectors")
    parser.add_argument("--tasks", type=int, nargs="+", default=[4, 5, 6, 7])
    parser.add_argument("--limit", type=int, default=200, help="questions a task")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="also write the figures here")
    args = parser.parse_args()
    plug, _ = load_plug(args.checkpoint)
    llm = FrozenLLM(args.gguf, TEMPLATE, torch.bfloat16)
    trainer = Trainer(plug, llm, Features(args.encoder or find_minilm(), args.features))
    records = []
    for task in args.tasks:
        questions = dev_questions(args.data, [task], args.limit, args.seed)
        records += summarise(questions, trainer.score(questions, args.seed), args.seed)
        print(f"task {task} done", file=sys.stderr)
    print(show(records))
    if args.json:
        args.json.write_text(json.dumps(records, indent=2) + "\n")


if __name__ == "__main__":
    main()
