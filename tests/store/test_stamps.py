"""A store that knows the file it was last made equal to, and with which files it was whole."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ppedge.notes.reader import Note, read_notes
from ppedge.store.check import find_problems
from ppedge.store.history_cache import open_history_cache, sync_history
from ppedge.store.persona import ChangeReport, Persona
from ppedge.store.reports import Problem
from tests.store.kit import Encoder, make_space

SPACE, encode = make_space(), Encoder()
LINES = '{"text": "rain again", "id": "a"}\n{"text": "bread at last", "id": "b"}\n'


@pytest.fixture
def history(tmp_path: Path) -> Path:
    path = tmp_path / "notes.jsonl"
    path.write_text(LINES)
    return path


@pytest.fixture
def persona(tmp_path: Path) -> Iterator[Persona]:
    with open_history_cache(tmp_path / "store", SPACE) as opened:
        yield opened


def sync(persona: Persona, history: Path, *, skip_bad: bool = False) -> tuple[ChangeReport, int]:
    """Sync with a file; how many notes were read of it comes too."""
    n_read = 0

    def count(done: int, total: int | None) -> None:
        nonlocal n_read
        n_read = done

    with history.open("rb") as file:
        reader = read_notes(file, skip_bad=skip_bad, name="history")
        report = sync_history(persona, reader, file, encode, count)
        return report, n_read


def is_known(persona: Persona, history: Path) -> bool:
    """Whether another sync reads nothing of the file."""

    def refuse(notes: Sequence[Note]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        raise AssertionError("nothing is to be encoded")
        yield

    with history.open("rb") as file:
        reader = Unread()
        try:
            sync_history(persona, reader, file, refuse, lambda done, total: None)
        except Read:
            return False
        return True


class Read(Exception):
    """Somebody asked for a note."""


class Unread:
    """A reader that nobody may ask."""

    skipped = ()

    def __iter__(self) -> Iterator[Note]:
        raise Read


def test_an_unchanged_file_is_not_read_again(persona: Persona, history: Path) -> None:
    assert not is_known(persona, history)
    assert sync(persona, history)[0].added == 2
    assert is_known(persona, history)
    assert sync(persona, history)[0] == ChangeReport(notes=2)


def test_it_is_known_after_the_store_is_opened_anew(
    persona: Persona, history: Path, tmp_path: Path
) -> None:
    sync(persona, history)
    with open_history_cache(tmp_path / "store", SPACE) as again:
        assert is_known(again, history)
        assert again.verify() == []


def test_a_changed_file_is_read_and_known_from_then_on(persona: Persona, history: Path) -> None:
    sync(persona, history)
    history.write_text(LINES.replace("rain", "snow"))
    assert not is_known(persona, history)
    assert sync(persona, history)[0].changed == 1
    assert is_known(persona, history)
    assert [note.output for note in persona.notes()] == ["snow again", "bread at last"]


def test_a_store_that_has_changed_since_reads_the_file(persona: Persona, history: Path) -> None:
    sync(persona, history)
    persona.forget(ids=["a"])
    assert not is_known(persona, history)
    assert sync(persona, history)[0].added == 1
    persona.add([Note("a third")], encode)
    assert not is_known(persona, history)
    assert sync(persona, history)[0].removed == 1
    assert [note.id for note in persona.notes()] == ["a", "b"]


def test_what_is_known_of_a_file_goes_when_a_note_goes(
    persona: Persona, history: Path, tmp_path: Path
) -> None:
    sync(persona, history)
    assert len(list((tmp_path / "store").glob("synced.*"))) == 1
    persona.forget(ids=["a"])
    assert list((tmp_path / "store").glob("synced.*")) == []


def test_a_file_that_changes_while_it_is_read_is_not_known(persona: Persona, history: Path) -> None:
    def encode_and_append(notes: Sequence[Note]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        with history.open("a") as more:
            more.write('{"text": "one more", "id": "c"}\n')
        yield from encode(notes)

    with history.open("rb") as file:
        reader = read_notes(file, name="history")
        sync_history(persona, reader, file, encode_and_append, lambda done, total: None)
    assert not is_known(persona, history)
    sync(persona, history)
    assert [note.id for note in persona.notes()] == ["a", "b", "c"]


def test_a_file_with_bad_lines_is_read_each_time_to_tell_of_them(
    persona: Persona, history: Path
) -> None:
    history.write_text(LINES + "no JSON\n")
    sync(persona, history, skip_bad=True)
    assert not is_known(persona, history)


def test_what_can_be_read_only_once_is_not_known(persona: Persona, history: Path) -> None:
    with history.open("rb") as file:
        reader = read_notes(file, name="stdin")
        sync_history(persona, reader, None, encode, lambda done, total: None)
    assert not is_known(persona, history)


@pytest.mark.parametrize("damage", [b"", b"ppedge synced 1 ", b"\xff\n"])
def test_a_damaged_line_is_as_good_as_none(
    persona: Persona, history: Path, tmp_path: Path, damage: bytes
) -> None:
    sync(persona, history)
    [line] = (tmp_path / "store").glob("synced.*")
    line.write_bytes(damage)
    assert not is_known(persona, history)
    assert sync(persona, history)[0].unchanged == 2
    assert is_known(persona, history)


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="nothing here is without end")
def test_a_line_without_end_is_as_good_as_none(
    persona: Persona, history: Path, tmp_path: Path
) -> None:
    sync(persona, history)
    [line] = (tmp_path / "store").glob("synced.*")
    line.unlink()
    line.symlink_to("/dev/zero")
    assert not is_known(persona, history)


def test_another_version_of_ppedge_reads_the_file_again(
    persona: Persona, history: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sync(persona, history)
    monkeypatch.setattr("ppedge.store.stamps.__version__", "99")
    assert not is_known(persona, history)


def test_without_a_file_nothing_is_kept(persona: Persona, tmp_path: Path) -> None:
    persona.sync([Note("a"), Note("b")], encode)
    assert list((tmp_path / "store").glob("synced.*")) == []
    assert not persona.is_synced("")


# --- checked ---


@pytest.fixture
def checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a store that was found whole after it had been written."""
    monkeypatch.setattr("ppedge.store.stamps._SETTLED_NANOSECONDS", 0)  # Spares two seconds each.
    folder = tmp_path / "checked"
    with open_history_cache(folder, SPACE) as persona:
        persona.add([Note("one", id="a"), Note("two", id="b")], encode)
    with open_history_cache(folder, SPACE):
        pass
    assert list(folder.glob("checked.*"))
    return folder


def reads(folder: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    """How often the store is read to its end when it is opened."""
    found = 0

    def count(*given: Any) -> list[Problem]:
        nonlocal found
        found += 1
        return find_problems(*given)

    with monkeypatch.context() as patched:
        patched.setattr("ppedge.store.persona_reader.find_problems", count)
        open_history_cache(folder, SPACE).close()
    return found


def test_a_store_whose_files_are_those_that_were_whole_is_not_read_again(
    checked: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert [reads(checked, monkeypatch) for _ in range(2)] == [0, 0]


@pytest.mark.parametrize("name", ["keys.0", "values.0", "notes.db"])
def test_a_store_with_a_changed_file_is_read_and_what_is_damaged_made_anew(
    checked: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    data = bytearray((checked / name).read_bytes())
    data[-3] ^= 8
    (checked / name).write_bytes(data)
    assert reads(checked, monkeypatch) >= 1
    with open_history_cache(checked, SPACE) as persona:
        assert persona.verify() == []
        assert len(persona) in (0, 2)  # SQLite leaves bytes of its pages unused.


def test_who_may_read_the_files_is_looked_at_each_time(checked: Path) -> None:
    checked.chmod(0o755)
    with Persona.open(checked, SPACE) as persona:
        assert [problem.message for problem in persona.verify_changed()] == [
            f"{checked} has mode 0755: others can read it; chmod 700 it"
        ]


def test_what_has_just_been_written_is_read_once_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "fresh"
    with open_history_cache(folder, SPACE) as persona:
        persona.add([Note("one")], encode)
    assert [reads(folder, monkeypatch) for _ in range(2)] == [1, 1]
    assert not list(folder.glob("checked.*"))


def test_a_log_that_is_left_is_no_file_to_trust(
    checked: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Persona.open(checked, SPACE) as reader, Persona.open(checked, SPACE) as writer:
        assert len(reader) == 2
        writer.add([Note("three")], encode)
        assert (checked / "notes.db-wal").stat().st_size
        assert reads(checked, monkeypatch) == 1


def test_forgetting_takes_the_line_along(checked: Path) -> None:
    with Persona.open(checked, SPACE) as persona:
        persona.forget(ids=["a"])
    assert not list(checked.glob("checked.*"))


def test_a_store_that_may_not_be_written_is_read_each_time(
    checked: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    next(checked.glob("checked.*")).unlink()
    with Persona.open(checked, SPACE, read_only=True) as persona:
        assert persona.verify_changed() == []
    assert not list(checked.glob("checked.*"))
