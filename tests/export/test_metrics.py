import math
import random
from pathlib import Path

import numpy as np
import pytest
from rouge_score.rouge_scorer import RougeScorer
from sklearn.metrics import accuracy_score, f1_score, mean_absolute_error, root_mean_squared_error

from export.data.tasks import MOVIE_TAGS, NEWS_CATEGORIES, task_of
from export.evaluation.metrics import NLL, metrics_of


def figures(task: int, predictions: list[str], golds: list[str]) -> dict[str, float]:
    return {
        metric.name: float(metric.value(metric.statistics(predictions, golds).sum(0)))
        for metric in metrics_of(task, golds)
    }


@pytest.mark.parametrize("task", range(1, 8))
def test_metrics_are_the_task_s_in_its_order(task):
    assert tuple(metric.name for metric in metrics_of(task)) == task_of(task).metrics


def test_only_errors_and_likelihood_are_better_when_lower():
    metrics = [metric for task in range(1, 8) for metric in metrics_of(task)] + [NLL]
    lower = {metric.name for metric in metrics if not metric.higher_is_better}
    assert lower == {"mae", "rmse", "nll"}


def test_labels_by_hand():
    found = figures(1, ["[1]", "[1]", " [2]\n", "[1] I think"], ["[1]", "[2]", "[2]", "[2]"])
    # "[1]": 1 right of 2 predicted and 1 gold, F1 2/3. "[2]": 1 of 1 and 3, F1 1/2.
    assert found == {"accuracy": 0.5, "f1": pytest.approx((2 / 3 + 1 / 2) / 2)}


def test_macro_f1_is_over_all_tags_of_the_task_seen_or_not():
    assert figures(2, ["comedy"], ["comedy"])["f1"] == pytest.approx(1 / 15)


@pytest.mark.parametrize("labels", [MOVIE_TAGS, NEWS_CATEGORIES])
def test_labels_agree_with_scikit_learn(labels):
    rng = random.Random(0)
    golds = [rng.choice(labels[:12]) for _ in range(300)]
    predictions = [gold if rng.random() < 0.4 else rng.choice(labels) for gold in golds]
    predictions[:20] = ["no such tag"] * 20
    place = {label: i for i, label in enumerate(labels)}
    p, g = [place.get(x, -1) for x in predictions], [place[x] for x in golds]
    found = figures(2, predictions, golds)
    assert found["accuracy"] == pytest.approx(accuracy_score(g, p), abs=1e-12)
    f1 = f1_score(g, p, labels=range(15), average="macro", zero_division=0)
    assert found["f1"] == pytest.approx(f1, abs=1e-12)


def test_golds_of_neither_set_are_labels_themselves():
    # "a": 1 right of 1 and 2, F1 2/3; "b": F1 1; "z" is nobody's gold and no label.
    found = figures(2, ["a", "z", "b"], ["a", "a", "b"])
    assert found["f1"] == pytest.approx((2 / 3 + 1) / 2)


def test_ratings_by_hand():
    found = figures(3, ["5", "1", "2.5"], ["4", "4", "2"])
    assert found == {
        "mae": pytest.approx((1 + 3 + 0.5) / 3),
        "rmse": pytest.approx(math.sqrt((1 + 9 + 0.25) / 3)),
    }


@pytest.mark.parametrize(("gold", "error"), [("1", 4), ("2", 3), ("3", 2), ("4", 3), ("5", 4)])
@pytest.mark.parametrize("prediction", ["", "five", "4 stars", "nan", "inf"])
def test_a_rating_that_is_no_number_counts_as_the_farther_end(prediction, gold, error):
    assert figures(3, [prediction], [gold]) == {"mae": error, "rmse": error}


def test_ratings_agree_with_scikit_learn():
    rng = random.Random(1)
    golds = [str(rng.randint(1, 5)) for _ in range(200)]
    predictions = [str(rng.randint(1, 5)) for _ in golds]
    p, g = list(map(float, predictions)), list(map(float, golds))
    found = figures(3, predictions, golds)
    assert found["mae"] == pytest.approx(mean_absolute_error(g, p), abs=1e-12)
    assert found["rmse"] == pytest.approx(root_mean_squared_error(g, p), abs=1e-12)


def test_a_gold_rating_that_is_no_number_is_an_error():
    with pytest.raises(ValueError, match="gold rating 'good' is no number"):
        figures(3, ["1"], ["good"])


def test_rouge_by_hand():
    found = figures(6, ["Fix the old leak!\n"], ["leak: fix the cache"])
    # Three of four words each way; in order, "fix the" alone.
    assert found == {"rouge-1": pytest.approx(3 / 4), "rouge-L": pytest.approx(1 / 2)}


def test_rouge_does_not_stem_and_an_empty_answer_scores_nothing():
    assert figures(4, ["fixes", ""], ["fixed", "a word"]) == {"rouge-1": 0, "rouge-L": 0}


def test_rouge_is_the_mean_of_the_package_s_f_measures():
    # Real sentences: the lines of this project's own licence.
    licence = Path(__file__).parents[2] / "LICENSE"
    lines = [line for line in licence.read_text().splitlines() if len(line.split()) > 6][:120]
    golds, predictions = lines[::2], lines[1::2]
    found = figures(5, predictions, golds)
    scorer = RougeScorer(["rouge1", "rougeL"], use_stemmer=False)
    scores = [scorer.score(g.strip(), p.strip()) for g, p in zip(golds, predictions, strict=True)]
    assert len(scores) > 50
    for name, key in (("rouge-1", "rouge1"), ("rouge-L", "rougeL")):
        mean = np.mean([score[key].fmeasure for score in scores])
        assert found[name] == pytest.approx(mean, abs=1e-12)
        assert 0 < mean < 1


def test_values_of_many_sums_at_once_are_those_of_each():
    golds, predictions = ["comedy", "action", "classic"], ["comedy", "classic", "classic"]
    for metric in metrics_of(2, golds):
        table = metric.statistics(predictions, golds)
        sums = np.stack([[table[0], table[:2].sum(0)], [table[1:].sum(0), table.sum(0)]])
        values = metric.value(sums)
        assert values.shape == (2, 2)
        for place in np.ndindex(2, 2):
            assert values[place] == metric.value(sums[place])


def test_predictions_and_golds_of_unequal_number_are_refused():
    for task in (1, 3, 4):
        for metric in metrics_of(task):
            with pytest.raises(ValueError, match="zip"):
                metric.statistics(["1"], ["1", "2"])


@pytest.mark.parametrize("task", range(1, 8))
def test_no_question_is_no_figure(task):
    for metric in metrics_of(task):
        assert np.isnan(metric.value(metric.statistics([], []).sum(0)))


def test_nll_is_nats_a_token_over_all_questions():
    assert NLL.value(np.array([[6.0, 2.0], [1.0, 5.0]]).sum(0)) == 1.0
    with pytest.raises(TypeError, match="not a matter of texts"):
        NLL.statistics(["a"], ["a"])
