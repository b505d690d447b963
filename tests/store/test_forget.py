import random
import sqlite3
import string
from dataclasses import replace

import pytest

from ppedge.errors import StoreError
from ppedge.notes.reader import Note, format_time, parse_time
from ppedge.store.persona import Persona, handle
from ppedge.store.sql_read import identity

from .kit import D_KEY, Encoder, assert_same_store, make_notes


def random_notes(n, seed=0):
    """Notes of random letters, so that any 12 bytes of one occur nowhere else.

    Some are longer than a database page, so that their text lies on overflow pages.
    """
    rng = random.Random(seed)

    def text(length):
        return "".join(rng.choices(string.ascii_letters, k=length))

    return [
        Note(
            output=text(rng.choice([20, 200, 2000, 9000])),
            input=text(rng.choice([12, 500])),
            id=text(16) if i % 2 else "",
            time=rng.uniform(1e9, 2e9),
        )
        for i in range(n)
    ]


def traces(note):
    """Byte strings that only the note, its vectors or its hashes leave."""
    row = Encoder().row(note)
    found = [
        row[: 2 * D_KEY],
        row[2 * D_KEY :],
        row[-12:],
        identity(note),
        bytes.fromhex(note.digest),
    ]
    for text in (note.output, note.input, note.id):
        data = text.encode()
        found += [data[i : i + 12] for i in range(0, len(data) - 11, 151)]
        found += [data[-12:]] if data else []
    return found


def assert_no_trace(folder, notes):
    files = {file.name: file.read_bytes() for file in folder.iterdir()}
    for note in notes:
        for trace in traces(note):
            for name, data in files.items():
                assert trace not in data, f"{name} still holds {trace!r}"


@pytest.fixture
def dated(persona, encode):
    notes = [Note(f"written on day {day}", id=f"d{day}", time=86400.0 * day) for day in range(10)]
    persona.add([*notes, Note("undated")], encode)
    return persona


@pytest.mark.parametrize("seed", range(6))
def test_after_forget_the_store_is_one_that_never_held_the_notes(persona, encode, build, seed):
    rng = random.Random(seed)
    notes = make_notes(80)
    persona.add(notes, encode)
    doomed = rng.sample(notes, rng.choice([1, 5, 40, 79]))
    receipt = persona.forget(ids=[handle(note) for note in doomed])
    fresh = build([note for note in notes if note not in doomed])
    assert_same_store(persona, fresh)
    assert receipt.store_after == fresh.store_hash()
    assert receipt.store_before == build(notes).store_hash()
    assert receipt.ids == tuple(handle(note) for note in notes if note in doomed)
    assert receipt.notes == 80 - len(doomed)
    assert parse_time(receipt.time) > 1.7e9


def test_no_byte_of_a_forgotten_note_is_left_in_any_file(folder, persona, encode):
    notes = random_notes(150)
    persona.add(notes[:100], encode)
    persona.add(notes[100:], encode)
    kept = {note.output for note in notes}
    for count in (1, 20, 50):
        doomed = random.Random(count).sample([n for n in notes if n.output in kept], count)
        persona.forget(ids=[handle(note) for note in doomed])
        kept -= {note.output for note in doomed}
        assert_no_trace(folder, doomed)
    persona.close()
    assert_no_trace(folder, [note for note in notes if note.output not in kept])
    remaining = b"".join(file.read_bytes() for file in folder.iterdir())
    assert all(out.encode()[:12] in remaining for out in kept), "the search finds what is there"


@pytest.mark.parametrize("seed", [2, 5, 11])
def test_no_byte_is_left_on_pages_that_the_database_has_split_and_merged(
    folder, persona, encode, seed
):
    # secure_delete alone fails these: copies of moved cells outlive the cells.
    rng = random.Random(seed)
    notes = make_notes(rng.choice([300, 1500]))
    rng.shuffle(notes)
    persona.add(notes, encode)
    for turn in range(6):
        held = list(persona.notes())
        doomed = rng.sample(held, len(held) // 4)
        persona.forget(ids=[handle(note) for note in doomed])
        if turn % 2:
            persona.add(make_notes(100, start=5000 + 100 * turn), encode)
        left = b"".join(file.read_bytes() for file in folder.iterdir())
        for note in doomed:
            assert identity(note) not in left
            assert bytes.fromhex(note.digest) not in left
            assert note.output.encode()[:30] not in left


def test_no_byte_is_left_while_another_reader_is_open(folder, space, persona, encode):
    notes = random_notes(60)
    persona.add(notes, encode)
    with Persona.open(folder, space, read_only=True) as reader:
        walk = reader.notes()
        next(walk)
        reader.store_hash()
        persona.forget(ids=[handle(note) for note in notes[:30]])
        assert_no_trace(folder, notes[:30])


def test_edits_and_removals_by_sync_and_add_leave_no_byte_either(folder, persona, encode):
    notes = random_notes(100)
    persona.sync(notes, encode)
    edited = replace(notes[1], output="new text")
    persona.sync([notes[0], edited, *notes[10:]], encode)
    assert_no_trace(folder, [replace(notes[1], id="x" * 12, input=""), *notes[2:10]])
    persona.add([replace(notes[11], output="newer text")], encode)
    assert_no_trace(folder, [replace(notes[11], id="x" * 12, input="")])


@pytest.mark.parametrize(
    "after",
    [
        lambda persona, notes, encode: persona.forget(ids=[handle(notes[1])]),
        lambda persona, notes, encode: persona.forget(text="nobody ever wrote this"),
        lambda persona, notes, encode: persona.sync(notes[:2], encode),
    ],
    ids=["a forget", "a forget that finds nothing", "a sync that changes nothing"],
)
def test_vectors_staged_by_an_interrupted_sync_go_with(folder, persona, encode, monkeypatch, after):
    monkeypatch.setattr("ppedge.store.writer.COMMIT_NOTES", 1)
    notes = random_notes(200)
    persona.add(notes[:2], encode)

    def breaks(asked):
        if len(encode.seen) > 60:
            raise KeyboardInterrupt
        return encode(asked)

    with pytest.raises(KeyboardInterrupt):
        persona.sync(notes[1:], breaks)
    row = Encoder().row(notes[2])
    assert any(row[2 * D_KEY :] in file.read_bytes() for file in folder.iterdir()), (
        "it had been staged"
    )
    after(persona, notes, encode)
    assert_no_trace(folder, notes[2:66])
    assert persona.stats().erased


def test_forget_that_cannot_erase_the_log_says_so_and_the_next_opening_does(
    folder, space, persona, encode, monkeypatch
):
    notes = random_notes(20)
    persona.add(notes, encode)
    monkeypatch.setattr("ppedge.store.database._BUSY_MILLISECONDS", 50)
    stuck = sqlite3.connect(folder / "notes.db", isolation_level=None)
    stuck.execute("BEGIN")
    stuck.execute("SELECT * FROM notes").fetchone()
    with pytest.raises(StoreError, match=r"another process is (reading|using)"):
        persona.forget(ids=[handle(notes[0])])
    assert list(persona.notes()) == notes[1:], "it is forgotten all the same"
    assert not persona.stats().erased
    assert any("not erased yet" in problem.message for problem in persona.verify())
    stuck.close()
    with Persona.open(folder, space) as store:
        assert store.stats().erased
        assert store.verify() == []
        assert_no_trace(folder, notes[:1])


def test_forget_by_text_looks_in_input_and_output_whatever_the_case(persona, encode):
    persona.add(
        [Note("Dear ANNA,"), Note("yes", input="anna asks"), Note("hanna"), Note("no")], encode
    )
    assert persona.forget(text="anna").notes == 1


def test_forget_by_time_takes_after_and_leaves_before_and_the_undated(dated):
    assert dated.forget(before=86400.0 * 2).ids == ("d0", "d1")
    assert dated.forget(after=86400.0 * 8).ids == ("d8", "d9")
    assert [note.id for note in dated.notes()] == ["d2", "d3", "d4", "d5", "d6", "d7", ""]


def test_forget_wants_every_criterion_met(dated):
    receipt = dated.forget(ids=["d1", "d5", "d7"], after=86400.0 * 5, text="day")
    assert receipt.ids == ("d5", "d7")


def test_forget_everything_leaves_the_empty_store(dated, build):
    assert len(dated.forget(everything=True).ids) == 11
    assert_same_store(dated, build([]))


def test_forget_that_matches_nothing_changes_nothing(dated):
    receipt = dated.forget(text="no such words")
    assert receipt.ids == ()
    assert receipt.store_before == receipt.store_after
    assert receipt.notes == 11


def test_an_unknown_id_forgets_nothing_at_all(dated):
    with pytest.raises(StoreError, match='no note has the id "d10"'):
        dated.forget(ids=["d1", "d10"])
    assert len(dated) == 11


@pytest.mark.parametrize("arguments", [{}, {"everything": True, "text": "x"}])
def test_forget_wants_to_be_told_what(dated, arguments):
    with pytest.raises(StoreError, match="say what to forget"):
        dated.forget(**arguments)
    assert len(dated) == 11


def test_an_empty_text_forgets_nothing(dated):
    with pytest.raises(StoreError, match="text to forget by is empty"):
        dated.forget(text="")
    assert len(dated) == 11


def test_a_forgotten_note_can_come_back(dated, encode):
    note = dated.get("d3")
    dated.forget(ids=["d3"])
    assert dated.add([note], encode).added == 1
    assert format_time(dated.get("d3").time) == "1970-01-04T00:00:00+00:00"
