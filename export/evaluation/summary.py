"""From a run to its table: every method's figures, their intervals, and what divides two methods.

    rows = summarise(Run.load(path), against="instruction", seed=0)
    print(show(rows))

Intervals are 95 % percentile bootstraps over *users*. A method that answered a sample of the
questions only (a costly one) is set against another on the questions that both answered, and the
table says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from export.evaluation.bootstrap import Estimate, difference, estimate
from export.evaluation.metrics import NLL, Metric, metrics_of
from export.evaluation.records import Record, Run

BEAM = " (beam)"
FEW_USERS = 10  # a percentile bootstrap over fewer is too narrow to be trusted


@dataclass(frozen=True)
class Series:
    """The answers of one method, decoded in one way.

    Attributes:
        name: the method's; with ``BEAM`` behind it for the answers of the beam search.
        records: one a question.
        metrics: by name, the main one first.
        statistics: by metric's name, float64 [questions, that metric's sums].
    """

    name: str
    records: tuple[Record, ...]
    metrics: Mapping[str, Metric]
    statistics: Mapping[str, NDArray[np.float64]]

    @property
    def ids(self) -> list[str]:
        """Question ids, [questions]."""
        return [record.id for record in self.records]

    @property
    def users(self) -> list[str]:
        """Who was asked, [questions]."""
        return [record.user for record in self.records]

    def on(self, ids: Sequence[str]) -> Series:
        """The same for the questions ``ids`` alone, in their order."""
        place = {record.id: i for i, record in enumerate(self.records)}
        places = [place[id_] for id_ in ids]
        return Series(
            self.name,
            tuple(self.records[i] for i in places),
            self.metrics,
            {name: table[places] for name, table in self.statistics.items()},
        )

    def figure(self, metric: str, seed: int) -> Estimate:
        """A metric's value over all questions, with its interval."""
        return estimate(self.statistics[metric], self.users, self.metrics[metric].value, seed)

    def minus(self, other: Series, metric: str, seed: int) -> Estimate:
        """This metric less the other's, paired; both must hold the same questions in order."""
        return difference(
            self.statistics[metric],
            other.statistics[metric],
            self.users,
            self.metrics[metric].value,
            seed,
        )


def series_of(run: Run, golds: Mapping[str, str] | None = None) -> dict[str, Series]:
    """Every method's answers, and behind them those of its beam search where it has them.

    Args:
        run: what was answered.
        golds: the gold answers that the metrics take their labels from, if not the run's own.
    """
    metrics = metrics_of(run.task, list((golds or run.golds).values()))
    found = {}
    for method in run.methods:
        records = [record for record in run.records if record.method == method]
        found[method] = _series(method, records, [r.prediction for r in records], metrics, run)
        beams = [record for record in records if record.beam is not None]
        if beams:
            name = method + BEAM
            found[name] = _series(name, beams, [str(r.beam) for r in beams], metrics, run)
    return found


def _series(
    name: str,
    records: Sequence[Record],
    predictions: Sequence[str],
    metrics: Sequence[Metric],
    run: Run,
) -> Series:
    golds = [run.golds[record.id] for record in records]
    statistics = {metric.name: metric.statistics(predictions, golds) for metric in metrics}
    known = {metric.name: metric for metric in metrics}
    if not name.endswith(BEAM):  # The gold's likelihood does not hang on how one decodes.
        known[NLL.name] = NLL
        statistics[NLL.name] = np.array([[r.nats, r.target_tokens] for r in records], np.float64)
    return Series(name, tuple(records), known, statistics)


def common(a: Series, b: Series) -> tuple[Series, Series]:
    """Both on the questions that both answered, in the order of ``a``; these may be none."""
    theirs = set(b.ids)
    ids = [id_ for id_ in a.ids if id_ in theirs]
    return a.on(ids), b.on(ids)


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        method: the series' name.
        questions: how many it answered, of ``run_questions`` in the run.
        users: how many were asked, of ``run_users`` in the run.
        better: whether higher is better, by metric's name, in the order of the columns.
        figures: by metric's name; "nll" in nats a target token, absent from beam rows.
        against: the series that the differences are against, None where there is none.
        differences: this series less ``against``, on the questions both answered.
        shared_questions: how many those are, and of how many users (``shared_users``).
        prompt_tokens: mean.
        first_s: median seconds to the first token, None in beam rows, which were not timed.
        answer_s: median seconds to the whole answer, likewise.
    """

    method: str
    questions: int
    users: int
    run_questions: int
    run_users: int
    better: dict[str, bool]
    figures: dict[str, Estimate]
    against: str | None
    differences: dict[str, Estimate]
    shared_questions: int
    shared_users: int
    prompt_tokens: float
    first_s: float | None
    answer_s: float | None

    @property
    def sampled(self) -> bool:
        """Whether it answered some of the run's questions only."""
        return self.questions < self.run_questions


def summarise(run: Run, against: str | None, seed: int) -> list[Row]:
    """One row a series, in the order of the run.

    Args:
        run: what was answered.
        against: the method that the others are set against; beam answers are set against its
            beam answers where it has them. None: no differences.
        seed: of the bootstrap.

    Raises:
        ValueError: the run has no method ``against``.
    """
    found = series_of(run)
    if against is not None and against not in found:
        raise ValueError(
            f"nothing to set the methods against: '{against}' is not one of {', '.join(found)}"
        )
    everybody = len({r.id for r in run.records}), len({r.user for r in run.records})
    return [
        _row(series, _rival(series, against, found), everybody, seed) for series in found.values()
    ]


def _rival(series: Series, against: str | None, found: Mapping[str, Series]) -> Series | None:
    if against is None:
        return None
    if series.name.endswith(BEAM):
        return found.get(against.removesuffix(BEAM) + BEAM)
    return found[against]


def _row(series: Series, rival: Series | None, everybody: tuple[int, int], seed: int) -> Row:
    differences: dict[str, Estimate] = {}
    shared: list[Record] = []
    if rival is not None and rival.name != series.name:
        mine, theirs = common(series, rival)
        shared = list(mine.records)
        if shared:
            differences = {
                name: mine.minus(theirs, name, seed)
                for name in mine.metrics
                if name in theirs.metrics
            }
    timed = not series.name.endswith(BEAM)
    return Row(
        method=series.name,
        questions=len(series.records),
        users=len(set(series.users)),
        run_questions=everybody[0],
        run_users=everybody[1],
        better={name: metric.higher_is_better for name, metric in series.metrics.items()},
        figures={name: series.figure(name, seed) for name in series.metrics},
        against=rival.name if rival else None,
        differences=differences,
        shared_questions=len(shared),
        shared_users=len({record.user for record in shared}),
        prompt_tokens=float(np.mean([r.prompt_tokens for r in series.records])),
        first_s=float(np.median([r.first_s for r in series.records])) if timed else None,
        answer_s=float(np.median([r.answer_s for r in series.records])) if timed else None,
    )


class Cell(NamedTuple):
    """One cell of a table: plain text, and whether it stands out."""

    text: str
    strong: bool = False


class Table(NamedTuple):
    """A table of plain text, for Markdown and for HTML."""

    head: list[str]
    body: list[list[Cell]]


NOTHING = Cell("–")


def table(rows: Sequence[Row]) -> Table:
    """The rows as text.

    A difference stands out where its interval does not hold zero.
    """
    better = {name: up for row in rows for name, up in row.better.items()}
    main = next(iter(better))
    rivals = [row.against for row in rows if row.against]
    rival = next((name for name in rivals if not name.endswith(BEAM)), None)
    head = ["method", "questions", "users", *(heading(name, up) for name, up in better.items())]
    if rival:
        head += [f"{name} vs {rival}" for name in (main, NLL.name)]
    head += ["prompt tokens", "s to first token", "s per answer"]
    body = []
    for row in rows:
        cells = [Cell(row.method), Cell(f"{row.questions:,}"), Cell(f"{row.users:,}")]
        cells += [interval(row.figures.get(name)) for name in better]
        if rival:
            cells += [gap(row.differences.get(name)) for name in (main, NLL.name)]
        cells += [Cell(f"{row.prompt_tokens:,.0f}"), seconds(row.first_s), seconds(row.answer_s)]
        body.append(cells)
    return Table(head, body)


def heading(metric: str, higher_is_better: bool) -> str:
    """A metric's column heading, with an arrow towards the better side."""
    return f"{metric} {'↑' if higher_is_better else '↓'}"


def interval(figure: Estimate | None) -> Cell:
    """Value and interval: "0.412 [0.380, 0.440]"."""
    if figure is None:
        return NOTHING
    return Cell(f"{figure.value:.3f} [{figure.low:.3f}, {figure.high:.3f}]")


def gap(figure: Estimate | None) -> Cell:
    """The same for a difference: signs shown, strong where zero lies outside."""
    if figure is None:
        return NOTHING
    return Cell(
        f"{figure.value:+.3f} [{figure.low:+.3f}, {figure.high:+.3f}]",
        strong=figure.low > 0 or figure.high < 0,
    )


def seconds(value: float | None) -> Cell:
    """Seconds in three digits or so."""
    if value is None:
        return NOTHING
    return Cell(f"{value:.3f}" if value < 1 else f"{value:.1f}")


def notes(rows: Sequence[Row]) -> list[str]:
    """What a reader must know to read the table, a sentence or two each."""
    said = [
        "In brackets: 95 % intervals, bootstrap over users. nll: nats per target token. "
        "Tokens are means, seconds medians."
    ]
    rivals = {row.against for row in rows if row.against}
    if rivals:
        said.append(
            "vs: the row's method less that one, paired over the same users and questions. Bold: "
            "zero lies outside the interval. Each interval stands by itself: where there is no "
            "difference at all, one in twenty leaves zero out by chance."
        )
    fewest = min(row.shared_users if row.differences else row.users for row in rows)
    if fewest < FEW_USERS:
        said.append(
            f"Intervals over {fewest} users are too narrow; trust those over {FEW_USERS} or more."
        )
    for row in rows:
        if row.sampled:
            said.append(
                f"{row.method} answered a sample: {row.questions} of {row.run_questions} questions"
                f" ({row.users} of {row.run_users} users). Judge it by its difference, "
                "not by its own figures beside those of the others."
            )
        if row.against in (None, row.method):
            continue
        if not row.shared_questions:
            said.append(f"{row.method} and {row.against} have no question in common.")
        elif row.sampled or row.shared_questions < row.questions:
            said.append(
                f"{row.method} vs {row.against} rests on the {row.shared_questions} questions "
                f"({row.shared_users} users) that both answered."
            )
    return said


def markdown(shown: Table) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(shown.head) + " |", "|" + "---|" * len(shown.head)]
    for cells in shown.body:
        texts = [f"**{cell.text}**" if cell.strong else cell.text for cell in cells]
        lines.append("| " + " | ".join(texts) + " |")
    return "\n".join(lines)


def show(rows: Sequence[Row]) -> str:
    """The table in Markdown, its notes below as a list."""
    return markdown(table(rows)) + "\n\n" + "\n".join(f"- {note}" for note in notes(rows))
