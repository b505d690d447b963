"""The difference between two runs of the same questions, method by method.

    python -m export.experiments.compare A.json B.json
    python -m export.experiments.compare A.json B.json --method persona --json OUT.json

For every method that both runs have, on the questions that both answered: each metric and nll in
A, in B, and B − A with its 95 % interval (paired bootstrap over users). Says which settings the
runs differ in, so that a difference has a cause to look for.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from export.evaluation.bootstrap import Estimate
from export.evaluation.records import Run, differing
from export.evaluation.summary import (
    BEAM,
    Cell,
    Series,
    Table,
    common,
    gap,
    heading,
    markdown,
    series_of,
)
from export.tools.commands import check_output, check_seed, one_line_errors, replacing


@dataclass(frozen=True)
class Change:
    """One metric of one method in both runs.

    Attributes:
        method: the series' name.
        metric: its name; "nll" is in nats a target token.
        higher_is_better: which way is better.
        questions: how many both runs answered by this method, of how many ``users``.
        a_questions: how many A answered by it, and B (``b_questions``).
        a: the metric in A on these.
        b: the metric in B on these.
        difference: b - a, paired.
    """

    method: str
    metric: str
    higher_is_better: bool
    questions: int
    users: int
    a_questions: int
    b_questions: int
    a: Estimate
    b: Estimate
    difference: Estimate


def compare(a: Run, b: Run, method: str | None, seed: int) -> list[Change]:
    """Every metric of every method that both runs have.

    Args:
        a: the run to set out from.
        b: the run that may be better.
        method: this one only (its beam answers too), None for all.
        seed: of the bootstrap.

    Raises:
        ValueError: the runs are of different tasks or data, or share no method or no question.
    """
    _same_data(a, b)
    golds = {**a.golds, **b.golds}
    in_a, in_b = series_of(a, golds), series_of(b, golds)
    names = [name for name in in_a if name in in_b]
    if method is not None:
        names = [name for name in names if name.removesuffix(BEAM) == method]
    if not names:
        wanted = "a method" if method is None else f"the method '{method}'"
        raise ValueError(
            f"the runs do not both have {wanted}: A has {', '.join(in_a)}; B has {', '.join(in_b)}"
        )
    changes = [change for name in names for change in _changes(in_a[name], in_b[name], seed)]
    if not changes:
        raise ValueError("the runs have no question in common by any method of both")
    return changes


def _same_data(a: Run, b: Run) -> None:
    if a.task_name != b.task_name or a.task != b.task:
        raise ValueError(f"A is of the task {a.task_name}, B of {b.task_name}")
    users = {record.id: record.user for record in a.records}
    asked = {record.id: record.user for record in b.records}
    both = [id_ for id_ in users if id_ in asked]
    if not both:
        raise ValueError("the runs have no question in common")
    for id_ in both:
        if a.golds[id_] != b.golds[id_]:
            raise ValueError(f"question '{id_}' has another gold answer in B: not the same data")
        if users[id_] != asked[id_]:
            raise ValueError(
                f"question '{id_}' is of user '{users[id_]}' in A and of '{asked[id_]}' in B: "
                "not the same data"
            )


def _changes(whole_a: Series, whole_b: Series, seed: int) -> list[Change]:
    a, b = common(whole_a, whole_b)
    if not a.records:
        return []
    return [
        Change(
            method=a.name,
            metric=name,
            higher_is_better=metric.higher_is_better,
            questions=len(a.records),
            users=len(set(a.users)),
            a_questions=len(whole_a.records),
            b_questions=len(whole_b.records),
            a=a.figure(name, seed),
            b=b.figure(name, seed),
            difference=b.minus(a, name, seed),
        )
        for name, metric in a.metrics.items()
    ]


def table(changes: Sequence[Change]) -> Table:
    """The changes as text; a difference stands out where its interval does not hold zero."""
    return Table(
        ["method", "metric", "questions", "users", "A", "B", "B − A"],
        [
            [
                Cell(change.method),
                Cell(heading(change.metric, change.higher_is_better)),
                Cell(f"{change.questions:,}"),
                Cell(f"{change.users:,}"),
                Cell(f"{change.a.value:.3f}"),
                Cell(f"{change.b.value:.3f}"),
                gap(change.difference),
            ]
            for change in changes
        ],
    )


def remarks(a: Run, b: Run, changes: Sequence[Change]) -> list[str]:
    """What the settings differ in, and what was left out."""
    names = differing(a.settings, b.settings)
    said = [
        f"setting {name}: A {a.settings.get(name, 'unset')!r}, B {b.settings.get(name, 'unset')!r}"
        for name in names
    ] or ["A and B have the same settings."]
    for label, mine, other in (("A", a, b), ("B", b, a)):
        if alone := [method for method in mine.methods if method not in other.methods]:
            said.append(f"only in {label}: {', '.join(alone)}")
    for change in {change.method: change for change in changes}.values():
        if max(change.a_questions, change.b_questions) > change.questions:
            said.append(
                f"{change.method}: A answered {change.a_questions} questions, B "
                f"{change.b_questions}; the {change.questions} that are in both are compared"
            )
    return said


def main(words: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m export.experiments.compare",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("a", type=Path, metavar="A.json", help="a run saved by export.evaluate")
    parser.add_argument("b", type=Path, metavar="B.json", help="another, of the same questions")
    parser.add_argument("--method", help="only this method (default: all that both have)")
    parser.add_argument("--seed", type=int, default=0, help="of the bootstrap (default: 0)")
    parser.add_argument("--json", type=Path, metavar="OUT", help="also write the figures here")
    args = parser.parse_args(words)
    check_seed(parser, args.seed)
    check_output(parser, args.json)
    with one_line_errors("export.experiments.compare"):
        a, b = Run.load(args.a), Run.load(args.b)
        changes = compare(a, b, args.method, args.seed)
        said = remarks(a, b, changes)
        print(markdown(table(changes)) + "\n\n" + "\n".join(f"- {remark}" for remark in said))
        if args.json:
            whole = {"remarks": said, "changes": [asdict(change) for change in changes]}
            with replacing(args.json, encoding="ascii") as file:
                file.write(json.dumps(whole, indent=1) + "\n")


if __name__ == "__main__":
    main()
