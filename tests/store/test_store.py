import io
import json
import math
import random
import threading
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ppedge.errors import StoreError
from ppedge.notes.reader import Note, note_line, read_notes
from ppedge.notes.text import is_blank
from ppedge.store.opening import current_rows
from ppedge.store.persona import PIN_WEIGHT, Persona, handle
from ppedge.store.rows import Space
from ppedge.store.sql_read import identity

from .kit import D_KEY, D_VALUE, Encoder, assert_same_store, make_notes, make_query, make_space


def softmax_pool(notes, query, scale, salt=""):
    """The paper's formula in float64 over the float16 rows, the null note first."""
    rows = [np.frombuffer(make_space().null_row, "<f2")]
    rows += [np.frombuffer(Encoder(salt).row(note), "<f2") for note in notes]
    keys, values = np.split(np.array(rows, np.float64), [D_KEY], axis=1)
    scores = scale * keys @ query.astype(np.float64)
    weights = np.exp(scores - scores.max())
    weights /= weights.sum()
    return weights, weights @ values


def test_adding_the_same_notes_again_encodes_nothing(persona, encode):
    notes = make_notes(100)
    first = persona.add(notes, encode)
    second = persona.add(notes, encode)
    assert (first.added, first.encoded, first.notes) == (100, 100, 100)
    assert (second.unchanged, second.added, second.encoded, second.notes) == (100, 0, 0, 100)
    assert list(persona.notes()) == notes


def test_notes_outlive_the_process_that_added_them(folder, space, encode):
    with Persona.open(folder, space) as store:
        store.add(make_notes(10), encode)
        before = store.store_hash()
    with Persona.open(folder, space) as store:
        assert list(store.notes()) == make_notes(10)
        assert store.store_hash() == before


def test_only_new_notes_are_encoded(persona, encode):
    persona.add(make_notes(10), encode)
    encode.seen.clear()
    persona.add(make_notes(13), encode)
    assert encode.seen == make_notes(3, start=10)


def test_new_content_under_a_known_id_changes_that_note_in_its_place(persona, encode, build):
    notes = make_notes(10)
    persona.add(notes, encode)
    encode.seen.clear()
    notes[3] = replace(notes[3], output="rewritten")
    report = persona.add([notes[3]], encode)
    assert (report.changed, report.added, report.unchanged) == (1, 0, 0)
    assert encode.seen == [notes[3]]
    assert_same_store(persona, build(notes))


def test_of_two_contents_under_one_id_the_last_added_stays(persona, encode):
    persona.add([Note("first", id="a"), Note("second", id="a")], encode)
    assert list(persona.notes()) == [Note("second", id="a")]
    persona.add([Note("third", id="a"), *make_notes(70), Note("second", id="a")], encode)
    assert persona.get("a") == Note("second", id="a")
    assert persona.verify() == []


def test_two_notes_of_the_same_content_and_no_id_are_one_note(persona, encode):
    report = persona.add([Note("same"), Note("other"), Note("same")], encode)
    assert (report.added, report.unchanged, len(persona)) == (2, 1, 2)
    persona.add([Note("same", time=5.0)], encode)
    assert len(persona) == 3, "another time makes it another note"


def test_an_id_is_never_taken_for_a_content_hash(persona, encode):
    persona.add([Note("text")], encode)
    persona.add([Note("other", id=handle(Note("text")))], encode)
    assert len(persona) == 2


def test_text_that_is_known_under_another_id_or_time_is_not_encoded_again(persona, encode):
    persona.add([Note("same", id="a")], encode)
    report = persona.add([Note("same", id="b"), Note("same", id="a", time=9.0)], encode)
    assert (report.added, report.changed, report.encoded) == (1, 1, 0)
    assert persona.get("a").time == 9.0
    assert persona.verify() == []


@pytest.mark.parametrize("seed", range(12))
def test_sync_leaves_what_a_fresh_build_would(persona, encode, build, seed):
    rng = random.Random(seed)
    pool = make_notes(60)
    for _ in range(4):
        wanted = [note for note in pool if rng.random() < 0.7]
        if rng.random() < 0.5:
            rng.shuffle(wanted)
        wanted = [
            replace(note, output=f"edit {rng.random()}") if rng.random() < 0.1 else note
            for note in wanted
        ]
        report = persona.sync(wanted, encode)
        assert report.notes == len(wanted) == len(persona)
        assert_same_store(persona, build(wanted))


def test_sync_counts_what_it_did(persona, encode):
    notes = make_notes(10)
    persona.sync(notes, encode)
    wanted = [*notes[2:], Note("new")]
    wanted[1] = replace(notes[3], output="changed")
    assert asdict(persona.sync(wanted, encode)) == {
        "added": 1,
        "changed": 1,
        "removed": 2,
        "unchanged": 7,
        "encoded": 2,
        "notes": 9,
    }


def test_sync_with_one_changed_line_encodes_one_note(persona, encode):
    notes = make_notes(100)
    persona.sync(notes, encode)
    encode.seen.clear()
    notes[30] = replace(notes[30], output="changed")
    persona.sync(notes, encode)
    assert encode.seen == [notes[30]]


def test_sync_with_an_unchanged_file_writes_nothing(persona, encode, folder):
    persona.sync(make_notes(50), encode)
    before = persona.store_hash(), sorted(f.name for f in folder.iterdir())
    report = persona.sync(make_notes(50), encode)
    assert (report.unchanged, report.encoded) == (50, 0)
    assert (persona.store_hash(), sorted(f.name for f in folder.iterdir())) == before


def test_sync_to_an_empty_file_empties_the_store(persona, encode, build):
    persona.sync(make_notes(5), encode)
    assert persona.sync([], encode).removed == 5
    assert_same_store(persona, build([]))


def test_sync_refuses_two_contents_under_one_id_and_changes_nothing(persona, encode):
    persona.sync(make_notes(5), encode)
    with pytest.raises(StoreError, match='two notes have the id "id-0" and different content'):
        persona.sync([*make_notes(5), Note("other", id="id-0")], encode)
    assert list(persona.notes()) == make_notes(5)


def test_an_interrupted_sync_changes_nothing_and_resumes_without_encoding_twice(
    folder, space, encode, build, monkeypatch
):
    monkeypatch.setattr("ppedge.store.writer.COMMIT_NOTES", 1)
    notes = make_notes(300)

    def breaks_after_130(asked):
        for note in asked:
            if len(encode.seen) >= 130 + 10:
                raise KeyboardInterrupt
            yield from encode([note])

    with Persona.open(folder, space) as store:
        store.add(notes[:10], encode)
        before = store.store_hash()
        with pytest.raises(KeyboardInterrupt):
            store.sync(notes[1:], breaks_after_130)
        assert store.store_hash() == before
        report = store.sync(notes[1:], encode)
        assert report.added == 290
        assert report.encoded == 290 - 128, "two chunks of 64 had been staged"
        assert_same_store(store, build(notes[1:]))


def test_an_interrupted_add_keeps_what_was_committed_and_resumes(folder, space, encode):
    notes = make_notes(100)

    def stream():
        yield from notes[:64]
        yield notes[64]
        raise OSError("the stream broke")

    with Persona.open(folder, space) as store:
        with pytest.raises(OSError, match="the stream broke"):
            store.add(stream(), encode)
        assert len(store) in (0, 64)
        store.add(notes, encode)
        assert list(store.notes()) == notes
        assert store.verify() == []


@pytest.mark.parametrize("n_notes", [0, 1, 7, 300])
def test_pooling_is_the_softmax_over_the_null_note_and_the_notes(persona, encode, n_notes):
    notes = make_notes(n_notes)
    persona.add(notes, encode)
    pooled = persona.pool(make_query(), scale=0.7)
    weights, value = softmax_pool(notes, make_query(), 0.7)
    np.testing.assert_allclose(pooled.weights, weights, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(pooled.value, value, rtol=1e-4, atol=1e-5)


def test_bits_do_not_depend_on_how_the_notes_came_in(persona, encode, build):
    notes = make_notes(150)
    for note in notes:
        persona.add([note], encode)
    assert_same_store(persona, build(notes))


def test_the_heaviest_notes_come_first_and_never_the_null_note(persona, encode):
    notes = make_notes(40)
    persona.add(notes, encode)
    pooled = persona.pool(make_query(), scale=1.0)
    weights = softmax_pool(notes, make_query(), 1.0)[0][1:]
    expected = [notes[i] for i in np.argsort(-weights)[:5]]
    found = persona.heaviest(pooled.weights, 5)
    assert [note for note, _ in found] == expected
    assert [weight for _, weight in found] == sorted((w for _, w in found), reverse=True)
    assert len(persona.heaviest(pooled.weights, 1000)) == 40


def test_weights_of_a_store_that_has_changed_are_refused(persona, encode):
    persona.add(make_notes(5), encode)
    pooled = persona.pool(make_query(), scale=1.0)
    persona.pin("id-0")
    with pytest.raises(StoreError, match="changed after pooling"):
        persona.heaviest(pooled.weights, 1)


def test_a_muted_note_weighs_nothing_and_a_pinned_one_weighs_eightfold(persona, encode):
    notes = make_notes(6)
    persona.add(notes, encode)
    assert persona.bias() is None
    plain = persona.pool(make_query(), scale=1.0).weights.astype(np.float64)
    persona.mute("id-0")
    persona.pin(handle(notes[1]))
    assert persona.marks() == {"id-0": -1, handle(notes[1]): 1}
    plain[1] = 0
    plain[2] *= PIN_WEIGHT
    marked = persona.pool(make_query(), scale=1.0).weights
    np.testing.assert_allclose(marked, plain / plain.sum(), rtol=1e-5)
    assert marked[1] == 0
    np.testing.assert_allclose(persona.bias()[:4], [0, -math.inf, math.log(PIN_WEIGHT), 0])
    persona.unmark("id-0")
    persona.unmark(handle(notes[1]))
    assert persona.bias() is None


def test_marks_stay_with_their_note_when_others_go_and_leave_with_it(persona, encode):
    notes = make_notes(9)
    persona.add(notes, encode)
    persona.pin("id-3")
    persona.forget(ids=["id-0"])
    assert persona.marks() == {"id-3": 1}
    assert np.flatnonzero(persona.bias()).tolist() == [3]
    persona.add([replace(notes[3], output="edited")], encode)
    assert persona.marks() == {"id-3": 1}
    assert persona.verify() == []
    persona.forget(ids=["id-3"])
    persona.add([notes[3]], encode)
    assert persona.marks() == {}


def test_a_muted_history_is_the_empty_history(persona, encode, build):
    persona.add(make_notes(3), encode)
    for note in make_notes(3):
        persona.mute(handle(note))
    ours = persona.pool(make_query(), scale=1.0).value
    assert ours.tobytes() == build([]).pool(make_query(), scale=1.0).value.tobytes()


# --- what the plug adds to the scores ---


def plain_scores(persona) -> np.ndarray:
    """Scores [n+1] up to a constant, in float64, from the weights of a plain pool."""
    return np.log(persona.pool(make_query(), scale=1.0).weights.astype(np.float64))


def softmax(scores: np.ndarray) -> np.ndarray:
    exps = np.exp(scores - scores.max())
    return exps / exps.sum()


def test_with_recency_a_note_loses_by_the_log_of_how_many_come_after_it(persona, encode):
    persona.add(make_notes(5), encode)
    scores = plain_scores(persona)
    # The null note is nobody's past; the last note loses nothing.
    scores[1:] -= 0.8 * np.log([5, 4, 3, 2, 1])
    found = persona.pool(make_query(), scale=1.0, recency=0.8).weights
    np.testing.assert_allclose(found, softmax(scores), rtol=1e-5)


def test_a_muted_note_still_counts_as_one_that_came_after(persona, encode):
    notes = make_notes(4)
    persona.add(notes, encode)
    scores = plain_scores(persona)
    scores[1:] -= 0.8 * np.log([4, 3, 2, 1])
    scores[3] = -math.inf
    scores[1] += math.log(PIN_WEIGHT)
    persona.mute(handle(notes[2]))
    persona.pin(handle(notes[0]))
    found = persona.pool(make_query(), scale=1.0, recency=0.8).weights
    np.testing.assert_allclose(found, softmax(scores), rtol=1e-5)
    marked = persona.bias()
    persona.pool(make_query(), scale=1.0, recency=0.8)
    np.testing.assert_array_equal(persona.bias(), marked)


def test_a_null_note_that_does_not_compete_weighs_nothing_beside_a_note(persona, encode):
    persona.add(make_notes(3), encode)
    scores = plain_scores(persona)
    scores[0] = -math.inf
    found = persona.pool(make_query(), scale=1.0, null_competes=False).weights
    np.testing.assert_allclose(found, softmax(scores), rtol=1e-5)
    assert found[0] == 0


@pytest.mark.parametrize("muted", [False, True], ids=["no notes", "all muted"])
@pytest.mark.parametrize("recency", [0.0, 2.0])
def test_where_no_note_is_heard_the_null_note_answers_all_the_same(persona, encode, muted, recency):
    if muted:
        persona.add(make_notes(3), encode)
        for note in make_notes(3):
            persona.mute(handle(note))
    pooled = persona.pool(make_query(), scale=1.0, recency=recency, null_competes=False)
    assert pooled.weights.tolist() == [1.0] + [0.0] * len(persona)
    np.testing.assert_array_equal(pooled.value, make_space().null_value.astype(np.float32))


def test_when_one_of_all_muted_notes_is_heard_again_the_null_note_steps_back(persona, encode):
    notes = make_notes(3)
    persona.add(notes, encode)
    for note in notes:
        persona.mute(handle(note))
    persona.unmark(handle(notes[1]))
    pooled = persona.pool(make_query(), scale=1.0, null_competes=False)
    assert pooled.weights.tolist() == [0, 0, 1, 0]


def test_notes_are_found_by_id_by_handle_and_by_the_start_of_a_handle(persona, encode):
    notes = make_notes(5)
    persona.add(notes, encode)
    assert persona.get("id-3") == notes[3]
    assert persona.get(handle(notes[1])) == notes[1]
    assert persona.get(handle(notes[1])[: len("sha256:") + 8].upper().replace("SHA", "sha"))
    for absent in ("id-999", "", "sha256:00000000", handle(notes[1])[:10], "sha256:%%%%%%%%"):
        with pytest.raises(StoreError, match="no note has the id"):
            persona.get(absent)


def test_notes_are_listed_by_text_and_time(persona, encode):
    notes = [
        Note("Straße", time=10.0),
        Note("plain", input="in der STRASSE", time=20.0),
        Note("undated"),
    ]
    persona.add(notes, encode)
    assert list(persona.notes(text="strasse")) == notes[:2]
    assert list(persona.notes(before=20.0)) == notes[:1]
    assert list(persona.notes(after=20.0)) == notes[1:2]
    assert list(persona.notes(text="strasse", after=15.0)) == notes[1:2]


def test_listing_survives_a_change_in_the_middle(persona, encode):
    persona.add(make_notes(1200), encode)
    walk = persona.notes()
    first = next(walk)
    persona.forget(everything=True)
    assert first == make_notes(1)[0]
    assert len(list(walk)) < 600


TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=40)
NOTE = st.builds(
    Note,
    output=TEXT.filter(lambda text: not is_blank(text)),  # What a reader takes.
    input=TEXT,
    id=st.one_of(st.just(""), TEXT.filter(str.strip)),
    time=st.one_of(st.none(), st.floats(-6e10, 2e11)),
)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(notes=st.lists(NOTE, max_size=8, unique_by=lambda note: note.id or note))
def test_export_reads_back_to_the_same_notes(tmp_path_factory, notes):
    with Persona.open(tmp_path_factory.mktemp("persona"), make_space()) as store:
        store.add(notes, Encoder())
        held = list(store.notes())
        out = io.StringIO()
        assert store.export(out) == len(held)
    assert list(read_notes(io.BytesIO(out.getvalue().encode()))) == held
    assert {note_line(note) for note in held} == {note_line(note) for note in notes}


def test_a_plain_note_exports_as_one_text_field(persona, encode):
    persona.add([Note("café")], encode)
    out = io.StringIO()
    persona.export(out)
    assert out.getvalue() == json.dumps({"text": "café"}, ensure_ascii=False) + "\n"


def test_stats_count_notes_marks_bytes_and_times(persona, encode, folder):
    persona.add([Note("né", id="a", time=5.0), Note("xy", input="z", time=7.0)], encode)
    persona.pin("a")
    stats = persona.stats()
    assert (stats.notes, stats.notes_with_id, stats.pinned, stats.muted) == (2, 1, 1, 0)
    assert (stats.earliest, stats.latest, stats.text_bytes) == (5.0, 7.0, 6)
    assert stats.disk_bytes == sum(f.stat().st_size for f in folder.iterdir())
    assert (stats.d_key, stats.d_value, stats.erased) == (D_KEY, D_VALUE, True)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (Note(""), "empty output"),
        (Note("\u0301"), "nothing that can be seen"),
        (Note(" \n"), "empty output"),
        (Note("nul \0 in it"), "NUL"),
        (Note("half \ud800"), "surrogate"),
        (Note("x", id="\udfff"), "surrogate"),
        (Note("x", time=math.nan), "time nan"),
    ],
)
def test_a_note_that_could_not_be_given_back_is_refused(persona, encode, bad, message):
    with pytest.raises(StoreError, match=message):
        persona.add([Note("good"), bad], encode)
    assert persona.verify() == []


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        (np.zeros(D_KEY + 1), np.zeros(D_VALUE), r"key of note .* has shape \(9,\), expected"),
        (np.zeros(D_KEY), np.zeros((1, D_VALUE)), r"value of note .* has shape \(1, 12\)"),
        (np.full(D_KEY, np.nan), np.zeros(D_VALUE), "do not fit float16"),
        (np.full(D_KEY, 65520.0), np.zeros(D_VALUE), "do not fit float16"),
    ],
)
def test_bad_vectors_are_refused_and_nothing_is_lost(persona, encode, key, value, message):
    persona.add(make_notes(3), encode)
    with pytest.raises(StoreError, match=message):
        persona.add([Note("new")], lambda notes: [(key, value)])
    assert list(persona.notes()) == make_notes(3)
    assert persona.verify() == []


def test_an_encoder_that_stops_early_is_refused(persona, encode):
    with pytest.raises(StoreError, match="vectors for 2 of 3 notes"):
        persona.add(make_notes(3), lambda notes: list(encode(notes))[:2])
    assert len(persona) == 0


def test_another_reader_sees_the_last_committed_state_during_a_change(
    folder, space, persona, encode
):
    persona.add(make_notes(5), encode)
    seen = []

    def encode_and_look(notes):
        with Persona.open(folder, space) as reader:
            seen.append(list(reader.notes()))
            reader.pool(make_query(), scale=1.0)
        return encode(notes)

    persona.sync([Note("new"), *make_notes(5)], encode_and_look)
    assert seen == [make_notes(5)]


def test_an_open_reader_follows_changes(folder, space, persona, encode, build):
    with Persona.open(folder, space, read_only=True) as reader:
        persona.add(make_notes(20), encode)
        assert_same_store(reader, persona)
        persona.forget(ids=["id-3"])
        assert_same_store(reader, persona)
        persona.sync(make_notes(7), encode)
        assert_same_store(reader, build(make_notes(7)))


def test_threads_pool_while_another_changes_the_store(persona, encode, build):
    notes = make_notes(64)
    persona.add(notes, encode)
    smaller = build([note for note in notes if note.id != "id-0"])
    allowed = {store.pool(make_query(), scale=1.0).value.tobytes() for store in (persona, smaller)}
    done = threading.Event()
    found, errors = set(), []

    def pool_on():
        try:
            while not done.is_set():
                found.add(persona.pool(make_query(), scale=1.0).value.tobytes())
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=pool_on) for _ in range(4)]
    for thread in threads:
        thread.start()
    for _ in range(10):
        persona.forget(ids=["id-0"])
        persona.sync(notes, encode)
    done.set()
    for thread in threads:
        thread.join()
    assert errors == []
    assert found == allowed


def test_pooling_that_a_change_comes_into_sees_the_store_before_or_after(
    folder, space, persona, encode, monkeypatch
):
    persona.add(make_notes(20), encode)
    persona.mute("id-18")
    looks = []

    def look_then_change(*arguments):
        found = current_rows(*arguments)
        if not looks:
            persona.forget(ids=["id-0", "id-3"])
        looks.append(found)
        return found

    with Persona.open(folder, space) as reader:
        monkeypatch.setattr("ppedge.store.persona_reader.current_rows", look_then_change)
        pooled = reader.pool(make_query(), scale=1.0)
    assert len(looks) == 2
    assert pooled.value.tobytes() == persona.pool(make_query(), scale=1.0).value.tobytes()
    assert np.flatnonzero(pooled.weights == 0).tolist() == [17]


def test_verify_that_notes_are_added_into_finds_nothing_wrong(
    folder, space, persona, encode, monkeypatch
):
    persona.add(make_notes(600), encode)
    added = []

    def identity_after_adding(note):
        if not added:
            added.append(persona.add(make_notes(5, start=600), encode).added)
        return identity(note)

    with Persona.open(folder, space) as reader:
        monkeypatch.setattr("ppedge.store.check.identity", identity_after_adding)
        assert reader.verify() == []
    assert added == [5]


def test_progress_reaches_the_number_of_notes(persona, encode):
    ticks = []
    persona.add(make_notes(150), encode, progress=lambda *tick: ticks.append(tick))
    assert ticks == [(64, 150), (128, 150), (150, 150)]
    ticks.clear()
    persona.add(iter(make_notes(150)), encode, progress=lambda *tick: ticks.append(tick))
    assert ticks[-1] == (150, None)


def test_a_store_opened_without_its_plug_reads_and_forgets_but_does_not_add(folder, encode, space):
    with Persona.open(folder, space) as store:
        store.add(make_notes(4), encode)
    with Persona.open(folder) as store:
        store.forget(ids=["id-0"])
        assert list(store.notes()) == make_notes(4)[1:]
        assert store.verify() == []
        for change in (store.add, store.sync):
            with pytest.raises(StoreError, match="needs the plug"):
                change(make_notes(1), encode)
        with pytest.raises(StoreError, match="needs the plug"):
            store.repair(encode)


def test_a_missing_store_is_not_made_unless_asked(folder, space):
    for arguments in ({"space": None}, {"space": space, "create": False}):
        with pytest.raises(StoreError, match="no persona here"):
            Persona.open(folder, **arguments)
    assert not folder.exists()


def test_a_folder_with_other_files_does_not_become_a_store(folder, space):
    folder.mkdir()
    (folder / "thesis.txt").write_text("mine")
    with pytest.raises(StoreError, match=r"holds other files \(thesis.txt\)"):
        Persona.open(folder, space)
    assert [f.name for f in folder.iterdir()] == ["thesis.txt"]


def test_a_closed_store_says_that_it_is_closed(folder, space):
    with Persona.open(folder, space) as store:
        pass
    for use in (lambda: len(store), lambda: store.pool(make_query(), scale=1.0), store.verify):
        with pytest.raises(StoreError, match="the store was closed; open it again"):
            use()


def test_a_store_that_knows_its_plug_by_the_former_hash_opens_and_stays_so(
    folder: Path, space: Space, encode: Encoder
) -> None:
    old = replace(space, plug_sha256="a" * 64)
    with Persona.open(folder, old) as persona:
        persona.add([Note("one"), Note("two")], encode)
    new = replace(space, formerly="a" * 64)
    with Persona.open(folder, new) as persona:
        persona.add([Note("three")], encode)
        persona.forget(text="one")
        assert persona.verify() == []
        assert persona.repair(encode) == 0
        assert persona.layout == old.layout
        assert len(persona) == 2
    damaged = next(folder.glob("values.*"))
    data = bytearray(damaged.read_bytes())
    data[-1] ^= 255
    damaged.write_bytes(data)
    with Persona.open(folder, new, damaged=True) as persona:
        assert persona.repair(encode) == 1
        assert persona.verify() == []
    with pytest.raises(StoreError, match="made for plug"):
        Persona.open(folder, space)
