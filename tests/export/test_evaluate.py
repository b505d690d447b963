import numpy as np
import pytest

from export.data import Question
from export.evaluate import bootstrap, show, summarise


def questions(users, task=6):
    return [Question(str(i), user, task, "in", "out", ()) for i, user in enumerate(users)]


def test_the_table_s_figures_are_the_hand_computed_ones():
    # nats: own, swapped, cold, none; then the token count
    table = np.array([[2, 4, 6, 8, 2], [4, 4, 4, 4, 2], [9, 9, 9, 12, 6]], float)
    [first, second] = summarise(questions("ab", 4) + questions("c", 6), table, seed=0)
    assert (first["own"], first["swapped"], first["cold"], first["none"]) == (1.5, 2, 2.5, 3)
    assert first["own-swapped"] == -0.5
    assert second["own-none"] == -0.5
    assert "| 4 | 2 | 2 | 1.500 | 2.000 | 2.500 | 3.000 | -0.500 [" in show([first, second])


def test_the_interval_covers_the_true_difference_about_95_times_in_100():
    rng = np.random.default_rng(0)
    covered = 0
    for trial in range(200):
        users = [str(u) for u in range(40) for _ in range(3)]
        manner = np.repeat(rng.normal(-0.1, 0.3, 40), 3)  # a user's answers go together
        counts = rng.integers(5, 15, 120).astype(float)
        nats = (manner + rng.normal(0, 0.1, 120)) * counts
        low, high = bootstrap(nats, counts, users, seed=trial)
        covered += low <= -0.1 <= high
    assert 0.89 <= covered / 200 <= 0.99


def test_one_user_s_many_questions_do_not_narrow_the_interval():
    few = bootstrap(np.array([1.0, -1.0]), np.ones(2), ["a", "b"], seed=0)
    many = bootstrap(np.repeat([1.0, -1.0], 50), np.ones(100), ["a"] * 50 + ["b"] * 50, seed=0)
    assert few == pytest.approx(many)
