"""A store that version 0.1 wrote: read as it is, and given what came later by the first change.

``store_of_0_1.zip`` was written by that version: ``make_notes(12)`` without "id-6", of which "id-0"
is pinned and "id-3" muted.
"""

import os
import signal
import sqlite3
import time
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from ppedge.notes.reader import Note
from ppedge.store.persona import Persona, Scope

from .kit import Encoder, assert_same_store, make_notes, make_space

WRITTEN = Path(__file__).with_name("store_of_0_1.zip")
STORE_HASH = "e55e6c5e1649420728e0e8aa1e18bfc8747ba89baf00ff5b4edb09eda6a0f4e4"
TAGGED = Note("about the garden", id="g1", tags=("home", "garden/spring"), source="v/G/a.md")


@pytest.fixture
def old(folder: Path) -> Path:
    folder.mkdir(mode=0o700)
    with zipfile.ZipFile(WRITTEN) as archive:
        archive.extractall(folder)
    for entry in folder.iterdir():
        entry.chmod(0o600)
    return folder


def columns(folder: Path) -> set[str]:
    with sqlite3.connect(f"file:{folder / 'notes.db'}?mode=ro", uri=True) as db:
        found = {name for (name,) in db.execute("SELECT name FROM pragma_table_info('notes')")}
    db.close()
    return found


def test_it_opens_verifies_and_answers_without_being_changed(old, space, build):
    before = {entry.name: entry.read_bytes() for entry in old.iterdir()}
    with Persona.open(old, space) as store:
        assert store.verify() == []
        assert store.store_hash() == STORE_HASH
        assert list(store.notes()) == [note for note in make_notes(12) if note.id != "id-6"]
        assert store.marks() == {"id-0": 1, "id-3": -1}
        assert len(store.scoped(Scope(tags=("home",)))) == 0
        assert store.followed("/nowhere") == {}
        fresh = build([note for note in make_notes(12) if note.id != "id-6"])
        fresh.pin("id-0")
        fresh.mute("id-3")
        assert_same_store(store, fresh)
    assert {n: d for n, d in before.items() if n[:5] != "notes"} == {
        entry.name: entry.read_bytes()
        for entry in old.iterdir()
        if entry.name in before and entry.name[:5] != "notes"
    }
    assert "about" not in columns(old)


def test_it_takes_notes_with_tags_and_forgets(old, space, encode, build):
    with Persona.open(old, space) as store:
        assert store.add([TAGGED], encode).added == 1
        assert store.get("g1") == TAGGED
        assert store.verify() == []
        store.forget(ids=["id-9"])
        assert store.verify() == []
        kept = [note for note in make_notes(12) if note.id not in ("id-6", "id-9")]
        fresh = build([*kept, TAGGED])
        fresh.pin("id-0")
        fresh.mute("id-3")
        assert_same_store(store, fresh)
        assert [note.id for note in store.scoped(Scope(tags=("garden",))).notes()] == ["g1"]
        store.forget(ids=["g1"])
    left = b"".join(entry.read_bytes() for entry in old.iterdir())
    assert b"garden/spring" not in left
    assert b"v/G/a.md" not in left


def test_it_can_be_read_from_a_folder_that_cannot_be_written(old, space):
    old.chmod(0o500)
    try:
        with Persona.open(old, space, read_only=True) as store:
            assert len(store) == 11
            assert len(store.scoped(Scope(since=1_700_000_000.0))) == 5
    finally:
        old.chmod(0o700)


def test_a_reader_that_was_there_first_sees_what_a_writer_adds(old, space, encode):
    with Persona.open(old, space) as reader, Persona.open(old, space) as writer:
        assert reader.get("id-0").tags == ()
        writer.add([replace(reader.get("id-0"), tags=("x",))], encode)
        assert reader.get("id-0").tags == ("x",)


def test_new_tags_change_a_note_without_encoding_it(old, space, encode):
    with Persona.open(old, space) as store:
        note = store.get("id-0")
        report = store.add([replace(note, tags=("x",), source="s")], encode)
        assert (report.changed, report.encoded) == (1, 0)
        assert store.marks()["id-0"] == 1
        assert store.store_hash() != STORE_HASH
        store.add([note], encode)
        assert store.store_hash() == STORE_HASH
    assert encode.seen == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kill -9 wants POSIX")
def test_a_kill_while_columns_are_added_leaves_the_old_or_the_new(tmp_path):
    seen = set()
    for i in range(40):
        folder = tmp_path / str(i)
        folder.mkdir(mode=0o700)
        with zipfile.ZipFile(WRITTEN) as archive:
            archive.extractall(folder)
        child = os.fork()
        if child == 0:
            try:
                with Persona.open(folder, make_space()) as store:
                    store.add([TAGGED], Encoder())
                time.sleep(60)
            finally:
                os._exit(1)
        time.sleep(0.001 * i)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        later = columns(folder) & {"about", "origin", "about_seal"}
        assert len(later) in (0, 3)
        with Persona.open(folder, make_space()) as store:
            assert len(store) - 11 in (0, 1)
            seen.add((len(later), len(store)))
            store.add([TAGGED], Encoder())
            assert store.get("g1") == TAGGED
    assert len(seen) > 1, "no kill hit before, or none after"


def test_damaged_tags_are_found_and_the_text_is_kept(persona, encode):
    persona.add([TAGGED], encode)
    with sqlite3.connect(persona.path / "notes.db") as db:
        db.execute('UPDATE notes SET about = \'{"tags": ["hom\'')
    db.close()
    assert persona.get("g1").output == TAGGED.output
    assert persona.get("g1").tags == ()
    assert [problem.message for problem in persona.verify()] == [
        "note g1 is damaged; forget it, and add it again"
    ]
    assert len(persona.scoped(Scope(tags=("home",), folders=("G",)))) == 0
    persona.add([TAGGED], encode)
    assert persona.verify() == []
    assert persona.get("g1") == TAGGED
