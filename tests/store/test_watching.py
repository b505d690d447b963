"""`FolderWatch`: what it does at each look, with files that change, vanish and are half written."""

import json
import os
import shutil
import signal
import time
import traceback
from pathlib import Path

import pytest

from ppedge.errors import HistoryError, StoreError
from ppedge.notes.reader import Note
from ppedge.store.persona import Persona, Scope
from ppedge.store.watching import FolderWatch, WatchEndedError

from .kit import Encoder, make_notes, make_space

LONG_AGO = 1_700_000_000


@pytest.fixture
def vault(tmp_path: Path) -> Path:
    put(tmp_path / "vault" / "a.md", "the bread is out #bread")
    put(tmp_path / "vault" / "Journal" / "d.txt", "no rain today")
    put(tmp_path / "vault" / "lines.jsonl", '{"text": "one line", "id": "l1"}\n{"text": "two"}\n')
    return tmp_path / "vault"


def put(path: Path, text: str, at: float = LONG_AGO) -> None:
    """Write a file that rests since a moment; each writing is another moment."""
    path.parent.mkdir(parents=True, exist_ok=True)
    number = path.stat().st_mtime_ns + 1 if path.exists() else int(at * 1e9)
    path.write_text(text, encoding="utf-8")
    os.utime(path, ns=(number, number))


class Watch:
    """A watch, what it told, and the persona it follows."""

    def __init__(self, folder: Path, store: Path, **options: object) -> None:
        self.told: list[str] = []
        self.encode = Encoder()
        self.store = store
        self.watch = FolderWatch(
            folder, store, make_space(), self.encode, self.told.append, **options
        )

    def look(self, times: int = 2) -> list[tuple[int, int, int]]:
        """Look some times; what was (added, changed, removed) each time something was done."""
        done = [self.watch.step() for _ in range(times)]
        return [(each.added, each.changed, each.removed) for each in done if each]

    def texts(self) -> set[str]:
        with Persona.open(self.store) as persona:
            assert persona.verify() == []
            return {note.output for note in persona.notes()}


ALL = {"the bread is out #bread", "no rain today", "one line", "two"}


@pytest.fixture
def watch(vault: Path, folder: Path) -> Watch:
    made = Watch(vault, folder)
    assert made.look() == [(4, 0, 0)]
    return made


def test_the_first_look_takes_what_is_there_and_the_next_have_nothing_to_do(watch):
    assert watch.texts() == ALL
    assert watch.look(5) == []
    assert watch.told == []
    with Persona.open(watch.store) as persona:
        note = persona.get("vault/a.md")
        assert (note.tags, note.source) == (("bread",), "vault/a.md")
        assert len(persona.scoped(Scope(folders=("Journal",)))) == 1


def test_files_that_come_change_and_go(watch, vault):
    put(vault / "new.md", "something new")
    assert watch.look() == [(1, 0, 0)]
    put(vault / "a.md", "the bread is gone")
    assert watch.look() == [(0, 1, 0)]
    (vault / "new.md").unlink()
    assert watch.look(1) == []  # An editor may be replacing it.
    assert watch.look(1) == [(0, 0, 1)]
    assert watch.texts() == {"the bread is gone", *ALL} - {"the bread is out #bread"}
    shutil.rmtree(vault / "Journal")
    assert watch.look() == [(0, 0, 1)]
    assert "no rain today" not in watch.texts()


def test_lines_that_come_change_and_go(watch, vault):
    put(vault / "lines.jsonl", '{"text": "another", "id": "l1"}\n{"text": "three"}\n')
    assert watch.look() == [(1, 1, 1)]
    assert watch.texts() == {"the bread is out #bread", "no rain today", "another", "three"}


def test_a_file_that_is_replaced_between_two_looks_is_never_missing(watch, vault):
    (vault / "a.md").unlink()
    assert watch.look(1) == []
    put(vault / "a.md", "the bread is out #bread", at=LONG_AGO + 5)
    assert watch.look(3) == []
    assert watch.texts() == ALL


def test_a_file_that_moved_is_not_encoded_again(watch, vault):
    watch.encode.seen.clear()
    (vault / "sub").mkdir()
    (vault / "a.md").rename(vault / "sub" / "b.md")
    assert sorted(watch.look()) == [(0, 0, 1), (1, 0, 0)]
    assert watch.encode.seen == []


def test_a_file_that_is_being_written_is_left_until_it_rests(watch, vault):
    path = vault / "new.md"
    path.write_text("half a sen")
    assert watch.look(2) == []
    assert watch.watch.restless == {"vault/new.md"}
    path.write_text("half a sentence, and the rest")
    assert watch.look(2) == []
    os.utime(path, (LONG_AGO, LONG_AGO))
    assert watch.look() == [(1, 0, 0)]
    assert "half a sentence, and the rest" in watch.texts()


def test_a_known_file_that_is_being_written_keeps_its_note(watch, vault):
    (vault / "a.md").write_text("")
    assert watch.look(3) == []
    assert watch.texts() == ALL
    os.utime(vault / "a.md", (LONG_AGO, LONG_AGO))
    assert watch.look() == [(0, 0, 1)]


def test_half_a_file_of_lines_is_no_file(watch, vault):
    put(vault / "lines.jsonl", '{"text": "one line", "id": "l1"}\n{"text": "tw')
    assert watch.look(3) == []
    assert watch.texts() == ALL
    [told] = watch.told
    assert "lines.jsonl, line 2: not valid JSON" in told
    assert watch.watch.failed == {"vault/lines.jsonl"}
    put(vault / "lines.jsonl", '{"text": "one line", "id": "l1"}\n')
    assert watch.look() == [(0, 0, 1)]
    assert watch.watch.failed == set()


def test_what_cannot_be_read_is_told_once_and_tried_again_when_it_changes(watch, vault):
    path = vault / "a.md"
    path.write_bytes("grüß".encode("latin-1"))
    os.utime(path, (LONG_AGO, LONG_AGO))
    assert watch.look(4) == []
    assert len(watch.told) == 1
    assert "a.md, line 1: byte 0xfc is not UTF-8" in watch.told[0]
    os.utime(path, (LONG_AGO + 1, LONG_AGO + 1))
    assert watch.look(4) == []
    assert len(watch.told) == 2
    assert watch.texts() == ALL
    again = Watch(vault, watch.store)  # Nor does a new start take it for gone.
    assert again.look() == []
    assert again.texts() == ALL
    put(path, "greetings")
    assert again.look() == [(0, 1, 0)]


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root reads everything")
def test_a_folder_below_that_cannot_be_entered_is_not_gone(watch, vault):
    (vault / "Journal").chmod(0)
    try:
        assert watch.look(3) == []
        assert Watch(vault, watch.store).look(3) == []
    finally:
        (vault / "Journal").chmod(0o700)
    assert watch.texts() == ALL


def test_what_was_forgotten_while_nobody_watched_goes_at_the_second_look(watch, vault):
    (vault / "a.md").unlink()
    put(vault / "lines.jsonl", '{"text": "two"}\n')
    again = Watch(vault, watch.store)
    assert again.look(1) == []
    assert again.look(1) == [(0, 0, 2)]
    assert again.texts() == {"no rain today", "two"}


# --- folders that go away ---


def test_a_missing_folder_changes_nothing_and_may_come_back(watch, vault):
    away = vault.with_name("away")
    vault.rename(away)
    for _ in range(3):
        with pytest.raises(HistoryError, match="not a folder"):
            watch.watch.step()
    assert watch.texts() == ALL
    away.rename(vault)
    assert watch.look(3) == []
    assert watch.texts() == ALL


def test_an_empty_folder_is_no_reason_to_forget_everything(watch, vault):
    for entry in list(vault.iterdir()):
        shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    assert watch.look(4) == []
    assert watch.texts() == ALL
    assert watch.watch.refused
    [told] = watch.told
    assert "holds no note any more, so nothing is forgotten" in told
    again = Watch(vault, watch.store)
    assert again.look(4) == []
    assert again.watch.refused
    put(vault / "new.md", "something new")
    assert watch.look(3) == [(1, 0, 4)]
    assert not watch.watch.refused
    assert watch.texts() == {"something new"}


def test_another_drive_in_its_place_changes_nothing(watch, monkeypatch):
    monkeypatch.setattr(watch.watch, "_device", -1)
    with pytest.raises(HistoryError, match="is on another drive than before"):
        watch.watch.step()
    assert watch.texts() == ALL


def test_what_is_no_folder_cannot_be_watched(vault, folder):
    for path in (vault / "absent", vault / "a.md"):
        with pytest.raises(HistoryError, match="not a folder"):
            Watch(path, folder)
    assert not folder.exists()


# --- notes from elsewhere ---


def test_notes_from_elsewhere_are_neither_changed_nor_forgotten(vault, folder, encode):
    with Persona.open(folder, make_space()) as persona:
        persona.add([Note("two"), Note("kept", id="l1"), *make_notes(5)], encode)
    watch = Watch(vault, folder)
    assert watch.look() == [(2, 0, 0)]
    assert sorted(watch.told) == [
        "vault/lines.jsonl: note l1 came from elsewhere, and stays",
        f"vault/lines.jsonl: note {told_name(folder, 'two')} came from elsewhere, and stays",
    ]
    (vault / "lines.jsonl").unlink()
    (vault / "a.md").unlink()
    assert watch.look() == [(0, 0, 1)]
    assert {"two", "kept", *(note.output for note in make_notes(5))} <= watch.texts()


def told_name(folder: Path, text: str) -> str:
    from ppedge.store.persona import handle

    with Persona.open(folder) as persona:
        return next(handle(note) for note in persona.notes() if note.output == text)


def test_what_an_import_made_of_the_very_file_is_followed(vault, folder, encode):
    with Persona.open(folder, make_space()) as persona:
        persona.add([Note("old text", id="vault/a.md", source="vault/a.md")], encode)
        persona.add([Note("no rain today", id="vault/Journal/d.txt")], encode)  # by version 0.1
    watch = Watch(vault, folder)
    watch.look()
    assert watch.texts() == ALL
    (vault / "a.md").unlink()
    (vault / "Journal" / "d.txt").unlink()
    watch.look(3)
    assert watch.texts() == {"one line", "two"}


def test_two_folders_of_one_persona_leave_each_other_alone(watch, tmp_path):
    other = tmp_path / "elsewhere" / "vault"
    put(other / "a.md", "another a")
    put(other / "b.md", "note b")
    second = Watch(other, watch.store)
    assert second.look(3) == [(1, 0, 0)]
    assert second.told == ["vault/a.md: note vault/a.md came from elsewhere, and stays"]
    assert watch.look(3) == []
    assert watch.texts() == {*ALL, "note b"}
    (other / "b.md").unlink()
    assert second.look(3) == [(0, 0, 1)]
    assert watch.texts() == ALL


def test_one_note_in_two_files_goes_with_the_last(watch, vault):
    put(vault / "more.jsonl", '{"text": "two"}\n')
    assert watch.look(3) == []
    put(vault / "lines.jsonl", '{"text": "one line", "id": "l1"}\n')
    assert watch.look(3) == []
    assert "two" in watch.texts()
    (vault / "more.jsonl").unlink()
    assert watch.look(3) == [(0, 0, 1)]


def test_of_two_files_with_one_id_the_first_counts_until_it_goes(watch, vault):
    put(vault / "more.jsonl", '{"text": "other", "id": "l1"}\n')
    assert watch.look(3) == []
    assert watch.told == ["vault/more.jsonl: passed over: another note has the id l1"]
    put(vault / "lines.jsonl", '{"text": "two"}\n')
    watch.look(3)
    assert watch.texts() == {"the bread is out #bread", "no rain today", "other", "two"}


# --- formats ---


def test_only_some_formats_are_watched_and_those_of_others_stay(watch, vault):
    put(vault / "t.csv", "text,id\nfrom a table,t1\n")
    put(vault / ".hidden.md", "hidden")
    put(vault / "picture.png", "x")
    (vault / "link.md").symlink_to(vault / "a.md")
    assert watch.look(3) == [(1, 0, 0)]
    again = Watch(vault, watch.store, formats=("markdown",))
    assert again.look(3) == []
    assert again.texts() == {*ALL, "from a table"}
    put(vault / "b.md", "note b")
    (vault / "a.md").unlink()
    (vault / "t.csv").unlink()
    assert sorted(again.look(3)) == [(0, 0, 1), (1, 0, 0)]
    assert again.texts() == {*ALL, "note b", "from a table"} - {"the bread is out #bread"}


# --- other processes ---


def test_a_persona_that_is_busy_is_tried_again(watch, vault, monkeypatch):
    put(vault / "new.md", "something new")
    with Persona.open(watch.store, make_space()) as persona, persona._changing():
        real = Persona.open
        monkeypatch.setattr(
            Persona, "open", lambda *args, **kwargs: real(*args, **{**kwargs, "wait": 0.1})
        )
        with pytest.raises(StoreError, match="another process"):
            watch.watch.step()
        monkeypatch.undo()
    assert watch.look() == [(1, 0, 0)]


def test_a_persona_that_is_deleted_ends_the_watch(watch, vault):
    shutil.rmtree(watch.store)
    assert watch.look() == []
    put(vault / "new.md", "something new")
    with pytest.raises(WatchEndedError, match="the persona is gone"):
        watch.watch.step()
    assert not watch.store.exists()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kill -9 wants POSIX")
def test_killed_watches_of_one_folder_side_by_side_leave_it_in_step(vault, folder):
    for i in range(25):
        put(vault / f"{i % 7}.md", f"note {i} of the day")
        put(vault / "lines.jsonl", "".join(json.dumps({"text": f"l{j}"}) + "\n" for j in range(i)))
        children = []
        for _ in range(2):
            child = os.fork()
            if child == 0:
                try:
                    while True:
                        Watch(vault, folder).look(3)
                except BaseException:
                    traceback.print_exc()
                finally:
                    os._exit(1)
            children.append(child)
        time.sleep(0.01 + 0.006 * (i % 10))
        for child in children:
            os.kill(child, signal.SIGKILL)
            _, status = os.waitpid(child, 0)
            assert os.WIFSIGNALED(status), "a child failed by itself"
    last = Watch(vault, folder)
    last.look(3)
    wanted = {f"note {i} of the day" for i in range(18, 25)} | {f"l{j}" for j in range(24)}
    assert last.texts() == {*wanted, "the bread is out #bread", "no rain today"}
