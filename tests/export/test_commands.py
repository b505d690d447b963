"""What the commands share: one line for every failure, and files that are whole or untouched."""

import argparse
import os

import pytest

from export import report
from export.experiments import compare
from export.tools.commands import (
    check_output,
    check_seed,
    later_seed,
    one_line_errors,
    positive,
    renamed,
    replacing,
)
from ppedge.errors import ModelError
from ppedge.llm.sampling import MAX_SEED


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ModelError("tiny.gguf: damaged"), "export.x: tiny.gguf: damaged"),
        (ValueError("a.json: no list"), "export.x: a.json: no list"),
        (FileNotFoundError(2, "No such file", "a.json"), "export.x: a.json: No such file"),
        (OSError("disk gone"), "export.x: disk gone"),
    ],
)
def test_what_users_can_cause_is_told_in_one_line(error, line):
    with pytest.raises(SystemExit) as caught, one_line_errors("export.x"):
        raise error
    assert caught.value.code == line


def test_a_mistake_of_ours_keeps_its_traceback():
    with pytest.raises(KeyError), one_line_errors("export.x"):
        raise KeyError("ours")


def test_an_interrupt_is_told_in_one_line_where_there_is_something_to_say(capsys):
    with pytest.raises(SystemExit) as caught, one_line_errors("export.x", stopped="all is there"):
        raise KeyboardInterrupt
    assert caught.value.code == 130
    assert capsys.readouterr().err == "export.x: stopped; all is there\n"
    with pytest.raises(KeyboardInterrupt), one_line_errors("export.x"):
        raise KeyboardInterrupt


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path):
    path = tmp_path / "a.json"
    path.write_text("old")
    with pytest.raises(UnicodeEncodeError), replacing(path, encoding="ascii") as file:
        file.write("half, and then é")
    assert path.read_text() == "old"
    with replacing(path) as file:
        file.write("new")
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("old", ["old", None])
def test_through_a_link_its_target_is_replaced(tmp_path, old):
    target, link = tmp_path / "a.json", tmp_path / "link.json"
    if old is not None:
        target.write_text(old)
    link.symlink_to(target)
    with replacing(link) as file:
        file.write("new")
    assert link.is_symlink()
    assert target.read_text() == "new"


def test_a_pipe_is_written_to_and_stays_one(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    end = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    with replacing(pipe) as file:
        file.write("new")
    assert os.read(end, 9) == b"new"
    os.close(end)
    assert pipe.is_fifo()


@pytest.mark.parametrize("word", ["0", "-1", "1.5", "x", ""])
def test_counts_are_whole_and_above_0(word):
    with pytest.raises(argparse.ArgumentTypeError, match="must be a whole number above 0"):
        positive(word)
    assert positive("12") == 12


def test_seeds_and_outputs_are_checked_before_anything_runs(tmp_path, capsys):
    parser = argparse.ArgumentParser(prog="x")
    for check, value, said in (
        (check_seed, -1, "--seed must be 0 to 4294967294, not -1"),
        (check_seed, 2**32 - 1, "--seed must be 0 to 4294967294, not 4294967295"),
        (check_output, tmp_path, "is a folder; name a file"),
        (check_output, tmp_path / "no" / "a.json", "there is no folder"),
    ):
        with pytest.raises(SystemExit) as caught:
            check(parser, value)
        assert caught.value.code == 2
        assert said in capsys.readouterr().err
    check_seed(parser, 0)
    check_output(parser, None)
    check_output(parser, tmp_path / "a.json")


@pytest.mark.parametrize(
    ("command", "words"),
    [(compare.main, ["a.json", "b.json", "--json"]), (report.main, ["a.json"])],
)
def test_saved_runs_are_read_with_the_same_care(command, words, tmp_path, capsys):
    good, bad = str(tmp_path / "out"), str(tmp_path)
    for more, said in (([good, "--seed", "-1"], "--seed must be"), ([bad], "is a folder")):
        with pytest.raises(SystemExit) as caught:
            command([*words, *more])
        assert caught.value.code == 2
        assert said in capsys.readouterr().err


def test_seeds_go_on_at_0_behind_the_last_one():
    assert [later_seed(3, number) for number in (0, 9)] == [3, 12]
    assert [later_seed(MAX_SEED, number) for number in (0, 1, 9)] == [MAX_SEED, 0, 8]


def test_options_by_their_old_names_are_taken_with_a_note(capsys):
    words = ["--data", "d", "--habits=0.25", "--corpus", "--habits-like"]
    new = {"--habits": "--style-transfer", "--corpus": "--corpus"}
    assert renamed(words, new) == [
        "--data",
        "d",
        "--style-transfer=0.25",
        "--corpus",
        "--habits-like",
    ]
    told = capsys.readouterr().err.splitlines()
    assert told == [
        "note: --habits is now called --style-transfer",
        "note: --corpus is now called --corpus",
    ]
