import numpy as np
import pytest

from export.evaluation.bootstrap import difference, estimate
from export.evaluation.metrics import metrics_of

MEAN = metrics_of(1)[0].value  # sums [..., (total, count)] to their ratio


def rows(values) -> np.ndarray:
    values = np.asarray(values, np.float64)
    return np.stack([values, np.ones_like(values)], axis=1)


def people(rng: np.random.Generator, users: int) -> tuple[np.ndarray, list[str]]:
    """Values with mean 0: each user has a level of their own, shared by 1 to 8 questions."""
    asked = rng.integers(1, 9, users)
    names = [f"user {i}" for i in range(users) for _ in range(asked[i])]
    level = np.repeat(rng.normal(0, 1, users), asked)
    return level + rng.normal(0, 1, len(names)), names


def test_the_interval_covers_the_truth_95_times_in_100_though_a_user_s_answers_are_alike():
    rng = np.random.default_rng(0)
    repeats, covered = 300, 0
    for seed in range(repeats):
        values, names = people(rng, 50)
        found = estimate(rows(values), names, MEAN, seed)
        covered += found.low <= 0 <= found.high
    assert 0.92 <= covered / repeats <= 0.98


def test_drawing_questions_instead_of_users_would_promise_too_much():
    """The test above can fail: with every question its own user, coverage is far too low."""
    rng = np.random.default_rng(0)
    repeats, covered = 60, 0
    for seed in range(repeats):
        values, _ = people(rng, 50)
        found = estimate(rows(values), [str(i) for i in range(len(values))], MEAN, seed)
        covered += found.low <= 0 <= found.high
    assert covered / repeats < 0.85


def test_a_difference_is_covered_too_and_its_interval_is_the_narrower_for_being_paired():
    rng = np.random.default_rng(1)
    repeats, covered, widths = 120, 0, []
    for seed in range(repeats):
        values, names = people(rng, 40)
        better = values + 0.3 + rng.normal(0, 0.2, len(values))
        found = difference(rows(better), rows(values), names, MEAN, seed)
        covered += found.low <= 0.3 <= found.high
        a, b = (estimate(rows(side), names, MEAN, seed) for side in (better, values))
        unpaired = np.hypot(a.high - a.low, b.high - b.low)
        widths.append((found.high - found.low) / unpaired)
    assert 0.92 <= covered / repeats <= 0.98
    assert max(widths) < 0.5


def test_answers_of_one_user_given_again_do_not_narrow_the_interval():
    values, names = people(np.random.default_rng(2), 30)
    once = estimate(rows(values), names, MEAN, 0)
    tenfold = estimate(rows(np.repeat(values, 10)), list(np.repeat(names, 10)), MEAN, 0)
    for part in ("value", "low", "high"):
        assert getattr(tenfold, part) == pytest.approx(getattr(once, part), abs=1e-12)
    # Had they been other people's, it would have.
    strangers = [f"user {i}" for i in range(10 * len(values))]
    apart = estimate(rows(np.repeat(values, 10)), strangers, MEAN, 0)
    assert apart.high - apart.low < (once.high - once.low) / 2


def test_more_users_narrow_the_interval_as_the_root_of_their_number():
    widths = []
    for users in (100, 400):
        values, names = people(np.random.default_rng(3), users)
        found = estimate(rows(values), names, MEAN, 0)
        widths.append(found.high - found.low)
    assert widths[0] / widths[1] == pytest.approx(2, rel=0.2)


def test_a_metric_that_is_no_mean_is_computed_anew_in_every_draw():
    golds = ["[1]", "[2]"] * 20
    predictions = ["[1]", "[2]", "[1]", "[1]"] * 10
    users = [str(i // 2) for i in range(40)]
    f1 = metrics_of(1)[1]
    found = estimate(f1.statistics(predictions, golds), users, f1.value, 0)
    assert found.value == pytest.approx((4 / 5 + 2 / 3) / 2)
    assert found.low < found.value < found.high <= 1


def test_a_side_against_itself_differs_by_nothing():
    values, names = people(np.random.default_rng(4), 10)
    found = difference(rows(values), rows(values), names, MEAN, 0)
    assert (found.value, found.low, found.high) == (0, 0, 0)


def test_sides_swapped_turn_the_difference_round():
    rng = np.random.default_rng(5)
    values, names = people(rng, 20)
    other = values + rng.normal(0.2, 1, len(values))
    there = difference(rows(values), rows(other), names, MEAN, 0)
    back = difference(rows(other), rows(values), names, MEAN, 0)
    expected = (-there.value, -there.high, -there.low)
    assert (back.value, back.low, back.high) == pytest.approx(expected, abs=1e-12)


def test_the_seed_alone_decides_and_the_order_of_the_questions_does_not():
    values, names = people(np.random.default_rng(6), 25)
    first = estimate(rows(values), names, MEAN, 7)
    assert estimate(rows(values), names, MEAN, 7) == first
    assert estimate(rows(values), names, MEAN, 8) != first
    turned = estimate(rows(values[::-1]), names[::-1], MEAN, 7)
    assert turned.low == pytest.approx(first.low, abs=1e-12)
    assert turned.high == pytest.approx(first.high, abs=1e-12)


def test_draws_do_not_hang_on_how_many_are_in_memory_at_a_time(monkeypatch):
    values, names = people(np.random.default_rng(7), 30)
    whole = estimate(rows(values), names, MEAN, 0)
    monkeypatch.setattr("export.evaluation.bootstrap._CHUNK", 1000)
    parts = estimate(rows(values), names, MEAN, 0)
    assert (parts.low, parts.high) == pytest.approx((whole.low, whole.high), abs=1e-12)


def test_one_user_is_a_point_and_none_an_error():
    found = estimate(rows([1.0, 0.0]), ["ann", "ann"], MEAN, 0)
    assert (found.value, found.low, found.high) == (0.5, 0.5, 0.5)
    with pytest.raises(ValueError, match="0 rows and 0 users"):
        estimate(rows([]), [], MEAN, 0)


def test_sides_that_cannot_be_paired_are_refused():
    with pytest.raises(ValueError, match="pair their questions"):
        difference(rows([1.0]), rows([1.0, 2.0]), ["ann"], MEAN, 0)
    with pytest.raises(ValueError, match="2 rows and 1 users"):
        estimate(rows([1.0, 2.0]), ["ann"], MEAN, 0)
