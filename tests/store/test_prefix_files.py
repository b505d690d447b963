"""A model's state of a person's notes is as private as they are, and never half there."""

from pathlib import Path

import pytest

from ppedge.store.persona import Persona
from ppedge.store.prefix_files import KEPT, PrefixFiles

from .kit import Encoder, make_notes

KEY, OTHER = "a" * 64, "b" * 64
STATE = bytes(range(256)) * 40


@pytest.fixture
def full(persona: Persona, encode: Encoder) -> Persona:
    persona.add(make_notes(20), encode)
    return persona


def files(persona: Persona) -> list[Path]:
    return sorted(persona.path.glob("prefix.*"))


def keep(persona: Persona, key: str = KEY, state: bytes = STATE) -> bool:
    return persona.keep_prefix(key, persona.version(), state)


def test_what_is_kept_comes_back_and_nothing_else_does(full: Persona) -> None:
    assert full.kept_prefix(KEY) is None
    assert keep(full)
    assert full.kept_prefix(KEY) == STATE
    assert full.kept_prefix(OTHER) is None


def test_it_is_there_for_another_process(full: Persona) -> None:
    keep(full)
    with Persona.open(full.path) as other:
        assert other.kept_prefix(KEY) == STATE


def test_it_is_readable_by_its_owner_alone(full: Persona) -> None:
    keep(full)
    [file] = files(full)
    assert file.stat().st_mode & 0o077 == 0


def test_a_key_that_begins_alike_is_another_key(full: Persona) -> None:
    keep(full)
    assert full.kept_prefix(KEY[:16] + OTHER[16:]) is None


@pytest.mark.parametrize("where", [0, 20, 100, 150, 5000, -1])
def test_a_damaged_file_is_not_used(full: Persona, where: int) -> None:
    keep(full)
    [file] = files(full)
    data = bytearray(file.read_bytes())
    data[where] ^= 1
    file.write_bytes(data)
    assert full.kept_prefix(KEY) is None


def test_a_file_cut_anywhere_is_not_used(full: Persona) -> None:
    keep(full)
    [file] = files(full)
    data = file.read_bytes()
    for length in (0, 1, 64, 146, 147, 148, len(data) - 1):
        file.write_bytes(data[:length])
        assert full.kept_prefix(KEY) is None


def test_forgetting_a_note_erases_it(full: Persona) -> None:
    keep(full)
    full.forget(ids=["id-3"])
    assert files(full) == []
    assert full.kept_prefix(KEY) is None


def test_a_sync_that_drops_a_note_erases_it(full: Persona, encode: Encoder) -> None:
    keep(full)
    full.sync(make_notes(19), encode)
    assert files(full) == []


def test_what_a_killed_writer_left_goes_with_the_note(full: Persona) -> None:
    left = full.path / "prefix.0.aaaaaaaaaaaaaaaa.part"
    left.write_bytes(STATE)
    full.forget(ids=["id-3"])
    assert not left.exists()


def test_what_an_interrupted_forget_left_goes_at_the_next_opening(full: Persona) -> None:
    full.forget(ids=["id-3"])
    left = full.path / "prefix.0.aaaaaaaaaaaaaaaa"
    left.write_bytes(STATE)
    with Persona.open(full.path):
        assert not left.exists()


def test_a_state_of_notes_that_changed_meanwhile_is_not_kept(
    full: Persona, encode: Encoder
) -> None:
    version = full.version()
    full.forget(ids=["id-3"])
    assert not full.keep_prefix(KEY, version, STATE)
    assert files(full) == []


def test_a_store_that_cannot_be_written_keeps_nothing(full: Persona) -> None:
    with Persona.open(full.path, read_only=True) as reader:
        assert not keep(reader)
        assert files(full) == []


def test_only_the_newest_stay(full: Persona) -> None:
    for digit in "0123456789":
        keep(full, digit * 64)
    assert len(files(full)) == KEPT
    assert full.kept_prefix("9" * 64) == STATE


def test_a_full_disk_leaves_no_part(full: Persona, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(file, data) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("ppedge.store.files.write_all", refuse)
    assert not keep(full)
    assert files(full) == []


def test_the_store_stays_whole_beside_it(full: Persona, encode: Encoder) -> None:
    keep(full)
    assert full.verify() == []
    full.add(make_notes(3, start=50), encode)
    assert full.verify() == []


def test_other_files_are_none_of_its_business(full: Persona) -> None:
    assert PrefixFiles.file_versions(full.path) == set()


# --- a sample of the notes ---


def test_a_sample_is_spread_over_the_notes_and_holds_the_last(full: Persona) -> None:
    version, sample, pinned = full.sample(5)
    assert not pinned
    assert version == full.version()
    notes = list(full.notes())
    assert len(sample) == 5
    assert sample[-1] == notes[-1]
    assert [notes.index(note) for note in sample] == sorted(notes.index(note) for note in sample)


def test_a_sample_of_more_than_there_are_is_all_of_them(full: Persona) -> None:
    assert full.sample(100)[1] == list(full.notes())


def test_muted_notes_are_not_sampled(full: Persona) -> None:
    full.mute("id-3")
    assert "id-3" not in {note.id for note in full.sample(100)[1]}


def test_nobody_has_no_sample(persona: Persona) -> None:
    assert persona.sample(5)[1] == []


def test_every_change_has_a_version_of_its_own(full: Persona, encode: Encoder) -> None:
    seen = [full.version()]
    full.add(make_notes(1, start=90), encode)
    seen.append(full.version())
    full.mute("id-3")
    seen.append(full.version())
    full.forget(ids=["id-3"])
    seen.append(full.version())
    assert len(set(seen)) == 4
