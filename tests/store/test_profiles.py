"""Personas by name: made, renamed, deleted, exported and imported, and killed in the middle."""

import itertools
import json
import os
import random
import signal
import time
import unicodedata
import zipfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ppedge.errors import StoreError
from ppedge.notes.reader import Note
from ppedge.store.persona import Persona
from ppedge.store.profiles import MAX_NAME_CHARACTERS, Profiles, checked_name

from .kit import Encoder, assert_same_store, make_notes, make_space

TAGGED = Note("of the garden", id="g1", tags=("home",), source="v/a.md")


@pytest.fixture
def kept(tmp_path: Path) -> Profiles:
    return Profiles(tmp_path / "personas")


def filled(kept: Profiles, name: str, count: int = 9) -> Path:
    folder = kept.create(name)
    with Persona.open(folder, make_space()) as store:
        store.add([*make_notes(count), TAGGED], Encoder())
        store.pin("id-0", "g1")
        store.mute("id-3")
        store.keep_prefix("a" * 64, store.version(), b"what a model made of them")
    return folder


def left(kept: Profiles) -> list[str]:
    """All that lies in the folder of personas, and is none."""
    return [entry.name for entry in kept.root.iterdir() if entry.name not in kept.names()]


# --- names ---


def test_there_are_none_before_the_first_and_looking_makes_no_folder(kept):
    assert kept.names() == []
    assert not kept.has("work")
    assert kept.folder("work") == kept.root / "work"
    with pytest.raises(StoreError, match='no persona "work"; `ppedge persona list` names'):
        kept.existing("work")
    assert not kept.root.exists()


@pytest.mark.parametrize(
    "name", ["work", "Dr. Who-2", "a b", "Büro", "仕事", "Ελλάδα", "हिंदी", "7"]
)
def test_good_names(kept, name):
    folder = kept.create(name)
    assert folder.parent == kept.root
    assert kept.names() == [unicodedata.normalize("NFC", name)]
    assert kept.existing(name) == folder


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("", "it is empty"),
        (".", "must begin with a letter"),
        ("..", "must begin with a letter"),
        ("../x", 'it holds "/"'),
        ("a/b", 'it holds "/"'),
        ("a\\b", "it holds"),
        ("C:x", 'it holds ":"'),
        ("-x", "must begin with a letter"),
        (".hidden", "must begin with a letter"),
        ("a.", "must not end"),
        ("a ", "must not end"),
        ("a\nb", "U+000A"),
        ("a\0b", "U+0000"),
        ("a\u202eb", "U+202E"),
        ("\ud800", "U+D800"),
        ("a*", 'it holds "*"'),
        ("~", 'it holds "~"'),
        ("CON", "Windows keeps"),
        ("nul.txt", "Windows keeps"),
        ("Com7", "Windows keeps"),
        ("com¹", "Windows keeps"),
        ("x" * 65, "longer than 64 characters"),
        ("\U0001f9c0", "it holds"),
        ("仕" * 64, ""),
        ("𠀀" * 60, "longer than 200 bytes"),
    ],
)
def test_bad_names_are_refused_in_a_line_that_says_why(kept, name, why):
    if not why:
        assert checked_name(name) == name
        return
    for use in (kept.folder, kept.create, kept.existing, kept.delete):
        with pytest.raises(StoreError) as error:
            use(name)
        assert why in str(error.value)
        assert "\n" not in str(error.value)
    assert kept.names() == []


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.text(max_size=80))
def test_whatever_passes_as_a_name_is_one_step_below_and_comes_back(name):
    try:
        checked = checked_name(name)
    except StoreError:
        return
    assert checked == unicodedata.normalize("NFC", name)
    assert 0 < len(checked) <= MAX_NAME_CHARACTERS
    assert Path("root", checked).parent == Path("root")
    assert not Path(checked).is_absolute()
    assert checked_name(checked) == checked
    assert len(os.fsencode(checked)) < 255


def test_upper_and_lower_case_and_other_spellings_are_one_name(kept):
    folder = kept.create("Büro")
    for name in ("büro", "BÜRO", unicodedata.normalize("NFD", "Büro"), "ｂüro"):
        assert kept.existing(name) == folder
        with pytest.raises(StoreError, match='a persona "Büro" already'):
            kept.create(name)


def test_what_is_no_persona_is_not_listed_and_in_the_way_of_its_name(kept):
    kept.create("work")
    (kept.root / "file").write_text("x")
    (kept.root / ".hidden").mkdir()
    (kept.root / "a+b").mkdir()
    assert kept.names() == ["work"]
    with pytest.raises(StoreError, match="is in the way"):
        kept.create("file")


# --- rename and delete ---


def test_a_renamed_persona_is_the_same(kept, build):
    filled(kept, "work")
    folder = kept.rename("WORK", "Home")
    assert kept.names() == ["Home"]
    with Persona.open(folder, make_space()) as store:
        assert store.verify() == []
        assert store.marks() == {"id-0": 1, "g1": 1, "id-3": -1}
        assert store.kept_prefix("a" * 64) is not None
    kept.rename("home", "home")
    assert kept.names() == ["home"]
    filled(kept, "other")
    with pytest.raises(StoreError, match='a persona "other" already'):
        kept.rename("home", "OTHER")
    with pytest.raises(StoreError, match='no persona "absent"'):
        kept.rename("absent", "new")
    assert kept.names() == ["home", "other"]


def test_a_deleted_persona_leaves_no_byte(kept):
    filled(kept, "work")
    filled(kept, "other")
    reader = Persona.open(kept.existing("work"))  # Its log and index lie in the folder, too.
    kept.delete("work")
    reader.close()
    assert kept.names() == ["other"]
    assert left(kept) == [".lock"]
    with pytest.raises(StoreError, match='no persona "work"'):
        kept.delete("work")
    filled(kept, "work", 5)
    with Persona.open(kept.existing("work"), make_space()) as store:
        assert len(store) == 6
        assert store.verify() == []


def test_a_persona_that_is_being_changed_is_neither_renamed_nor_deleted(kept, monkeypatch):
    monkeypatch.setattr("ppedge.store.profiles._SECONDS", 0.1)
    folder = filled(kept, "work")
    with Persona.open(folder, make_space()) as store, store._changing():
        for change in (lambda: kept.delete("work"), lambda: kept.rename("work", "new")):
            with pytest.raises(StoreError, match=r"another process .* is changing this persona"):
                change()
    assert kept.names() == ["work"]
    assert left(kept) == [".lock"]


def test_a_link_to_a_persona_is_used_and_not_deleted(kept, tmp_path):
    folder = filled(kept, "work")
    moved = tmp_path / "moved"
    folder.rename(moved)
    folder.symlink_to(moved)
    with Persona.open(kept.existing("work")) as store:
        assert len(store) == 10
    with pytest.raises(StoreError, match="is a link; remove the folder that it points to"):
        kept.delete("work")
    assert (moved / "notes.db").exists()


# --- export and import ---


def test_what_was_exported_comes_back_the_same(kept, tmp_path, build):
    source = filled(kept, "work")
    path = tmp_path / "work.zip"
    assert kept.export("work", path) == 10
    assert path.stat().st_mode & 0o777 == 0o600
    report = kept.import_(path, "copy", make_space(), Encoder())
    assert report.notes == 10
    with Persona.open(source) as one, Persona.open(kept.existing("copy"), make_space()) as other:
        assert_same_store(one, other)
        assert other.marks() == {"id-0": 1, "g1": 1, "id-3": -1}
        assert other.get("g1") == TAGGED
    assert [entry.name for entry in tmp_path.iterdir() if entry.name != "personas"] == ["work.zip"]
    assert left(kept) == [".lock"]


def test_an_empty_persona_can_be_exported_and_imported(kept, tmp_path):
    kept.create("new")
    assert kept.export("new", tmp_path / "new.zip") == 0
    kept.import_(tmp_path / "new.zip", "copy", make_space(), Encoder())
    with Persona.open(kept.existing("copy")) as store:
        assert len(store) == 0


def test_nothing_that_is_there_is_overwritten(kept, tmp_path):
    filled(kept, "work")
    path = tmp_path / "work.zip"
    kept.export("work", path)
    before = path.read_bytes()
    with pytest.raises(StoreError, match="there is a file of that name"):
        kept.export("work", path)
    with pytest.raises(StoreError, match='a persona "work" already'):
        kept.import_(path, "Work", make_space(), Encoder())
    assert path.read_bytes() == before
    with pytest.raises(StoreError, match="No such file"):
        kept.export("work", tmp_path / "absent" / "work.zip")


def archive(path: Path, **members: object) -> Path:
    names = {"settings": "settings.json", "notes": "notes.jsonl"}
    with zipfile.ZipFile(path, "w") as out:
        for name, data in members.items():
            text = data if isinstance(data, str | bytes) else json.dumps(data)
            out.writestr(names.get(name, name), text)
    return path


GOOD = {"format": "ppedge persona 1", "notes": 1, "pinned": [], "muted": []}
LINE = '{"text": "a note", "id": "a"}\n'


@pytest.mark.parametrize(
    ("members", "why"),
    [
        ({"notes": LINE}, "no file like"),
        ({"settings": GOOD}, "no file like"),
        ({"settings": "[]", "notes": LINE}, "is no JSON object"),
        ({"settings": "{", "notes": LINE}, "is no JSON object"),
        ({"settings": {**GOOD, "format": "x 2"}, "notes": LINE}, "does not say"),
        ({"settings": {**GOOD, "notes": 2}, "notes": LINE}, "it should hold 2 notes, and holds 1"),
        ({"settings": {**GOOD, "pinned": "a"}, "notes": LINE}, '"pinned" is no list of ids'),
        ({"settings": {**GOOD, "muted": [1]}, "notes": LINE}, '"muted" is no list of ids'),
        ({"settings": {**GOOD, "pinned": ["b"]}, "notes": LINE}, "a note that it does not hold"),
        ({"settings": {**GOOD, "pinned": ["a"], "muted": ["a"]}, "notes": LINE}, "both pinned"),
        ({"settings": GOOD, "notes": '{"text": 5}\n'}, 'line 1: field "text" is a number'),
        ({"settings": GOOD, "notes": LINE * 2}, 'line 2: field "id" is "a", as on line 1'),
        ({"settings": GOOD, "notes": b"\xff\n"}, "is not UTF-8"),
        ({"settings": GOOD, "notes": LINE + "\n" * 300_000}, ""),
    ],
)
def test_a_damaged_archive_is_refused_before_anything_is_made(kept, tmp_path, members, why):
    path = archive(tmp_path / "x.zip", **members)
    if not why:
        kept.import_(path, "ok", make_space(), Encoder())
        return
    with pytest.raises(StoreError) as error:
        kept.import_(path, "new", make_space(), Encoder())
    assert why in str(error.value)
    assert "\n" not in str(error.value)
    assert str(path) in str(error.value)
    assert kept.names() == []


def test_names_in_an_archive_are_no_paths(kept, tmp_path):
    path = archive(
        tmp_path / "x.zip", settings=GOOD, notes=LINE, **{"../evil": "x", "/tmp/evil": "x"}
    )
    kept.import_(path, "new", make_space(), Encoder())
    assert not (tmp_path / "evil").exists()
    assert sorted(entry.name for entry in kept.existing("new").iterdir()) == [
        "keys.0",
        "lock",
        "notes.db",
        "values.0",
    ]


def test_a_bomb_is_refused(kept, tmp_path):
    path = tmp_path / "bomb.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as out:
        out.writestr("settings.json", json.dumps(GOOD))
        out.writestr("notes.jsonl", b"\n" * (40 << 20))
    with pytest.raises(StoreError, match="packed more than 200 times"):
        kept.import_(path, "new", make_space(), Encoder())


def test_what_is_no_archive_is_refused(kept, tmp_path):
    (tmp_path / "notes.jsonl").write_text(LINE)
    for path, why in (
        (tmp_path / "notes.jsonl", "not an archive of `ppedge persona export`"),
        (tmp_path / "absent.zip", "no such file"),
        (tmp_path, "not an archive"),
    ):
        with pytest.raises(StoreError, match=why):
            kept.import_(path, "new", make_space(), Encoder())


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> bytes:
    folder = tmp_path_factory.mktemp("exported")
    kept = Profiles(folder / "personas")
    filled(kept, "work", 5)
    kept.export("work", folder / "work.zip")
    return (folder / "work.zip").read_bytes()


@settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_any_damage_is_refused_or_does_no_harm(exported, tmp_path, data):
    bad = bytearray(exported)
    if data.draw(st.booleans()):
        del bad[data.draw(st.integers(0, len(bad) - 1)) :]
    else:
        for _ in range(data.draw(st.integers(1, 3))):
            bad[data.draw(st.integers(0, len(bad) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    path = tmp_path / "bad.zip"
    path.write_bytes(bad)
    kept = Profiles(tmp_path / "personas")
    said = None
    try:
        kept.import_(path, "new", make_space(), Encoder())
    except StoreError as error:
        said = str(error)
    if said is not None:
        assert len(said.splitlines()) == 1
        assert kept.names() == []
        return
    with Persona.open(kept.existing("new")) as store:
        assert [note.output for note in store.notes()][-1] == TAGGED.output
    kept.delete("new")


def test_a_failing_encoder_leaves_nothing(kept, tmp_path):
    filled(kept, "work")
    kept.export("work", tmp_path / "x.zip")

    def fail(notes):
        raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        kept.import_(tmp_path / "x.zip", "new", make_space(), fail)
    assert kept.names() == ["work"]
    assert left(kept) == [".lock"]


# --- killed ---


def change_for_ever(root: Path, path: Path) -> None:
    """Import, mark, rename and delete, over and over."""
    kept = Profiles(root)
    while True:
        for name in kept.names():
            kept.delete(name)
        kept.import_(path, "one", make_space(), Encoder())
        for name in ("one", "two"):
            with Persona.open(kept.existing(name)) as store:
                store.pin("id-3", "id-6")
                store.mute("id-3")
                store.unmark("id-6")
            if name == "one":
                kept.rename("one", "two")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kill -9 wants POSIX")
def test_a_kill_leaves_the_old_or_the_new_and_the_next_change_clears_up(kept, tmp_path):
    filled(kept, "one", 60)
    path = tmp_path / "one.zip"
    kept.export("one", path)
    with Persona.open(kept.existing("one")) as store:
        whole = list(store.notes())
    wanted, seen, rng = {(), ("one",), ("two",)}, set(), random.Random(7)
    for i in itertools.count():
        child = os.fork()
        if child == 0:
            try:
                change_for_ever(kept.root, path)
            finally:
                os._exit(1)
        time.sleep(rng.uniform(0, 0.2))
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        assert os.WIFSIGNALED(status), "the child failed by itself"
        names = tuple(kept.names())
        assert names in wanted
        seen.add(names)
        for name in names:
            with Persona.open(kept.existing(name), make_space()) as store:
                assert store.verify() == []
                assert list(store.notes()) == whole
                assert store.marks() in [
                    {"id-0": 1, "g1": 1, **marks}
                    for marks in (
                        {"id-3": -1},
                        {"id-3": 1, "id-6": 1},
                        {"id-3": -1, "id-6": 1},
                    )
                ]
        for entry in kept.root.glob(".ppedge-*"):
            if {inner.name for inner in entry.iterdir()} <= {"alive.new"}:
                os.utime(entry, (0, 0))  # Killed when it was made; it is left alone for a minute.
        kept.create("next")
        kept.delete("next")
        assert left(kept) == [".lock"]
        if i >= 30 and seen == wanted:
            break
