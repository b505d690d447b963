"""Scopes, marks, and the views that answers are made of."""

import math
import signal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ppedge.errors import StoreError
from ppedge.notes.reader import Note
from ppedge.notes.tags import clean_tags, inline_tags, is_tagged, is_under, listed_tags
from ppedge.store import database
from ppedge.store.persona import Persona, Scope
from ppedge.store.scope import parse_scope
from ppedge.turns.choose import choose_notes, keep_last

from .kit import Encoder, make_notes, make_query

NOTES = [
    Note("one", id="n1", time=100.0, tags=("Work",), source="vault/Journal/a.md"),
    Note("two", id="n2", time=200.0, tags=("work/plans", "x"), source="vault/b.md"),
    Note("three", id="n3", time=300.0, tags=("workshop",), source="vault/Journal/Old/c.md"),
    Note("four", id="vault/journal/d.md", tags=("#home",)),
    Note("five", tags=("home", "work")),
]


@pytest.fixture
def tagged(persona: Persona, encode: Encoder) -> Persona:
    persona.add(NOTES, encode)
    return persona


def held(persona: Persona, scope: Scope) -> list[str]:
    return [note.output for note in persona.scoped(scope).notes()]


@pytest.mark.parametrize(
    ("scope", "wanted"),
    [
        (Scope(), ["one", "two", "three", "four", "five"]),
        (Scope(tags=("work",)), ["one", "two", "five"]),
        (Scope(tags=("#WORK",)), ["one", "two", "five"]),
        (Scope(tags=("work/plans",)), ["two"]),
        (Scope(tags=("home", "workshop")), ["three", "four", "five"]),
        (Scope(tags=("nothing",)), []),
        (Scope(folders=("Journal",)), ["one", "three", "four"]),
        (Scope(folders=("vault/journal",)), ["one", "three", "four"]),
        (Scope(folders=("Journal/Old/",)), ["three"]),
        (Scope(folders=("a.md",)), []),
        (Scope(folders=("vault",), tags=("work",)), ["one", "two"]),
        (Scope(since=200.0), ["two", "three"]),
        (Scope(until=200.0), ["one"]),
        (Scope(since=100.0, until=300.0, tags=("x",)), ["two"]),
    ],
)
def test_a_scope_holds_the_notes_that_meet_each_of_its_parts(tagged, scope, wanted):
    assert held(tagged, scope) == wanted
    view = tagged.scoped(scope)
    assert len(view) == len(wanted)
    assert [note.output for note in view.sample(10).notes] == wanted


def test_a_view_pools_as_a_store_that_never_held_the_others(tagged, build):
    view = tagged.scoped(Scope(tags=("work",)))
    alone = build([note for note in NOTES if is_tagged(note.tags, "work")])
    for seed in range(3):
        ours, theirs = (store.pool(make_query(seed), scale=0.5) for store in (view, alone))
        np.testing.assert_allclose(ours.value, theirs.value, rtol=1e-6)
        assert view.heaviest(ours.weights, 9) == [
            (note, pytest.approx(weight, rel=1e-5))
            for note, weight in alone.heaviest(theirs.weights, 9)
        ]
    empty = tagged.scoped(Scope(tags=("nothing",))).pool(make_query(), scale=0.5)
    assert empty.value.tobytes() == build([]).pool(make_query(), scale=0.5).value.tobytes()


def test_a_view_follows_changes_of_notes_and_marks(tagged, encode):
    view = tagged.scoped(Scope(tags=("work",)))
    assert [note.output for note in view.sample(9).notes] == ["one", "two", "five"]
    tagged.mute("n1", "n3")
    assert [note.output for note in view.sample(9).notes] == ["two", "five"]
    assert view.marks() == {"n1": -1}
    np.testing.assert_array_equal(np.isinf(view.bias()), [0, 1, 0, 1, 1, 0])
    tagged.forget(ids=["n2"])
    tagged.add([Note("six", tags=("work",))], encode)
    assert [note.output for note in view.sample(9).notes] == ["five", "six"]
    assert len(view) == 3


def test_a_view_of_a_view_holds_the_notes_of_both(tagged):
    view = tagged.scoped(Scope(tags=("work",))).scoped(Scope(folders=("Journal",)))
    assert [note.output for note in view.notes()] == ["one"]
    assert view.scope_key not in ("", tagged.scoped(Scope(tags=("work",))).scope_key)


def test_a_view_changes_nothing_and_closing_it_neither(tagged, encode):
    view = tagged.scoped(Scope(tags=("work",)))
    for change in (lambda: view.add(NOTES, encode), lambda: view.forget(ids=["n1"])):
        with pytest.raises(StoreError, match="for reading only"):
            change()
    with view:
        pass
    assert len(tagged) == 5
    assert len(view) == 3


def test_views_of_other_notes_have_other_keys_and_that_of_all_has_none():
    scopes = [
        Scope(),
        Scope(tags=("a",)),
        Scope(folders=("a",)),
        Scope(tags=("a", "b")),
        Scope(since=1.0),
        Scope(until=1.0),
    ]
    assert len({scope.key for scope in scopes}) == len(scopes)
    assert Scope().key == ""
    assert Scope(tags=("b", "a")).key == Scope(tags=("a", "b")).key


def test_kept_states_of_views_do_not_meet_and_do_not_pile_up(tagged):
    version = tagged.version()
    for i in range(9):
        view = tagged.scoped(Scope(tags=(f"t{i}",)))
        assert view.keep_prefix(f"{i + 1}" * 64, version, b"s" * 99)
        assert tagged.kept_prefix("a" * 64) is None
        if i == 0:
            assert tagged.keep_prefix("b" * 64, version, b"all")
        assert tagged.kept_prefix("b" * 64) == b"all"  # Used, and so not the oldest.
    assert len(list(tagged.path.glob("prefix.*"))) == 3


# --- pinned and muted ---


def test_pinned_notes_win_in_a_sample(persona, encode):
    notes = make_notes(60)
    persona.add(notes, encode)
    persona.pin("id-3", "id-6", "id-51")
    sample = persona.sample(5)
    names = [note.id for note in sample.notes]
    assert {"id-3", "id-6", "id-51"} <= set(names)
    assert len(names) == 5
    assert [names[i] for i in sorted(sample.pinned)] == ["id-3", "id-6", "id-51"]
    assert [note.id for note in persona.sample(2).notes] == ["id-6", "id-51"]
    assert persona.sample(0).notes == []
    assert [notes.index(note) for note in sample.notes] == sorted(map(notes.index, sample.notes))


def test_marks_are_set_all_or_none(persona, encode):
    persona.add(make_notes(9), encode)
    with pytest.raises(StoreError, match='no note has the id "absent"'):
        persona.pin("id-3", "absent")
    assert persona.marks() == {}
    persona.pin("id-3", "id-6")
    persona.mute("id-3")
    assert persona.marks() == {"id-3": -1, "id-6": 1}
    persona.pin()
    persona.unmark("id-3", "id-6")
    assert persona.marks() == {}


def test_a_muted_note_is_not_among_the_heaviest(persona, encode):
    persona.add(make_notes(6), encode)
    persona.mute("id-0", "id-3")
    pooled = persona.pool(make_query(), scale=1.0)
    assert {note.id for note, _ in persona.heaviest(pooled.weights, 9)} == {""}


def test_pinned_notes_are_chosen_first_and_make_way_last():
    notes = [Note(f"note number {i} about {'abcdefghij'[i]}") for i in range(10)]
    assert {2, 7} <= set(choose_notes(notes, 4, {2, 7}))
    assert len(choose_notes(notes, 4, {2, 7})) == 4
    assert choose_notes(notes, 1, {2, 5, 7}) == [2, 5, 7]
    assert choose_notes(notes, 0, {2}) == []
    assert keep_last([1, 2, 5, 7], {1, 5}, 4) == [1, 2, 5, 7]
    assert keep_last([1, 2, 5, 7], {1, 5}, 3) == [1, 5, 7]
    assert keep_last([1, 2, 5, 7], {1, 5}, 1) == [5]
    assert keep_last([1, 2], set(), 0) == []


# --- tags and terms ---


def test_tags_of_markdown():
    text = "#one and `#code` (#no) http://x/#y #two/three/ #4 #v4\n```\n#no\n```\n# Title\n#Ünï_x"
    assert inline_tags(text) == ["one", "two/three", "v4", "Ünï_x"]
    assert listed_tags('[a, "two words", ]') == ["a", "two words", ""]
    assert listed_tags("a, b c") == ["a", "b c"]
    assert listed_tags("#a #b") == ["#a", "#b"]
    assert clean_tags(["#A", "a", " ", "#", "b\0", "x" * 999]) == ("A", "b")


@given(st.lists(st.text(), max_size=4), st.text())
def test_comparing_tags_and_sources_never_fails(tags, wanted):
    assert is_tagged([*tags, wanted], wanted) in (True, False)
    if tags:
        assert is_tagged(tags, tags[0])
    assert not is_under("", wanted)
    assert is_under(f"{wanted}x/file", f"{wanted}x") or "/" in wanted or "\\" in wanted


@pytest.mark.parametrize("term", ["", "work", "tag:", "tag:#", "tag: /", "file:x", ":x", "Tag:x"])
def test_a_term_of_no_known_form_is_refused_in_a_line(term):
    with pytest.raises(StoreError, match="is no scope; write tag:NAME or folder:NAME") as error:
        parse_scope((term,))
    assert "\n" not in str(error.value)


def test_terms_become_a_scope():
    assert parse_scope(("tag:a", "folder:b c", "tag:#d"), 1.0, 2.0) == Scope(
        ("a", "#d"), ("b c",), 1.0, 2.0
    )
    with pytest.raises(StoreError, match="no time lies between"):
        parse_scope((), 2.0, 2.0)
    assert parse_scope().is_all
    assert not Scope(since=-math.inf).is_all


# --- Ctrl-C while SQLite is calling back ---


@pytest.mark.parametrize("called", ["is_tagged", "is_under"])
def test_ctrl_c_while_sqlite_calls_back_is_no_damage(tagged, monkeypatch, called):
    def pressed(*_):
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(database, called, pressed)
    with pytest.raises(KeyboardInterrupt):
        held(tagged, Scope(tags=("work",), folders=("vault",)))
    monkeypatch.undo()
    assert held(tagged, Scope(tags=("work",), folders=("vault",))) == ["one", "two"]
    assert tagged.verify() == []


def test_times_that_are_whole_numbers_are_kept_as_any(persona, encode):
    persona.add([Note("one", time=5)], encode)
    assert persona.verify() == []
    assert persona.add([Note("one", time=5.0)], encode).unchanged == 1
