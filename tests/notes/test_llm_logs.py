"""The importer of llm's log, on databases that llm's own code wrote, and on damaged ones."""

from __future__ import annotations

import hashlib
import os
import shutil
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from string import Template as Substitution
from typing import Any

import llm
import pytest
import sqlite_utils
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st
from llm.migrations import MIGRATIONS, ensure_migrations_table

from ppedge.errors import HistoryError
from ppedge.notes.importers import detect, importer, llm_logs
from ppedge.notes.importers.job import MAX_NOTE_CHARACTERS, Job
from ppedge.notes.importers.llm_templates import Template, prompt_of, read_templates, typed
from ppedge.notes.reader import Note, parse_time


class Parrot(llm.Model):
    """A model that needs no file: llm logs its answers as any other's."""

    model_id = "parrot"
    attachment_types = frozenset({"image/png"})

    def execute(
        self, prompt: llm.Prompt, stream: bool, response: llm.Response, conversation: object
    ) -> Iterator[str]:
        yield "an answer that is not a note"


def log(path: Path, *prompts: dict[str, Any]) -> None:
    """Log a conversation, as the program does."""
    with closing(sqlite_utils.Database(path)) as database:
        conversation = Parrot().conversation()
        for prompt in prompts:
            response = conversation.prompt(**prompt)
            response.text()
            response.log_to_db(database)


def load(path: Path, job: Job | None = None) -> list[Note]:
    return list(importer("llm-logs").read(path, job or Job()))


def refused(path: Path) -> str:
    with pytest.raises(HistoryError) as caught:
        load(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "logs.db"
    log(path, {"prompt": "hi there", "system": "be brief"}, {"prompt": "and the bread?"})
    return path


# --- what is a note ---


def test_the_owners_prompts_are_the_notes_under_the_logs_ids_and_times(path: Path) -> None:
    assert detect(path) == "llm-logs"
    notes = load(path)
    assert [note.output for note in notes] == ["hi there", "and the bread?"]
    with closing(sqlite3.connect(path)) as database:
        rows = database.execute("SELECT id, datetime_utc FROM turns ORDER BY id").fetchall()
    assert [(note.id, note.time) for note in notes] == [(id, parse_time(at)) for id, at in rows]
    assert not any(note.input for note in notes)
    assert load(path) == notes


def test_fragments_and_attachments_and_tools_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "logs.db"
    book = llm.Fragment("a whole book", "book.txt")
    picture = llm.Attachment(type="image/png", content=b"\x89PNG")
    log(
        path,
        {"prompt": "what is it about", "fragments": [book], "system_fragments": [book]},
        {"prompt": "and this", "attachments": [picture]},
        {"prompt": "", "fragments": [book]},
        {"prompt": None, "attachments": [picture]},
    )
    job = Job()
    assert [note.output for note in load(path, job)] == ["what is it about", "and this"]
    assert job.passed == {"too short": 1}
    assert not job.damaged


def test_what_came_before_in_a_conversation_is_not_taken_again(tmp_path: Path) -> None:
    path = tmp_path / "logs.db"
    log(path, *({"prompt": f"line {i}"} for i in range(5)))
    log(path, {"prompt": "line 0"})
    assert [note.output for note in load(path)] == [*(f"line {i}" for i in range(5)), "line 0"]
    assert len({note.id for note in load(path)}) == 6


def older(path: Path, before: str) -> sqlite_utils.Database:
    """A log as llm made it before one of its migrations."""
    database = sqlite_utils.Database(path)
    ensure_migrations_table(database)
    for migration in MIGRATIONS:
        if migration.__name__ < before:
            migration(database)
            database["_llm_migrations"].insert({"name": migration.__name__, "applied_at": ""})
    return database


def test_a_log_of_an_older_llm_is_read_and_still_after_a_newer_wrote_to_it(tmp_path: Path) -> None:
    path = tmp_path / "logs.db"
    with closing(older(path, "m022")) as database:
        row = {"id": "01h1", "model": "m", "prompt": "years ago", "system": "s", "response": "r"}
        database["responses"].insert({**row, "datetime_utc": "2023-07-01 08:00:00.5"})
    assert detect(path) == "llm-logs"
    [note] = load(path)
    assert (note.output, note.id) == ("years ago", "01h1")
    assert note.time == parse_time("2023-07-01T08:00:00.5Z")
    log(path, {"prompt": "and now"})
    assert load(path)[0] == note
    assert [each.output for each in load(path)] == ["years ago", "and now"]


def test_a_log_of_the_first_llm_is_read(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    with closing(older(path, "m009")) as database:
        row = {"id": 7, "model": "m", "prompt": "the first", "response": "r"}
        database["logs"].insert({**row, "datetime_utc": "2023-05-01T08:00:00+00:00"})
    assert detect(path) == "llm-logs"
    [note] = load(path)
    assert (note.output, note.id) == ("the first", "logs-7")


def test_a_prompt_in_the_tables_of_two_versions_is_one_note(path: Path) -> None:
    before = load(path)
    with closing(sqlite_utils.Database(path)) as database:
        row = {"id": before[0].id, "model": "m", "prompt": "otherwise", "datetime_utc": "2023"}
        database["responses"].insert(row)
    assert load(path) == before


# --- templates ---


def test_what_a_template_brought_is_taken_out(path: Path) -> None:
    folder = path.parent / "templates"
    folder.mkdir()
    (folder / "around.yaml").write_text("prompt: |-\n  Say $input\n  again, as $who.\nsystem: hm\n")
    (folder / "plain.yaml").write_text("Shorten this:\n")
    (folder / "damaged.yaml").write_bytes(b"prompt: \xff\xfe")
    (folder / "odd.yaml").write_text("prompt: [1, 2]\n")
    (folder / "linked.yaml").symlink_to(folder / "plain.yaml")
    log(
        path,
        {"prompt": "Say no rain today\nagain, as a pirate."},
        {"prompt": "Shorten this:\nthe bread is out"},
        {"prompt": "Shorten this:\nSay twice in one\nagain, as me."},
        {"prompt": "Shorten this:"},
        {"prompt": "Say what"},
    )
    job = Job()
    assert [note.output for note in load(path, job)] == [
        "hi there",
        "and the bread?",
        "no rain today",
        "the bread is out",
        "twice in one",
        "Say what",
    ]
    assert job.passed == {"only a template": 1}
    assert len(read_templates(folder)) == 2


words = st.text(st.sampled_from("ab $\n:'\"\\#-|>é…😂{}&"), max_size=90)


@given(words)
@settings(max_examples=200, deadline=None)
def test_a_template_is_read_as_llm_wrote_it(text: str) -> None:
    """Or not at all; never as another text."""
    written = yaml.dump({"model": "m", "prompt": text}, indent=4, default_flow_style=False)
    assert prompt_of(written) in (text, None)
    if text.isalnum():
        assert prompt_of(written) == text


@pytest.mark.parametrize(
    "written",
    [
        "prompt: one line\n",
        "system: s\nprompt: 'it''s: quoted'\nmodel: m\n",
        'prompt: "a \\u2026 b\\n\\\n    \\ c"\n',
        "prompt: |\n    kept\n      as it is\n\n    written\nsystem: s\n",
        "prompt: >\n    one\n    line\n\n    another\n",
        "prompt: |-\n  no end\nsystem: |\n  prompt: not this\n",
        "prompt: folded\n  over lines\n",
        "just a text\n",
    ],
)
def test_the_usual_forms_of_yaml_are_read(written: str) -> None:
    loaded = yaml.safe_load(written)
    assert prompt_of(written) == (loaded if isinstance(loaded, str) else loaded["prompt"])


PIECES = ["${input}", "${who}", "$$", "Rewrite this:\n", " and thank you"]


@given(st.lists(st.sampled_from(PIECES), max_size=5), words, st.sampled_from(["a pirate", "me"]))
@settings(max_examples=300, deadline=None)
def test_what_was_typed_is_found_again(pieces: list[str], said: str, who: str) -> None:
    source = "".join(pieces)
    made = Substitution(source).safe_substitute(input=said, who=who)
    if "${input}" not in pieces and said:
        made = f"{made}\n{said}"
    found = Template(source).typed(made)
    assert found is not None
    # Where it stands between two variables, or comes twice, it cannot be told apart.
    if pieces.count("${input}") == 1 and "${who}" not in pieces:
        assert found == said
    if pieces == ["Rewrite this:\n"]:
        assert found == said


def test_a_text_that_no_template_made_stays(tmp_path: Path) -> None:
    assert typed([Template("a $input b"), Template("c")], "a text") == "a text"
    # Of so little of its own, a template could have made anything.
    (tmp_path / "short.yaml").write_text("prompt: $who a\n")
    (tmp_path / "all.yaml").write_text("prompt: $input\n")
    assert read_templates(tmp_path) == []


# --- a file that is in use, or that is not what it should be ---


def fingerprint(folder: Path) -> dict[str, str]:
    return {
        entry.name: hashlib.sha256(entry.read_bytes()).hexdigest() for entry in folder.iterdir()
    }


@pytest.mark.parametrize("mode", ["delete", "wal"])
def test_nothing_is_changed_in_the_log_or_beside_it(path: Path, mode: str) -> None:
    with closing(sqlite3.connect(path)) as database:
        database.execute(f"PRAGMA journal_mode = {mode}")
    before = fingerprint(path.parent)
    assert len(load(path)) == 2
    assert detect(path) == "llm-logs"
    assert fingerprint(path.parent) == before


@pytest.mark.parametrize("mode", ["delete", "wal"])
def test_llm_may_write_while_the_notes_are_taken(path: Path, mode: str) -> None:
    with closing(sqlite3.connect(path)) as database:
        database.execute(f"PRAGMA journal_mode = {mode}")
    notes = importer("llm-logs").read(path, Job())
    first = next(notes)
    log(path, {"prompt": "written meanwhile"})  # It would wait for a lock, and fail.
    assert [first.output, *(note.output for note in notes)] == ["hi there", "and the bread?"]
    assert [note.output for note in load(path)][2:] == ["written meanwhile"]


def test_what_llm_has_not_written_out_yet_is_read_too(path: Path) -> None:
    with closing(sqlite3.connect(path)) as writer:
        writer.execute("PRAGMA journal_mode = wal")
        writer.execute("SELECT count(*) FROM turns").fetchone()  # As long as it is open, it waits.
        log(path, {"prompt": "in the wal"})
        assert path.with_name("logs.db-wal").stat().st_size > 0
        held = path.read_bytes()
        assert [note.output for note in load(path)] == ["hi there", "and the bread?", "in the wal"]
        assert path.read_bytes() == held


def test_a_log_that_is_locked_says_so(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(llm_logs, "_WAIT_SECONDS", 0.05)
    with closing(sqlite3.connect(path, isolation_level=None)) as writer:
        writer.execute("BEGIN EXCLUSIVE")
        assert "another program is writing to it; try again" in refused(path)


def test_a_log_after_a_crash_of_its_writer_is_not_repaired_here(path: Path) -> None:
    """A journal that is left is the writer's to roll back."""
    program = (
        "import os, sqlite3, sys\n"
        "d = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
        "d.execute('PRAGMA cache_size = 1')\n"
        "d.execute('BEGIN')\n"
        "d.execute('UPDATE turns SET model = zeroblob(200000)')\n"
        "os._exit(0)\n"
    )
    subprocess.run([sys.executable, "-c", program, str(path)], check=True)
    assert path.with_name("logs.db-journal").exists()
    before = fingerprint(path.parent)
    assert "run `llm logs` once, so that it mends its log" in refused(path)
    assert fingerprint(path.parent) == before


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is hidden from root")
def test_a_log_that_may_not_be_read_says_so(path: Path) -> None:
    path.chmod(0)
    assert "Permission denied" in refused(path)
    path.chmod(stat.S_IRUSR)


def test_a_damaged_log_says_so(path: Path, tmp_path: Path) -> None:
    data = path.read_bytes()
    cut = tmp_path / "cut.db"
    cut.write_bytes(data[: len(data) // 2])
    assert "the database is damaged" in refused(cut)
    filled = tmp_path / "filled.db"
    filled.write_bytes(data[:4096] + b"\xff" * (len(data) - 4096))
    assert "the database is damaged" in refused(filled)
    head = tmp_path / "head.db"
    head.write_bytes(data[:16] + b"\0" * 200)
    assert "the database is damaged" in refused(head)
    assert [detect(each) for each in (filled, head)] == [None, None]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("whole") / "logs.db"
    log(path, {"prompt": "hi there"})
    return path.read_bytes()


@given(at=st.floats(0, 1), size=st.integers(1, 600), byte=st.integers(0, 255))
@example(at=0.4312, size=60, byte=0x80)  # in the table of tables: SQLite names it in its error
@settings(max_examples=80, deadline=None, derandomize=True)
def test_damage_anywhere_is_an_error_of_one_line_or_harmless(
    at: float, size: int, byte: int, whole: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("damage")
    path = folder / "logs.db"
    data = bytearray(whole)
    at = int(at * (len(data) - 1))
    data[at : at + size] = bytes([byte]) * len(data[at : at + size])
    path.write_bytes(data)
    try:
        said = str([note.output for note in load(path)])
    except HistoryError as error:
        said = str(error)
    assert "\n" not in said
    shutil.rmtree(folder)


def test_another_database_or_file_is_not_taken_for_a_log(tmp_path: Path) -> None:
    other = tmp_path / "other.db"
    with closing(sqlite3.connect(other)) as database:
        database.execute("CREATE TABLE responses (id, prompt)")
        database.execute("CREATE VIEW logs AS SELECT 1 id, 'm' model, 'x' prompt, '' datetime_utc")
        database.commit()
    assert detect(other) is None
    assert "a SQLite database, but not a log of `llm`" in refused(other)
    text = tmp_path / "text.db"
    text.write_text("hello")
    assert "not a SQLite database; give the file that `llm logs path` names" in refused(text)
    assert "cannot be read: Is a directory" in refused(tmp_path)


def test_odd_rows_are_passed_over(path: Path) -> None:
    row = {"model": "m", "datetime_utc": 5}
    rows = [
        {"id": "1", "prompt": None},
        {"id": "2", "prompt": b"\xff\xfe"},
        {"id": "3", "prompt": 17},
        {"id": "4", "prompt": "x" * (MAX_NOTE_CHARACTERS + 1)},
        {"id": None, "prompt": "without an id"},
        {"id": b"5", "prompt": "an odd id"},
        {"id": "6", "prompt": "a\0b\ud7ff and a time that is none"},
    ]
    with closing(sqlite3.connect(path)) as database:
        for each in rows:
            values = {**row, **each}
            database.execute(
                "INSERT INTO responses (id, prompt, model, datetime_utc)"
                " VALUES (:id, :prompt, :model, :datetime_utc)",
                values,
            )
        database.execute(
            "INSERT INTO responses (id, model, prompt) VALUES (8, 'm', CAST(x'ff41' AS TEXT))"
        )
        database.execute("UPDATE parts SET text = NULL, payload = '[1]' WHERE text = 'hi there'")
        database.commit()
    job = Job()
    notes = load(path, job)
    assert [note.output for note in notes] == [
        "17",
        "ab\ud7ff and a time that is none",
        "\ufffdA",
        "and the bread?",
    ]
    assert job.passed == {"too short": 3, "too long": 1}
