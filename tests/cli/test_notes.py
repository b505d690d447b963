import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from ppedge.cli.main import Group
from ppedge.cli.notes import notes
from ppedge.notes.reader import Note, read_notes
from ppedge.store.persona import Persona
from ppedge.store.rows import Space

LINES = [
    {"text": "first note", "id": "a", "time": "2024-05-01"},
    {"input": "what?", "output": "second ANSWER", "time": 1700000000},
    {"text": "third"},
]


class SmallPlug:
    """Stands where the plug's ONNX encoder does: 4-wide keys, 6-wide values, by a hash."""

    def __init__(self, path, n_threads=None, late=False):
        self.name = Path(path).name
        null = np.zeros(6, np.float16)
        self.space = Space(4, 6, "e" * 64, self.name[0] * 64, null[:4], null)

    def encode_notes(self, asked):
        for note in asked:
            rng = np.random.default_rng(int(note.digest[:12], 16))
            yield rng.standard_normal(4, np.float32), rng.standard_normal(6, np.float32)


@pytest.fixture
def run(monkeypatch, tmp_path):
    """Run `ppedge notes ...`; returns (exit code, stdout, stderr)."""
    plugs = type("plugs", (), {"Plug": SmallPlug})
    monkeypatch.setitem(__import__("sys").modules, "ppedge.plug.plug", plugs)
    monkeypatch.setenv("PPEDGE_PLUG", str(tmp_path / "plug"))
    monkeypatch.setenv("PPEDGE_HOME", str(tmp_path / "home"))
    # As of the whole command: click keeps what a command's help option is called.
    names = {"help_option_names": ["-h", "--help"]}
    main = Group(commands={"notes": notes}, context_settings=names)

    def invoke(*arguments, stdin=None):
        result = CliRunner().invoke(main, ["notes", *arguments], input=stdin)
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result.exit_code, result.stdout, result.stderr

    return invoke


@pytest.fixture
def history(tmp_path):
    path = tmp_path / "notes.jsonl"
    path.write_text("\n".join(map(json.dumps, LINES)))
    return str(path)


@pytest.fixture
def filled(run, history):
    assert run("add", history)[0] == 0
    return run


def answer(result):
    code, out, _ = result
    assert code == 0
    return json.loads(out)


def test_add_says_what_it_did_and_a_second_time_that_nothing_was_new(run, history):
    assert run("add", history) == (0, "added 3, encoded 3, notes 3\n", "")
    assert run("add", history) == (0, "unchanged 3, notes 3\n", "")


def test_add_reads_stdin_and_reports_as_json(run):
    report = answer(run("add", "-", "--json", stdin='{"text": "from stdin"}'))
    assert report == {
        "added": 1,
        "changed": 0,
        "removed": 0,
        "unchanged": 0,
        "encoded": 1,
        "notes": 1,
        "skipped": 0,
    }


def test_the_store_lies_in_the_data_folder_or_where_persona_says(run, history, tmp_path):
    run("add", history)
    assert (tmp_path / "home/personas/default/notes.db").exists()
    run("add", history, "--persona", str(tmp_path / "elsewhere"))
    with Persona.open(tmp_path / "elsewhere") as persona:
        assert len(persona) == 3


def test_a_bad_line_stops_with_one_line_on_stderr(run):
    code, out, err = run("add", "-", stdin='{"text": "good"}\n{"text": 5}\n')
    assert (code, out) == (1, "")
    assert err == 'Error: stdin, line 2: field "text" is a number; write text in double quotes\n'


def test_skip_bad_goes_on_and_says_what_it_skipped(run):
    code, out, err = run("add", "-", "--skip-bad", stdin='{"text": "good"}\n{"text": 5}\n')
    assert (code, out) == (0, "added 1, encoded 1, notes 1, skipped 1\n")
    assert "ppedge: skipped: stdin, line 2" in err
    assert "ppedge: skipped 1 bad lines" in err


def test_a_missing_file_is_one_line(run, tmp_path):
    code, _, err = run("add", str(tmp_path / "absent.jsonl"))
    assert code == 1
    assert re.fullmatch(r"Error: .*absent\.jsonl: cannot be read: No such file .*\n", err)


def test_sync_forgets_what_the_file_no_longer_holds(filled):
    report = answer(filled("sync", "-", "--json", stdin='{"text": "third"}'))
    assert (report["removed"], report["unchanged"], report["encoded"]) == (2, 1, 0)
    assert "first note" not in filled("list")[1]


def test_list_prints_one_line_a_note(filled):
    code, out, err = filled("list")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0] == "a  2024-05-01T00:00:00+00:00  -  first note"
    assert re.fullmatch(r"sha256:[0-9a-f]{16}  2023-11-14T22:13:20\+00:00  -  second.*", lines[1])


def test_list_takes_criteria_and_prints_json_lines(filled):
    def found(*arguments):
        return [
            json.loads(line)["output"]
            for line in filled("list", "--json", *arguments)[1].splitlines()
        ]

    assert found("--text", "answer") == ["second ANSWER"]
    assert found("--after", "2024-01-01") == ["first note"]
    assert found("--before", "1714521600") == ["second ANSWER"]
    assert found() == ["first note", "second ANSWER", "third"]


def test_list_shows_no_control_characters(run):
    run("add", "-", stdin=json.dumps({"text": "a\nb\x1b[31mred", "id": "x\ty"}))
    assert run("list")[1] == "x y  -  -  a b [31mred\n"


def test_a_time_that_is_none_is_a_usage_error(filled):
    code, _, err = filled("list", "--after", "yesterday")
    assert code == 2
    assert 'field "time" is "yesterday"; write ISO 8601' in err


def test_forget_asks_and_does_nothing_on_no(filled):
    code, out, err = filled("forget", "a", stdin="n\n")
    assert (code, out) == (1, "")
    assert "first note" in err
    assert "Forget 1 of 3 notes?" in err
    assert len(filled("list")[1].splitlines()) == 3


def test_forget_prints_the_receipt_and_saves_it(filled, tmp_path):
    code, out, _ = filled("forget", "a", "--yes", "--receipt", str(tmp_path / "receipt.json"))
    assert code == 0
    assert out.startswith("forgot 1 notes, 2 are left\n  a\ntime   20")
    receipt = json.loads((tmp_path / "receipt.json").read_text())
    assert receipt["ids"] == ["a"]
    assert receipt["store_after"] in out
    assert receipt["store_before"] != receipt["store_after"]


def test_forget_by_words_confirmed_on_stdin_prints_json_alone(filled):
    receipt = answer(filled("forget", "--text", "THIRD", "--json", stdin="y\n"))
    assert receipt["notes"] == 2
    assert answer(filled("stats", "--json"))["store_hash"] == receipt["store_after"]


def test_forget_all_empties_the_store(filled):
    assert answer(filled("forget", "--all", "--yes", "--json"))["notes"] == 0


@pytest.mark.parametrize("arguments", [[], ["--all", "a"], ["--all", "--text", "x"]])
def test_forget_without_a_clear_choice_is_a_usage_error(filled, arguments):
    assert filled("forget", "--yes", *arguments)[0] == 2
    assert len(filled("list")[1].splitlines()) == 3


def test_forget_of_an_unknown_id_is_one_line_and_forgets_nothing(filled):
    code, _, err = filled("forget", "--yes", "a", "nobody")
    assert (code, err) == (1, 'Error: no note has the id "nobody"; see `ppedge notes list`\n')
    assert len(filled("list")[1].splitlines()) == 3


def test_a_receipt_that_cannot_be_written_stops_the_forgetting(filled, tmp_path):
    code, _, err = filled("forget", "a", "--yes", "--receipt", str(tmp_path / "no" / "where.json"))
    assert code == 1
    assert "where.json: No such file" in err
    assert len(filled("list")[1].splitlines()) == 3


def test_stats_are_printed_for_people_and_for_programs(filled):
    code, out, _ = filled("stats")
    assert code == 0
    assert re.search(r"^notes: +3$", out, re.M)
    assert re.search(r"^latest: +2024-05-01T00:00:00\+00:00$", out, re.M)
    assert answer(filled("stats", "--json"))["notes"] == 3


def test_export_reads_back_to_the_same_notes(filled, tmp_path, run):
    code, out, _ = filled("export")
    assert code == 0
    (tmp_path / "stdout.jsonl").write_text(out)
    report = answer(filled("export", str(tmp_path / "file.jsonl"), "--json"))
    assert report["notes"] == 3
    assert (tmp_path / "file.jsonl").read_text() == out
    assert list(read_notes(tmp_path / "stdout.jsonl")) == [
        Note("first note", id="a", time=1714521600.0),
        Note("second ANSWER", "what?", time=1700000000.0),
        Note("third"),
    ]
    assert run("add", str(tmp_path / "file.jsonl"))[1] == "unchanged 3, notes 3\n"


@pytest.mark.skipif(os.name != "posix", reason="modes are of POSIX")
def test_exports_and_receipts_are_for_their_owner_alone(filled, tmp_path):
    filled("export", str(tmp_path / "copy.jsonl"))
    filled("forget", "a", "--yes", "--receipt", str(tmp_path / "receipt.json"))
    for name in ("copy.jsonl", "receipt.json"):
        assert (tmp_path / name).stat().st_mode & 0o777 == 0o600


def test_export_as_json_wants_a_file(filled):
    assert filled("export", "--json")[0] == 2


def damage(folder):
    rows = folder / "values.0"
    data = bytearray(rows.read_bytes())
    data[-1] ^= 1
    rows.write_bytes(data)


def test_verify_passes_fails_and_passes_after_repair(filled, tmp_path):
    assert filled("verify") == (0, "3 notes: no problems\n", "")
    damage(tmp_path / "home/personas/default")
    code, out, err = filled("verify")
    assert code == 1
    assert re.search(r"row 3: the vectors of note sha256:\w{16} are damaged\n3 notes: 1 ", out)
    assert "ppedge notes repair" in err
    assert filled("repair") == (0, "3 notes, 1 encoded again: no problems\n", "")
    assert answer(filled("verify", "--json")) == {"notes": 3, "problems": []}


def test_verify_can_repair_on_the_way(filled, tmp_path):
    damage(tmp_path / "home/personas/default")
    assert answer(filled("verify", "--repair", "--json"))["encoded"] == 1


def test_another_plug_is_refused_until_repair_takes_the_store_over(filled, history, tmp_path):
    other = str(tmp_path / "other")
    code, _, err = filled("add", history, "--plug", other)
    assert code == 1
    assert "made for plug pppppppppppp" in err
    assert filled("verify", "--plug", other)[0] == 1
    assert answer(filled("repair", "--plug", other, "--json"))["encoded"] == 3
    assert filled("add", history, "--plug", other)[1] == "unchanged 3, notes 3\n"


@pytest.mark.parametrize("command", ["list", "stats", "verify", "export", "repair"])
def test_a_store_that_is_not_there_is_one_line(run, command, tmp_path):
    code, out, err = run(command, "--persona", str(tmp_path / "absent"))
    assert (code, out) == (1, "")
    assert err == f"Error: {tmp_path / 'absent'}: no persona here; `ppedge notes add` makes one\n"
    assert not os.path.exists(tmp_path / "absent")


@pytest.mark.parametrize(
    "command", ["add", "sync", "forget", "list", "stats", "verify", "export", "repair"]
)
def test_every_command_has_help_and_json(run, command):
    code, out, _ = run(command, "--help")
    assert code == 0
    assert "--json" in out
