"""The official metrics of LaMP, as sums over questions.

    [accuracy, f1] = metrics_of(2, golds)
    table = accuracy.statistics(predictions, golds)     # one row a question
    accuracy.value(table.sum(0))

Every metric is a function of sums over questions: a bootstrap then only resums rows. The figures
are those of the benchmark's ``eval/evaluation.py``, with one exception: its ROUGE comes out of a
bootstrap of its own (the middle of 1000 resampled means), so it varies in the fourth digit; here
it is the mean itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from export.data.tasks import MOVIE_TAGS, NEWS_CATEGORIES, task_of

Sums = NDArray[np.float64]
LOWEST, HIGHEST = 1.0, 5.0  # ratings of task 3


@dataclass(frozen=True)
class Metric:
    """One metric.

    Attributes:
        name: as the official script calls it, in lower case.
        higher_is_better: which way is better.
        statistics: (predictions, golds), n of each, to float64 [n, m]: what question i adds to
            the m sums. Both are stripped of outer white space first, as the official script does.
        value: sums, float64 [..., m], to the metric, float64 [...]; nan where no question counts.
    """

    name: str
    higher_is_better: bool
    statistics: Callable[[Sequence[str], Sequence[str]], Sums]
    value: Callable[[Sums], Sums]


def metrics_of(task: int, golds: Sequence[str] = ()) -> list[Metric]:
    """The official metrics of a task, the main one first.

    Args:
        task: its number, 1 to 7.
        golds: gold answers, any number of them. Task 2 has two sets of labels, for films and for
            news: they tell which. Golds of neither set are labels themselves.

    Raises:
        ValueError: there is no such task.
    """
    kind = task_of(task).kind
    if kind == "labels":
        return [_accuracy(), _macro_f1(_labels(task, golds))]
    if kind == "rating":
        return [_error("mae", np.abs, np.asarray), _error("rmse", np.square, np.sqrt)]
    return [_rouge("rouge-1", "rouge1"), _rouge("rouge-L", "rougeL")]


def _labels(task: int, golds: Sequence[str]) -> tuple[str, ...]:
    found = {gold.strip() for gold in golds}
    official = (MOVIE_TAGS, NEWS_CATEGORIES) if task == 2 else (task_of(task).labels,)
    return next((labels for labels in official if found <= set(labels)), tuple(sorted(found)))


def _mean(sums: Sums) -> Sums:
    """sums[..., 0] / sums[..., 1]."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(sums[..., 0] / sums[..., 1])


def _rows(values: Sequence[float]) -> Sums:
    """[value, 1] a question: the sums of a mean."""
    return np.array([(value, 1.0) for value in values], np.float64).reshape(-1, 2)


def _pairs(predictions: Sequence[str], golds: Sequence[str]) -> list[tuple[str, str]]:
    return [(p.strip(), g.strip()) for p, g in zip(predictions, golds, strict=True)]


# --- closed answers -----------------------------------------------------------------------------


def _accuracy() -> Metric:
    def statistics(predictions: Sequence[str], golds: Sequence[str]) -> Sums:
        return _rows([float(p == g) for p, g in _pairs(predictions, golds)])

    return Metric("accuracy", True, statistics, _mean)


def _macro_f1(labels: tuple[str, ...]) -> Metric:
    """F1 of each label, averaged over all ``labels``; 0 for one that is in no gold or prediction.

    The sums are, for each label, the questions where it was rightly predicted, where it was
    predicted, and where it was the gold: F1 = 2 right / (predicted + gold).
    """
    place = {label: i for i, label in enumerate(labels)}

    def statistics(predictions: Sequence[str], golds: Sequence[str]) -> Sums:
        counts = np.zeros((len(golds), 3, len(labels)))
        for row, (prediction, gold) in zip(counts, _pairs(predictions, golds), strict=True):
            if prediction in place:
                row[0, place[prediction]] = prediction == gold
                row[1, place[prediction]] = 1
            if gold in place:
                row[2, place[gold]] = 1
        return counts.reshape(len(golds), 3 * len(labels))

    def value(sums: Sums) -> Sums:
        counts = sums.reshape(*sums.shape[:-1], 3, len(labels))
        there = counts[..., 1, :] + counts[..., 2, :]
        f1 = 2 * counts[..., 0, :] / np.where(there > 0, there, 1)
        # No question at all is no figure, as with the other metrics.
        return np.where(there.sum(-1) > 0, f1.mean(-1), np.nan)

    return Metric("f1", True, statistics, value)


# --- ratings ------------------------------------------------------------------------------------


def _error(name: str, measure: Callable[[float], float], finish: Callable[[Sums], Sums]) -> Metric:
    """``finish`` of the mean of ``measure`` of prediction - gold."""

    def statistics(predictions: Sequence[str], golds: Sequence[str]) -> Sums:
        pairs = [(p, _rating(g)) for p, g in _pairs(predictions, golds)]
        return _rows([measure(_predicted_rating(p, gold) - gold) for p, gold in pairs])

    return Metric(name, False, statistics, lambda sums: finish(_mean(sums)))


def _rating(gold: str) -> float:
    number = _number(gold)
    if number is None:
        raise ValueError(f"the gold rating {gold!r} is no number")
    return number


def _predicted_rating(prediction: str, gold: float) -> float:
    """The number that ``prediction`` is, or, as it is none, the farther end of the scale."""
    number = _number(prediction)
    if number is not None:
        return number
    return LOWEST if abs(LOWEST - gold) > abs(HIGHEST - gold) else HIGHEST


def _number(text: str) -> float | None:
    """The finite number that a text is; "nan" and "inf" are none, or they would be the mean."""
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


# --- written answers ----------------------------------------------------------------------------


def _rouge(name: str, kind: str) -> Metric:
    """Mean F-measure of ``kind`` by the ``rouge_score`` package, without stemmer."""

    def statistics(predictions: Sequence[str], golds: Sequence[str]) -> Sums:
        # Here, not above: it loads nltk, which tasks with closed answers can do without.
        from rouge_score.rouge_scorer import RougeScorer

        scorer = RougeScorer([kind], use_stemmer=False)
        pairs = _pairs(predictions, golds)
        return _rows([scorer.score(gold, said)[kind].fmeasure for said, gold in pairs])

    return Metric(name, True, statistics, _mean)


# --- likelihood ---------------------------------------------------------------------------------


def _no_texts(predictions: Sequence[str], golds: Sequence[str]) -> Sums:
    raise TypeError("nll is not a matter of texts; give its statistics, [nats, tokens] a question")


NLL = Metric("nll", False, _no_texts, _mean)
"""Nats a target token. Its statistics are [n, 2], -log p of the gold answer and its tokens."""
