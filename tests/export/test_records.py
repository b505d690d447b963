import json
import os
import subprocess
import sys
from dataclasses import asdict, replace

import pytest

from export.evaluation.records import Journal, Record, Run
from tests.export.runs import make_run

RECORD = Record(
    id="q1",
    user="ann",
    method="persona",
    task=6,
    history=3,
    prediction="fix the leak",
    beam=None,
    nats=4.5,
    target_tokens=3,
    prompt_tokens=40,
    first_s=0.1,
    answer_s=0.5,
)
SETTINGS = {"plug": "a", "limit": 5, "methods": ("none", "persona")}


def test_a_run_loads_as_it_was_saved(tmp_path):
    run = make_run(users=3, beam=("persona",))
    run.records.append(replace(run.records[0], method="odd", prediction="né\x00 \ud83d ]]>\n"))
    run.save(tmp_path / "out.json")
    assert Run.load(tmp_path / "out.json") == run
    assert os.listdir(tmp_path) == ["out.json"]


def test_a_failed_save_leaves_the_old_file_alone(tmp_path):
    path = tmp_path / "out.json"
    run = make_run(users=2)
    run.save(path)
    before = path.read_bytes()
    run.settings["plug"] = object()
    with pytest.raises(TypeError):
        run.save(path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["out.json"]


def test_methods_come_in_the_order_of_their_records():
    assert make_run(methods=("swapped", "none"), users=2).methods == ["swapped", "none"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 2}, "saved in format 2"),
        ({"settings": []}, "field 'settings'"),
        ({"golds": {"q1": 1}}, "field 'golds'"),
        ({"golds": {}}, "question 'q1' has a record but no gold answer"),
        ({"records": []}, "no records"),
        ({"records": [[]]}, "record 1: a record must be an object"),
        ({"records": [asdict(RECORD), asdict(RECORD)]}, "two records of method 'persona'"),
        (
            {"records": [asdict(RECORD), {**asdict(RECORD), "method": "b", "task": 7}]},
            "several tasks in one run: [6, 7]",
        ),
        (
            {"records": [asdict(RECORD), {**asdict(RECORD), "nats": "4"}]},
            "record 2: field 'nats' must be a number or a whole number, not '4'",
        ),
    ],
)
def test_a_damaged_run_is_refused_in_one_line(tmp_path, change, message):
    path = tmp_path / "out.json"
    Run({}, "LaMP_6", {"q1": "fix"}, [RECORD]).save(path)
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(ValueError, match=r"^[^\n]*$") as caught:
        Run.load(path)
    assert str(caught.value).startswith(str(path))
    assert message in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "[1, 2]", '{"golds": {}}', "\udcff"])
def test_a_file_that_is_no_run_is_refused(tmp_path, text):
    path = tmp_path / "out.json"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(ValueError, match=r"not JSON|not a run"):
        Run.load(path)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("nats", float("nan")),
        ("first_s", float("inf")),
        ("answer_s", -1.0),
        ("target_tokens", 0),
        ("target_tokens", True),
        ("history", -1),
        ("history", 1.5),
        ("task", 8),
        ("prediction", None),
        ("beam", 1),
    ],
)
def test_a_record_refuses_what_no_run_can_have(field, value):
    with pytest.raises(ValueError, match=f"field '{field}'"):
        replace(RECORD, **{field: value})


def test_a_record_lacking_or_having_too_much_names_the_field(tmp_path):
    path = tmp_path / "out.json"
    run = Run({}, "LaMP_6", {"q1": "fix"}, [RECORD])
    run.save(path)
    whole = json.loads(path.read_text())
    whole["records"][0]["colour"] = "red"
    path.write_text(json.dumps(whole))
    with pytest.raises(ValueError, match="record 1: unknown field 'colour'"):
        Run.load(path)
    del whole["records"][0]["user"]
    path.write_text(json.dumps(whole))
    with pytest.raises(ValueError, match="record 1: field 'user' is missing"):
        Run.load(path)


def test_a_journal_goes_on_from_what_it_holds(tmp_path):
    out = tmp_path / "out.json"
    other = replace(RECORD, id="q2", prediction="zwei\nZeilen \ud83d")
    with Journal(out, SETTINGS) as journal:
        assert journal.path.name == "out.jsonl"
        journal.add(RECORD)
    with Journal(out, SETTINGS) as journal:
        assert journal.done() == {("q1", "persona")}
        journal.add(other)
    with Journal(out, SETTINGS) as journal:
        assert journal.records == [RECORD, other]


def test_a_journal_takes_a_question_and_method_once(tmp_path):
    with Journal(tmp_path / "out.json", SETTINGS) as journal:
        journal.add(RECORD)
        with pytest.raises(ValueError, match="question 'q1' has two records"):
            journal.add(RECORD)
        assert journal.records == [RECORD]


def test_two_processes_at_once_leave_a_journal_that_goes_on(tmp_path):
    out = tmp_path / "out.json"
    other = replace(RECORD, id="q2")
    with Journal(out, SETTINGS) as one, Journal(out, SETTINGS) as two:
        one.add(RECORD)
        two.add(replace(RECORD, first_s=9.0))
        two.add(other)
    with Journal(out, SETTINGS) as journal:
        assert journal.records == [RECORD, other]


def test_a_journal_cut_at_any_byte_keeps_its_whole_lines(tmp_path):
    out = tmp_path / "out.json"
    records = [replace(RECORD, id=f"q{i}") for i in range(2)]
    with Journal(out, SETTINGS) as journal:
        for record in records:
            journal.add(record)
    path, whole = journal.path, journal.path.read_bytes()
    for end in range(len(whole)):
        path.write_bytes(whole[:end])
        kept = max(0, whole[:end].count(b"\n") - 1)
        with Journal(out, SETTINGS) as journal:
            assert journal.records == records[:kept]
            for record in records[kept:]:
                journal.add(record)
        assert path.read_bytes() == whole


def test_a_killed_process_leaves_every_record_it_added(tmp_path):
    out = tmp_path / "out.json"
    code = (
        "import os, sys; from pathlib import Path; from dataclasses import replace\n"
        "from export.evaluation.records import Journal, Record\n"
        f"journal = Journal(Path(sys.argv[1]), {SETTINGS!r})\n"
        f"record = {RECORD!r}\n"
        "for i in range(5): journal.add(replace(record, id=f'q{i}'))\n"
        "os.kill(os.getpid(), 9)\n"
    )
    subprocess.run([sys.executable, "-c", code, str(out)], check=False)
    with Journal(out, SETTINGS) as journal:
        assert journal.done() == {(f"q{i}", "persona") for i in range(5)}


def test_a_journal_names_the_settings_that_differ(tmp_path):
    out = tmp_path / "out.json"
    Journal(out, SETTINGS).close()
    before = out.with_name("out.jsonl").read_bytes()
    with pytest.raises(ValueError, match=r"other settings \(limit, seed\)"):
        Journal(out, {**SETTINGS, "limit": 6, "seed": None})
    assert out.with_name("out.jsonl").read_bytes() == before


@pytest.mark.parametrize("line", [b"{torn", b'{"id": "q1"}', b"\xff\xfe"])
def test_a_bad_line_within_a_journal_is_named(tmp_path, line):
    with Journal(tmp_path / "out.json", SETTINGS) as journal:
        journal.add(RECORD)
    path = journal.path
    path.write_bytes(path.read_bytes() + line + b"\n" + path.read_bytes().split(b"\n")[1] + b"\n")
    with pytest.raises(ValueError, match=r"out\.jsonl, line 3: "):
        Journal(tmp_path / "out.json", SETTINGS)


def test_a_file_that_is_no_journal_is_not_written_to(tmp_path):
    path = tmp_path / "out.jsonl"
    path.write_text("[]\nsomething else\n")
    with pytest.raises(ValueError, match="line 1: not a journal's settings; delete"):
        Journal(tmp_path / "out.json", SETTINGS)
    assert path.read_text() == "[]\nsomething else\n"
