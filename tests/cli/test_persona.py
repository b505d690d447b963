"""`ppedge persona`, and the name of a persona wherever one is taken."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.command import PPEDGE, Command

NOTES = '{"text": "the bread is out.", "id": "b1"}\n{"text": "no rain today", "id": "r1"}\n'
COLD = ("--temperature", "0", "--max-tokens", "6")
PROMPT = "write about rain"


@pytest.fixture
def history(tmp_path: Path) -> Path:
    path = tmp_path / "notes.jsonl"
    path.write_text(NOTES)
    return path


def listed(ppedge: Command) -> dict[str, Any]:
    lines = ppedge.good("persona", "list", "--json").splitlines()
    return {each["name"]: each for each in map(json.loads, lines)}


def test_a_persona_is_made_listed_renamed_and_deleted(ppedge: Command, history: Path) -> None:
    assert ppedge.good("persona", "list") == ""
    made = ppedge.good("persona", "new", "Work Mail")
    assert made.startswith("made Work Mail; give it notes with")
    ppedge.good("notes", "add", history, "--persona", "work mail")
    ppedge.good("notes", "pin", "b1", "--persona", "Work Mail")
    ppedge.good("notes", "mute", "r1", "--persona", "Work Mail")
    [entry] = listed(ppedge).values()
    assert (entry["notes"], entry["pinned"], entry["muted"], entry["problem"]) == (2, 1, 1, None)
    assert ppedge.good("persona", "list").startswith("Work Mail  2 notes, 1 pinned, 1 muted, ")
    assert ppedge.good("persona", "rename", "work mail", "Büro") == "work mail is now called Büro\n"
    assert list(listed(ppedge)) == ["Büro"]
    assert ppedge.good("persona", "delete", "büro", "--yes") == "deleted Büro\n"
    assert listed(ppedge) == {}
    assert [entry.name for entry in (ppedge.home / "personas").iterdir()] == [".lock"]


def test_deleting_asks_first(ppedge: Command, history: Path) -> None:
    ppedge.good("notes", "add", history, "--persona", "work")
    done = ppedge("persona", "delete", "work", stdin=b"n\n")
    assert done.returncode == 1
    assert b'Delete persona "work" and its 2 notes?' in done.stderr
    assert list(listed(ppedge)) == ["work"]
    assert ppedge("persona", "delete", "work", stdin=b"").returncode == 1
    assert ppedge.good("persona", "delete", "work", stdin=b"y\n") == "deleted work\n"
    assert listed(ppedge) == {}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("new", "a/b"), 'cannot be the name of a persona: it holds "/"'),
        (("new", "nul"), "Windows keeps that name for itself"),
        (("new", "WORK"), 'there is a persona "work" already'),
        (("rename", "absent", "x"), 'no persona "absent"'),
        (("rename", "work", ".."), "it must begin with a letter or a digit"),
        (("rename", "work", "other"), 'there is a persona "other" already'),
        (("delete", "absent"), 'no persona "absent"'),
        (("export", "absent", "x.zip"), 'no persona "absent"'),
        (("import", "absent.zip", "new"), "no such file"),
    ],
)
def test_what_cannot_be_done_is_one_line(
    ppedge: Command, words: tuple[str, ...], said: str
) -> None:
    for name in ("work", "other"):
        ppedge.good("persona", "new", name)
    assert said in ppedge.error("persona", *words)
    assert list(listed(ppedge)) == ["other", "work"]


def test_a_name_is_taken_wherever_a_folder_is(
    ppedge: Command, history: Path, tmp_path: Path
) -> None:
    there = ("--persona", "work")
    ppedge.good("notes", "add", history, *there)
    assert ppedge.json("notes", "stats", *there)["notes"] == 2
    ppedge.good("notes", "verify", *there)
    ppedge.good("notes", "sync", history, *there)
    assert ppedge.good("notes", "export", *there).count("\n") == 2
    (tmp_path / "more.md").write_text("another note of mine")
    ppedge.good("notes", "import", tmp_path / "more.md", *there)
    assert ppedge.json("notes", "forget", "more.md", "--yes", *there)["notes"] == 2
    asked = ppedge.good("personalize", *there, *COLD, PROMPT)
    assert ppedge.good("chat", *there, *COLD, stdin=f"{PROMPT}\n".encode()) == asked
    assert "r1" in ppedge.good("why", *there, PROMPT)
    assert ppedge.good("personalize", "--history", history, *COLD, PROMPT) == asked
    assert not (ppedge.home / "personas" / "default").exists()


def test_an_unknown_name_is_told_with_those_there_are(ppedge: Command, history: Path) -> None:
    ppedge.good("notes", "add", history, "--persona", "work")
    for words in (("personalize", PROMPT), ("why", PROMPT), ("chat",)):
        said = ppedge.error(*words, "--persona", "wrok", code=2)
        assert 'no persona "wrok" (kept are: work)' in said
    assert "no persona here" in ppedge.error("notes", "list", "--persona", "wrok")
    said = ppedge.error("notes", "list", "--persona", "a:b", code=2)
    assert 'it holds ":"' in said
    assert "./a:b" in said


def test_a_word_is_a_name_and_what_has_a_separator_a_folder(
    ppedge: Command, history: Path, tmp_path: Path
) -> None:
    here = tmp_path / "here"
    here.mkdir()

    def notes(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [PPEDGE, "notes", *words],
            cwd=here,
            env=ppedge.environment(),
            capture_output=True,
            text=True,
            check=True,
        )

    def count(named: str) -> int:
        return int(json.loads(notes("stats", "--json", "--persona", named).stdout)["notes"])

    notes("add", str(history), "--persona", f".{os.sep}mine")
    assert (here / "mine" / "notes.db").exists()
    # Nobody is called so, and a folder is: as before there were names.
    assert count("mine") == 2
    notes("add", str(history), "--persona", "work")
    assert (ppedge.home / "personas" / "work" / "notes.db").exists()
    ppedge.good("persona", "new", "mine")
    assert count("./mine") == 2
    done = subprocess.run(
        [PPEDGE, "notes", "stats", "--persona", "mine"],
        cwd=here,
        env=ppedge.environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "mine is a kept persona, and a folder here: the persona is meant" in done.stderr


def test_an_export_comes_back_under_another_name(
    ppedge: Command, history: Path, tmp_path: Path
) -> None:
    ppedge.good("notes", "add", history, "--persona", "work")
    ppedge.good("notes", "pin", "r1", "--persona", "work")
    file = tmp_path / "work.zip"
    assert ppedge.json("persona", "export", "work", file) == {"file": str(file), "notes": 2}
    assert "there is a file of that name" in ppedge.error("persona", "export", "work", file)
    report = ppedge.json("persona", "import", file, "copy")
    assert report == {"name": "copy", "notes": 2, "encoded": 2}
    assert listed(ppedge)["copy"]["pinned"] == 1
    assert 'a persona "copy" already' in ppedge.error("persona", "import", file, "COPY")
    ours, theirs = (
        ppedge.json("notes", "stats", "--persona", name)["store_hash"] for name in ("work", "copy")
    )
    assert ours == theirs


def test_a_persona_that_cannot_be_read_is_listed_with_its_problem(
    ppedge: Command, history: Path
) -> None:
    ppedge.good("notes", "add", history, "--persona", "work")
    (ppedge.home / "personas" / "work" / "notes.db").write_bytes(b"no database" * 999)
    entry = listed(ppedge)["work"]
    assert "file is not a database" in entry["problem"]
    assert "work  cannot be read: " in ppedge.good("persona", "list")
    done = ppedge("persona", "delete", "work", stdin=b"y\n")
    assert b"and what cannot be read of it?" in done.stderr
    assert listed(ppedge) == {}


@pytest.mark.parametrize("command", ["personalize", "chat"])
def test_no_persona_needs_none(ppedge: Command, command: str) -> None:
    words = [PROMPT] if command == "personalize" else []
    ppedge.good(command, "--no-persona", "--incognito", *COLD, *words, stdin=b"hello\n")
    assert not ppedge.home.exists() or not list(ppedge.home.rglob("notes.db"))
