from dataclasses import replace

import numpy as np
import pytest

from export.evaluation.bootstrap import difference, estimate
from export.evaluation.records import Record, Run
from export.evaluation.summary import NOTHING, common, gap, notes, series_of, show, summarise, table
from tests.export.runs import make_run


def record(id_: str, method: str, prediction: str, nats: float, **others) -> Record:
    values = {
        "user": id_[0],
        "task": 6,
        "history": 3,
        "beam": None,
        "target_tokens": 2,
        "prompt_tokens": 10,
        "first_s": 0.1,
        "answer_s": 0.4,
        **others,
    }
    return Record(id=id_, method=method, prediction=prediction, nats=nats, **values)


@pytest.fixture
def small() -> Run:
    """Two users, three questions, two methods; every figure can be worked out on paper."""
    golds = {"a1": "fix the leak", "a2": "add tests", "b1": "drop code"}
    return Run(
        {},
        "LaMP_6",
        golds,
        [
            record("a1", "none", "fix", 4.0, prompt_tokens=10, first_s=0.1, answer_s=1.0),
            record("a2", "none", "nothing", 6.0, prompt_tokens=20, first_s=0.3, answer_s=2.0),
            record("b1", "none", "drop", 2.0, prompt_tokens=60, first_s=0.2, answer_s=9.0),
            record("a1", "persona", "fix the leak", 2.0, target_tokens=4),
            record("a2", "persona", "add", 3.0),
            record("b1", "persona", "drop code", 1.0),
        ],
    )


def test_figures_are_those_worked_out_by_hand(small):
    none, persona = summarise(small, "none", 0)
    # F of precision 1 and recall 1/3, then 0, then of precision 1 and recall 1/2
    assert none.figures["rouge-1"].value == pytest.approx((1 / 2 + 0 + 2 / 3) / 3)
    assert persona.figures["rouge-1"].value == pytest.approx((1 + 2 / 3 + 1) / 3)
    assert none.figures["nll"].value == pytest.approx(12 / 6)
    assert persona.figures["nll"].value == pytest.approx(6 / 8)
    assert persona.differences["nll"].value == pytest.approx(6 / 8 - 12 / 6)
    assert (none.questions, none.users, none.prompt_tokens) == (3, 2, 30.0)
    assert (none.first_s, none.answer_s) == (0.2, 2.0)


def test_intervals_are_those_of_a_bootstrap_over_users(small):
    series = series_of(small)["none"]
    row = summarise(small, None, 5)[0]
    nats = np.array([[4.0, 2.0], [6.0, 2.0], [2.0, 2.0]])
    value = series.metrics["nll"].value
    assert row.figures["nll"] == estimate(nats, ["a", "a", "b"], value, 5)
    # Either user twice, or both: 10 nats on 4 tokens, 2 on 2, 12 on 6.
    assert row.figures["nll"].low == pytest.approx(1.0)
    assert row.figures["nll"].high == pytest.approx(2.5)


def test_a_difference_of_methods_is_paired():
    run = make_run(users=20)
    worse = [
        replace(r, method="worse", nats=r.nats + r.target_tokens / 2) for r in run.records[:60]
    ]
    row = summarise(replace(run, records=run.records[:60] + worse), "none", 0)[1]
    gain = row.differences["nll"]
    assert gain.value == pytest.approx(0.5)
    assert (gain.low, gain.high) == pytest.approx((0.5, 0.5))
    assert row.figures["nll"].high - row.figures["nll"].low > 0.05


def test_without_a_rival_there_are_no_differences():
    for row in summarise(make_run(users=3), None, 0):
        assert row.against is None
        assert row.differences == {}


def test_a_method_is_not_set_against_itself():
    rows = {row.method: row for row in summarise(make_run(users=3), "none", 0)}
    assert rows["none"].differences == {}
    assert set(rows["persona"].differences) == {"rouge-1", "rouge-L", "nll"}


def test_an_unknown_rival_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="'bm25-1' is not one of none, bm25-4, persona, swapped"):
        summarise(make_run(users=3), "bm25-1", 0)


def test_a_sampled_method_is_judged_on_what_both_answered():
    run = make_run(users=20, sample={"persona": 12})
    row = {r.method: r for r in summarise(run, "none", 0)}["persona"]
    assert (row.questions, row.users, row.run_questions, row.run_users) == (36, 12, 60, 20)
    assert (row.shared_questions, row.shared_users) == (36, 12)
    sampled = {r.id for r in run.records if r.method == "persona"}
    alone = replace(run, records=[r for r in run.records if r.id in sampled])
    assert (
        row.differences == {r.method: r for r in summarise(alone, "none", 0)}["persona"].differences
    )


def test_a_rival_that_answered_a_sample_limits_the_difference_of_the_others():
    run = make_run(users=20, sample={"persona": 12})
    rows = {r.method: r for r in summarise(run, "persona", 0)}
    assert rows["none"].questions == 60
    assert rows["none"].shared_questions == 36
    assert any(
        "none vs persona rests on the 36 questions (12 users)" in n for n in notes(rows.values())
    )


def test_methods_are_paired_by_question_whatever_their_order():
    run = make_run(users=12)
    backwards = replace(run, records=run.records[::-1])
    straight, reversed_ = (
        {r.method: r for r in summarise(each, "none", 0)}["persona"] for each in (run, backwards)
    )
    for name, figure in straight.differences.items():
        assert reversed_.differences[name].value == pytest.approx(figure.value)
    first, second = common(*(series_of(backwards)[name] for name in ("none", "persona")))
    assert first.ids == second.ids


def test_methods_without_a_common_question_have_no_difference():
    run = make_run(methods=("none", "persona"), users=12)
    half = len(run.golds) // 2
    ids = list(run.golds)
    kept = [r for r in run.records if (r.id in ids[:half]) == (r.method == "none")]
    rows = summarise(replace(run, records=kept), "none", 0)
    assert rows[1].differences == {}
    assert "persona and none have no question in common." in notes(rows)


def test_beam_answers_have_a_row_of_their_own_against_the_rivals_beams():
    run = make_run(methods=("none", "bm25-4", "persona"), users=12, beam=("none", "persona"))
    rows = {row.method: row for row in summarise(run, "none", 0)}
    assert list(rows) == ["none", "none (beam)", "bm25-4", "persona", "persona (beam)"]
    wide = rows["persona (beam)"]
    assert wide.against == "none (beam)"
    assert set(wide.figures) == {"rouge-1", "rouge-L"}
    assert (wide.first_s, wide.answer_s) == (None, None)
    found = series_of(run)
    assert wide.differences["rouge-1"] == difference(
        found["persona (beam)"].statistics["rouge-1"],
        found["none (beam)"].statistics["rouge-1"],
        found["none"].users,
        found["none"].metrics["rouge-1"].value,
        0,
    )
    assert wide.figures["rouge-1"] != rows["persona"].figures["rouge-1"]


def test_beam_answers_without_a_rivals_beams_have_no_difference():
    run = make_run(methods=("none", "persona"), users=4, beam=("persona",))
    wide = summarise(run, "none", 0)[-1]
    assert (wide.method, wide.against, wide.differences) == ("persona (beam)", None, {})


@pytest.mark.parametrize(
    ("task", "golds", "answers", "metrics"),
    [
        (1, ("[1]", "[2]"), ("[1]", "[1]"), {"accuracy": 0.5}),
        (2, ("classic", "comedy"), ("classic", "comedy"), {"accuracy": 1.0}),
        (3, ("5", "2"), ("4", "2"), {"mae": 0.5, "rmse": 0.5**0.5}),
        (7, ("so it goes", "hi"), ("so it goes", "no"), {"rouge-1": 0.5, "rouge-L": 0.5}),
    ],
)
def test_every_kind_of_task_has_its_metrics(task, golds, answers, metrics):
    ids = ["a1", "b1"]
    records = [
        record(id_, "none", answer, 1.0, task=task)
        for id_, answer in zip(ids, answers, strict=True)
    ]
    row = summarise(Run({}, f"LaMP_{task}", dict(zip(ids, golds, strict=True)), records), None, 0)[
        0
    ]
    for name, value in metrics.items():
        assert row.figures[name].value == pytest.approx(value)
    assert next(iter(row.better)) == next(iter(metrics))


def test_the_tables_numbers_are_the_rows():
    rows = summarise(make_run(users=12, beam=("persona",), sample={"swapped": 5}), "none", 0)
    head, _, *lines = show(rows).split("\n\n")[0].splitlines()
    assert head == (
        "| method | questions | users | rouge-1 ↑ | rouge-L ↑ | nll ↓ | rouge-1 vs none "
        "| nll vs none | prompt tokens | s to first token | s per answer |"
    )
    assert len(lines) == len(rows)
    for line, row in zip(lines, rows, strict=True):
        method, questions, users, *figures = [cell.strip() for cell in line.split("|")[1:-1]]
        assert (method, int(questions), int(users)) == (row.method, row.questions, row.users)
        found = [row.figures.get(name) for name in ("rouge-1", "rouge-L", "nll")]
        found += [row.differences.get(name) for name in ("rouge-1", "nll")]
        for text, figure in zip(figures[:5], found, strict=True):
            if figure is None:
                assert text == NOTHING.text
                continue
            numbers = [
                float(t)
                for t in text.strip("*").replace("[", "").rstrip("]*").replace(",", "").split()
            ]
            assert numbers == pytest.approx([figure.value, figure.low, figure.high], abs=5e-4)
        assert int(figures[5]) == round(row.prompt_tokens)
        if row.answer_s is not None:
            assert float(figures[7]) == pytest.approx(row.answer_s, abs=0.05)


def test_a_difference_stands_out_only_where_zero_lies_outside():
    rows = summarise(make_run(users=30), "none", 0)
    shown = {cells[0].text: cells[6:8] for cells in table(rows).body}
    for row in rows[1:]:
        for cell, name in zip(shown[row.method], ("rouge-1", "nll"), strict=True):
            figure = row.differences[name]
            assert cell == gap(figure)
            assert cell.strong == (not figure.low <= 0 <= figure.high)
    assert any(cell.strong for cell in shown["persona"])


def test_the_notes_say_what_a_row_rests_on():
    said = " ".join(notes(summarise(make_run(users=20, sample={"persona": 12}), "none", 0)))
    assert "persona answered a sample: 36 of 60 questions (12 of 20 users)." in said
    assert "persona vs none rests on the 36 questions (12 users) that both answered." in said
    assert "too narrow" not in said
    assert "swapped answered" not in said


def test_the_notes_warn_of_intervals_over_few_users():
    said = " ".join(notes(summarise(make_run(users=20, sample={"persona": 6}), "none", 0)))
    assert "Intervals over 6 users are too narrow" in said
