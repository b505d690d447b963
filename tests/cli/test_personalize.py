"""`ppedge personalize` on notes that `ppedge notes` keeps."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import tiny_gguf, tiny_plug
from tests.command import Command

PROMPT = "write about rain"
ARGUMENTS = ("personalize", "--max-tokens", "6", "--seed", "1")


@pytest.fixture
def ppedge(tmp_path: Path) -> Command:
    model = tiny_gguf.write(tmp_path / "tiny.gguf")
    plug = tiny_plug.write(tmp_path / "plug", model)
    return Command(tmp_path / "home", {"PPEDGE_MODEL": str(model), "PPEDGE_PLUG": str(plug)})


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    path = tmp_path / "notes.jsonl"
    path.write_text('{"text": "the bread is out."}\n{"text": "no rain today"}\n')
    return path


def test_kept_notes_answer_as_their_file_does(ppedge: Command, notes: Path) -> None:
    assert ppedge("notes", "add", notes).returncode == 0
    kept = ppedge(*ARGUMENTS, PROMPT)
    assert kept.returncode == 0
    assert kept.stdout == ppedge(*ARGUMENTS, "--history", notes, PROMPT).stdout


def test_kept_notes_may_lie_elsewhere(ppedge: Command, notes: Path, tmp_path: Path) -> None:
    folder = tmp_path / "elsewhere"
    assert ppedge("notes", "add", "--persona", folder, notes).returncode == 0
    done = ppedge(*ARGUMENTS, "--persona", folder, PROMPT)
    assert done.returncode == 0
    assert not (tmp_path / "home").exists()


def test_without_any_notes_it_says_how_to_give_some(ppedge: Command) -> None:
    done = ppedge(*ARGUMENTS, PROMPT)
    assert done.returncode == 2
    assert b"give --history FILE, keep some with `ppedge notes add FILE`" in done.stderr


def test_a_folder_that_keeps_no_notes_is_one_line(ppedge: Command, tmp_path: Path) -> None:
    done = ppedge(*ARGUMENTS, "--persona", tmp_path / "none", PROMPT)
    assert done.returncode == 1
    assert b"no persona here" in done.stderr


def test_history_and_persona_exclude_each_other(ppedge: Command, notes: Path) -> None:
    done = ppedge(*ARGUMENTS, "--persona", "x", "--history", notes, PROMPT)
    assert done.returncode == 2
    assert b"not both" in done.stderr


def test_a_larger_context_can_be_asked_for(ppedge: Command) -> None:
    prompt = "rain " * 30
    done = ppedge(*ARGUMENTS, "--no-persona", "--context", "64", prompt)
    assert done.returncode == 1
    assert b"--context" in done.stderr
    assert ppedge(*ARGUMENTS, "--no-persona", "--context", "256", prompt).returncode == 0
