import json
from dataclasses import asdict, replace

import pytest

from export.evaluation.records import Run
from export.experiments.compare import compare, main, remarks
from tests.export.runs import make_run


def shifted(run: Run, nats_per_token: float) -> Run:
    return replace(
        run,
        records=[replace(r, nats=r.nats + nats_per_token * r.target_tokens) for r in run.records],
    )


def test_a_run_does_not_differ_from_itself():
    run = make_run(users=12)
    changes = compare(run, run, None, 0)
    assert {change.method for change in changes} == set(run.methods)
    for change in changes:
        assert asdict(change.difference) == {"value": 0.0, "low": 0.0, "high": 0.0}
        assert change.a == change.b


def test_the_difference_is_b_less_a_and_paired():
    run = make_run(users=12)
    changes = compare(run, shifted(run, -0.25), "persona", 0)
    assert [change.metric for change in changes] == ["rouge-1", "rouge-L", "nll"]
    nll = changes[-1]
    assert nll.b.value - nll.a.value == pytest.approx(-0.25)
    assert list(asdict(nll.difference).values()) == pytest.approx([-0.25] * 3)
    assert not nll.higher_is_better


def test_only_common_questions_count():
    whole = make_run(users=20)
    half = replace(whole, records=[r for r in whole.records if int(r.user[4:]) < 10])
    for change in compare(whole, shifted(half, 1.0), None, 0):
        assert (change.questions, change.users) == (30, 10)
        assert (change.a_questions, change.b_questions) == (60, 30)
        if change.metric == "nll":
            assert change.difference.value == pytest.approx(1.0)
    said = remarks(whole, half, compare(whole, half, None, 0))
    assert "none: A answered 60 questions, B 30; the 30 that are in both are compared" in said


def test_beam_answers_are_compared_with_beam_answers():
    a = make_run(methods=("none", "persona"), users=12, beam=("persona",))
    b = make_run(methods=("none", "persona"), users=12, beam=("none", "persona"), luck=1)
    methods = list(dict.fromkeys(change.method for change in compare(a, b, None, 0)))
    assert methods == ["none", "persona", "persona (beam)"]
    assert {c.method for c in compare(a, b, "persona", 0)} == {"persona", "persona (beam)"}


def test_settings_that_differ_and_methods_of_one_side_are_said():
    a = make_run(methods=("none", "persona"), users=4, plug="a", limit=4)
    b = make_run(methods=("swapped", "none"), users=4, plug="b", limit=4, threads=2)
    said = remarks(a, b, compare(a, b, None, 0))
    assert "setting plug: A 'a', B 'b'" in said
    assert "setting threads: A 'unset', B 2" in said
    assert not any("limit" in remark for remark in said)
    assert "only in A: persona" in said
    assert "only in B: swapped" in said


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda run: make_run(users=4, task=4), "A is of the task LaMP_6_style, B of LaMP_4_style"),
        (lambda run: replace(run, golds={**run.golds, "0-0": "x"}), "question '0-0' has another"),
        (
            lambda run: replace(run, records=[replace(r, user="eve") for r in run.records]),
            "of user 'user0' in A and of 'eve' in B",
        ),
        (
            lambda run: replace(
                run,
                golds={f"x{i}": gold for i, gold in run.golds.items()},
                records=[replace(r, id=f"x{r.id}") for r in run.records],
            ),
            "no question in common",
        ),
        (
            lambda run: replace(run, records=[replace(r, method="other") for r in run.records[:3]]),
            "do not both have a method",
        ),
    ],
)
def test_runs_of_other_data_are_refused(change, message):
    run = make_run(users=4)
    with pytest.raises(ValueError, match=message):
        compare(run, change(run), None, 0)


def test_a_method_that_one_run_lacks_is_refused():
    with pytest.raises(ValueError, match="do not both have the method 'lora': A has none"):
        compare(make_run(users=3), make_run(users=3), "lora", 0)


def test_methods_that_answered_other_questions_are_refused():
    run = make_run(methods=("none", "persona"), users=4)
    early = [r for r in run.records if r.method == "none"] + run.records[-3:]
    late = [r for r in run.records if r.method == "persona"][:3]
    with pytest.raises(ValueError, match="no question in common by any method"):
        compare(replace(run, records=early), replace(run, records=late), "persona", 0)


def test_the_command_prints_and_writes_the_same_figures(tmp_path, capsys):
    a, b = make_run(users=12, plug="a"), make_run(users=12, luck=1, plug="b")
    a.save(tmp_path / "a.json")
    b.save(tmp_path / "b.json")
    main([str(tmp_path / "a.json"), str(tmp_path / "b.json"), "--json", str(tmp_path / "c.json")])
    text = capsys.readouterr().out
    written = json.loads((tmp_path / "c.json").read_text())
    changes = compare(a, b, None, 0)
    assert written["changes"] == [asdict(change) for change in changes]
    lines = text.splitlines()[2 : 2 + len(changes)]
    for line, change in zip(lines, changes, strict=True):
        assert f"{change.a.value:.3f} | {change.b.value:.3f} |" in line
        assert f"{change.difference.value:+.3f} [{change.difference.low:+.3f}" in line
    assert "- setting plug: A 'a', B 'b'" in text


def test_the_command_refuses_in_one_line(tmp_path, capsys):
    make_run(users=3).save(tmp_path / "a.json")
    make_run(users=3, task=4).save(tmp_path / "b.json")
    for name in ("b.json", "missing.json"):
        with pytest.raises(SystemExit) as caught:
            main([str(tmp_path / "a.json"), str(tmp_path / name)])
        assert str(caught.value).startswith("export.experiments.compare: ")
        assert "\n" not in str(caught.value)
    assert capsys.readouterr().out == ""
