"""`ppedge notes import`, by the installed command."""

from __future__ import annotations

import json
import mailbox
import os
import time
import zipfile
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest

from ppedge.notes.importers import FORMATS
from tests import tiny_gguf, tiny_plug
from tests.command import Command

ME = "anna@example.org"
CHATS = [
    {
        "mapping": {
            "1": {
                "message": {
                    "id": "m1",
                    "author": {"role": "user"},
                    "create_time": 1714521600,
                    "content": {"content_type": "text", "parts": ["will it rain"]},
                }
            }
        }
    }
]


@pytest.fixture
def ppedge(tmp_path: Path) -> Command:
    model = tiny_gguf.write(tmp_path / "tiny.gguf")
    plug = tiny_plug.write(tmp_path / "plug", model)
    return Command(tmp_path / "home", {"PPEDGE_MODEL": str(model), "PPEDGE_PLUG": str(plug)})


@pytest.fixture
def sources(tmp_path: Path) -> list[Path]:
    """A vault, an export, a table, sent mail, and lines of JSON: seven notes."""
    folder = tmp_path / "from"
    (folder / "vault/deep").mkdir(parents=True)
    (folder / "vault/a.md").write_text("---\ndate: 2024-05-01\ntitle: wet\n---\nno rain today\n")
    (folder / "vault/deep/b.md").write_text("the bread is out\n")
    (folder / "vault/c.md").write_text("x\n")
    with zipfile.ZipFile(folder / "chats.zip", "w") as archive:
        archive.writestr("conversations.json", json.dumps(CHATS))
    (folder / "table.csv").write_text("text;id\nfrom a table;t1\n")
    box = mailbox.mbox(folder / "sent.mbox", create=True)
    for sender in (ME, "bob@example.org"):
        message = EmailMessage()
        message["From"], message["Subject"], message["Message-ID"] = sender, "rain", f"<{sender}>"
        message.set_content("see you there\n\n-- \nsigned\n")
        box.add(message)
    box.close()
    (folder / "notes.jsonl").write_text('{"text": "line one"}\n{"text": "line two"}\n')
    return sorted(folder.iterdir())


def listed(ppedge: Command) -> list[str]:
    lines = ppedge.good("notes", "list", "--json").splitlines()
    return sorted(json.loads(line)["output"] for line in lines)


ALL = ["from a table", "line one", "line two", "no rain today", "see you there"]
ALL += ["the bread is out", "will it rain"]


def test_files_and_folders_are_imported_and_a_second_time_nothing_is_new(
    ppedge: Command, sources: list[Path], tmp_path: Path
) -> None:
    done = ppedge("notes", "import", "--me", ME, *sources)
    assert (done.returncode, done.stdout) == (0, b"added 7, encoded 7, notes 7\n")
    chats, notes, sent, table, vault = sources
    assert done.stderr.decode().splitlines() == [
        f"ppedge: {chats}: chatgpt, found 1, added 1",
        f"ppedge: {notes}: jsonl, found 2, added 2",
        f"ppedge: {sent}: mbox, found 1, added 1, skipped 1 (mail of others 1)",
        f"ppedge: {table}: csv, found 1, added 1",
        f"ppedge: {vault}: markdown, found 2, added 2, skipped 1 (too short 1)",
    ]
    assert listed(ppedge) == ALL
    again = ("notes", "import", "--me", ME, *sources)
    assert ppedge.encoded(*again, folder=tmp_path) == []
    assert ppedge.good(*again) == "unchanged 7, notes 7\n"


def test_the_report_as_json(ppedge: Command, sources: list[Path]) -> None:
    report: dict[str, Any] = ppedge.json("notes", "import", "--me", ME, *sources)
    files = report.pop("files")
    assert report == {
        "added": 7,
        "changed": 0,
        "removed": 0,
        "unchanged": 0,
        "encoded": 7,
        "notes": 7,
        "dry_run": False,
    }
    assert [entry["format"] for entry in files] == ["chatgpt", "jsonl", "mbox", "csv", "markdown"]
    assert files[-1] == {
        "file": str(sources[-1]),
        "format": "markdown",
        "found": 2,
        "added": 2,
        "changed": 0,
        "unchanged": 0,
        "skipped": {"too short": 1},
        "damaged": [],
    }


def test_a_dry_run_says_what_would_be_and_stores_nothing(
    ppedge: Command, sources: list[Path], tmp_path: Path
) -> None:
    arguments = ("notes", "import", "--dry-run", "--me", ME, *sources)
    assert ppedge.good(*arguments) == "would be: added 7, notes 7\n"
    assert not (tmp_path / "home").exists()
    ppedge.good("notes", "import", sources[1])
    (tmp_path / "from/vault/a.md").write_text("still no rain")
    ppedge.good("notes", "import", tmp_path / "from/vault/deep/b.md")
    before = ppedge.json("notes", "stats")
    assert ppedge.good(*arguments) == "would be: added 5, unchanged 2, notes 8\n"
    assert ppedge.json("notes", "stats")["store_hash"] == before["store_hash"]


def test_a_changed_file_takes_the_place_of_its_note(
    ppedge: Command, sources: list[Path], tmp_path: Path
) -> None:
    ppedge.good("notes", "import", sources[-1])
    (tmp_path / "from/vault/a.md").write_text("rain at last")
    wanted = "changed 1, unchanged 1, "
    assert (
        ppedge.good("notes", "import", "--dry-run", sources[-1]) == f"would be: {wanted}notes 2\n"
    )
    assert ppedge.good("notes", "import", sources[-1]) == f"{wanted}encoded 1, notes 2\n"
    assert listed(ppedge) == ["rain at last", "the bread is out"]


def test_damage_is_told_and_passed_over(ppedge: Command, sources: list[Path]) -> None:
    chats, notes, _, table, vault = sources
    chats.write_bytes(chats.read_bytes()[:-30])
    (vault / "bad.md").write_bytes(b"\xff\xfe\xff")
    notes.write_text('{"text": "line one"}\nbroken\n{"text": "line two"}\n')
    table.write_text('text\nfrom a table\n"never closed')
    done = ppedge("notes", "import", chats, notes, table, vault)
    assert done.returncode == 1
    assert done.stdout == b"added 5, encoded 5, notes 5\n"
    said = done.stderr.decode()
    assert f"ppedge: {chats}: not read, damaged 1\n" in said
    assert f"ppedge: damaged: {chats}: the archive is damaged" in said
    assert f"ppedge: damaged: {notes}, line 2: not valid JSON" in said
    assert f"ppedge: {table}: csv, found 1, added 1, damaged 1\n" in said
    assert f"ppedge: damaged: {table}, line 3: not valid CSV" in said
    assert f"ppedge: damaged: {vault / 'bad.md'}: the file is UTF-16" in said
    assert listed(ppedge) == [text for text in ALL if text not in ("see you there", "will it rain")]
    done = ppedge("notes", "import", "--json", chats, vault)
    assert (done.returncode, done.stderr) == (1, b"")
    first, second = json.loads(done.stdout)["files"]
    assert (first["format"], first["found"], len(first["damaged"])) == (None, 0, 1)
    assert (second["format"], second["unchanged"], len(second["damaged"])) == ("markdown", 2, 1)


def test_an_unknown_file_is_wrong_usage_and_nothing_is_imported(
    ppedge: Command, sources: list[Path], tmp_path: Path
) -> None:
    unknown = tmp_path / "picture.png"
    unknown.write_bytes(b"\x89PNG")
    said = ppedge.error("notes", "import", sources[1], unknown, code=2)
    assert f"{unknown}: of no format that is known ({', '.join(FORMATS)})" in said
    assert not (tmp_path / "home").exists()
    said = ppedge.error("notes", "import", "--format", "word", sources[1], code=2)
    assert "'word' is not one of 'chatgpt', 'claude'" in said
    assert ppedge("notes", "import", tmp_path / "absent").returncode == 2
    assert ppedge("notes", "import").returncode == 2


def test_mail_needs_an_address(ppedge: Command, sources: list[Path]) -> None:
    said = ppedge.error("notes", "import", sources[2], code=2)
    assert said.endswith("mbox holds mail of others too; name your address with --me")


def test_a_format_can_be_named(ppedge: Command, tmp_path: Path) -> None:
    path = tmp_path / "letter"
    path.write_text("dear anna\n---\ndear bob\n")
    assert ppedge.good("notes", "import", "--format", "text", path).startswith("added 2")
    done = ppedge("notes", "import", "--format", "chatgpt", path, tmp_path)
    assert done.returncode == 1
    assert b"not valid JSON" in done.stderr
    assert b"the folder has no file like" in done.stderr


def test_two_notes_of_one_id_do_not_take_turns(ppedge: Command, tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "table.csv").write_text(f"id,text\n1,text of {name}\n")
    arguments = ("notes", "import", tmp_path / "a/table.csv", tmp_path / "b/table.csv")
    done = ppedge(*arguments)
    assert (done.returncode, done.stdout) == (0, b"added 1, encoded 1, notes 1\n")
    assert b"skipped 1 (id that came before with other text 1)" in done.stderr
    assert ppedge.good(*arguments) == "unchanged 1, notes 1\n"


def test_a_killed_import_goes_on_where_it_was(ppedge: Command, tmp_path: Path) -> None:
    path = tmp_path / "many.csv"
    path.write_text("text\n" + "".join(f"note number {i}\n" for i in range(6000)))
    running = ppedge.start("notes", "import", path)
    rows, began = tmp_path / "home/personas/default/keys.0", time.monotonic()
    while not rows.exists() or rows.stat().st_size < 44_000:
        assert time.monotonic() - began < 60
        time.sleep(0.02)
    running.kill()
    running.communicate()
    kept = ppedge.json("notes", "stats")["notes"]
    assert 0 < kept < 6000
    report = ppedge.json("notes", "import", path)
    assert (report["unchanged"], report["notes"]) == (kept, 6000)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes")
def test_a_pipe_is_not_waited_for(ppedge: Command, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.csv")
    done = ppedge("notes", "import", tmp_path / "pipe.csv")
    assert done.returncode == 1
    assert b"pipe.csv: neither a file nor a folder" in done.stderr


def test_a_name_cannot_command_the_terminal(ppedge: Command, tmp_path: Path) -> None:
    path = tmp_path / "a\x1b[31m\n.txt"
    path.write_text("text")
    done = ppedge("notes", "import", path)
    assert done.returncode == 0
    assert b"a?[31m?.txt: text, found 1" in done.stderr
