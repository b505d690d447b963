import itertools
import os
import random
import shutil
import sqlite3
import stat
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from ppedge.errors import StoreError
from ppedge.notes.reader import Note
from ppedge.store.files import writer_lock
from ppedge.store.persona import Persona, handle
from ppedge.store.rows import HEADER_BYTES

from .kit import D_KEY, D_VALUE, Encoder, assert_same_store, make_notes, make_query, make_space

N_NOTES = 20
WIDTHS = {"keys.0": D_KEY, "values.0": D_VALUE}

both_files = pytest.mark.parametrize("name", WIDTHS)


@pytest.fixture
def closed(folder, space):
    """A store of `N_NOTES` notes, not open."""
    with Persona.open(folder, space) as store:
        store.add(make_notes(N_NOTES), Encoder())
    return folder


def flip(path, position, bit=0):
    with path.open("r+b") as file:
        file.seek(position)
        (byte,) = file.read(1)
        file.seek(position)
        file.write(bytes([byte ^ 1 << bit]))


def row_start(name, row):
    return HEADER_BYTES + 2 * WIDTHS[name] * row


def assert_repairs(folder, space, build, n_encoded):
    """`repair` encodes exactly ``n_encoded`` notes, and then nothing is wrong or lost."""
    encode = Encoder()
    with Persona.open(folder, space, damaged=True) as store:
        assert store.verify() != []
        assert store.repair(encode) == len(encode.seen) == n_encoded
        assert_same_store(store, build(make_notes(N_NOTES)))
    Persona.open(folder, space).close()


# --- row files ---


@both_files
@pytest.mark.parametrize(
    ("row", "shift", "lost"),
    [(0, 0, N_NOTES), (1, -1, N_NOTES), (7, 1, N_NOTES - 6), (N_NOTES + 1, -1, 1)],
)
def test_a_truncated_row_file_is_refused_and_repaired(closed, space, build, name, row, shift, lost):
    os.truncate(closed / name, row_start(name, row) + shift)
    with pytest.raises(StoreError, match=rf"{name} is cut short.*ppedge notes repair"):
        Persona.open(closed, space)
    assert_repairs(closed, space, build, lost)


@both_files
@pytest.mark.parametrize("size", [0, 100, HEADER_BYTES - 1])
def test_a_row_file_cut_within_its_header_is_refused_and_repaired(closed, space, build, name, size):
    os.truncate(closed / name, size)
    with pytest.raises(StoreError, match=rf"{name} has a damaged header"):
        Persona.open(closed, space)
    assert_repairs(closed, space, build, N_NOTES)


@both_files
def test_a_missing_row_file_is_refused_and_repaired(closed, space, build, name):
    (closed / name).unlink()
    with pytest.raises(StoreError, match=rf"{name} is missing; the text of your notes is safe"):
        Persona.open(closed, space)
    assert_repairs(closed, space, build, N_NOTES)


@both_files
@pytest.mark.parametrize("position", [0, 30, 200, HEADER_BYTES - 1])
def test_a_damaged_header_is_refused_and_repaired(closed, space, build, name, position):
    flip(closed / name, position)
    with pytest.raises(StoreError, match="damaged header"):
        Persona.open(closed, space)
    assert_repairs(closed, space, build, 0)


def test_swapped_row_files_are_refused(closed, space, tmp_path):
    (closed / "keys.0").rename(tmp_path / "other")
    (closed / "values.0").rename(closed / "keys.0")
    (tmp_path / "other").rename(closed / "values.0")
    with pytest.raises(StoreError, match=r"keys\.0 has a damaged header, or belongs to another"):
        Persona.open(closed, space)


@both_files
@pytest.mark.parametrize("seed", range(6))
def test_verify_names_the_row_and_note_of_any_flipped_bit(closed, space, build, name, seed):
    rng = random.Random(seed)
    row = rng.randrange(1, N_NOTES + 1)
    offset = rng.randrange(2 * WIDTHS[name])
    flip(closed / name, row_start(name, row) + offset, rng.randrange(8))
    with Persona.open(closed, space) as store:
        (problem,) = store.verify()
    whose = handle(make_notes(N_NOTES)[row - 1])
    assert (problem.row, problem.repairable) == (row, True)
    assert problem.message == f"row {row}: the vectors of note {whose} are damaged"
    assert_repairs(closed, space, build, 1)


@both_files
def test_a_damaged_null_note_is_found_and_repaired(closed, space, build, name):
    flip(closed / name, row_start(name, 0) + 3)
    with Persona.open(closed, space) as store:
        assert [problem.row for problem in store.verify()] == [0]
        store.forget(ids=["id-0"])
        assert [problem.row for problem in store.verify()] == [0], "a rewrite does not hide it"
        store.sync(make_notes(N_NOTES), Encoder())
    assert_repairs(closed, space, build, 0)


def test_a_change_elsewhere_does_not_hide_a_damaged_row(closed, space, build):
    notes = make_notes(N_NOTES)
    flip(closed / "keys.0", row_start("keys.0", 5))
    encode = Encoder()
    with Persona.open(closed, space) as store:
        store.forget(ids=[handle(notes[0])])
        assert [problem.row for problem in store.verify()] == [4]
        store.add([Note(notes[4].output, notes[4].input, id="copy")], encode)
        assert len(encode.seen) == 1, "the damaged row is not copied"
        store.repair(encode)
        assert store.verify() == []


def test_repair_of_a_sound_store_changes_nothing(closed, space):
    encode = Encoder()
    with Persona.open(closed, space) as store:
        before = store.store_hash()
        assert store.repair(encode) == 0
        assert (encode.seen, store.store_hash()) == ([], before)


# --- the database ---


def test_any_flipped_bit_in_the_database_is_found_or_harmless(closed, space, tmp_path):
    with Persona.open(closed, space) as store:
        held, total = list(store.notes()), store.store_hash()
    rng = random.Random(0)
    outcomes = {"refused": 0, "reported": 0, "harmless": 0}
    for turn in range(150):
        copy = tmp_path / f"copy-{turn}"
        shutil.copytree(closed, copy)
        size = (copy / "notes.db").stat().st_size
        flip(copy / "notes.db", rng.randrange(size), rng.randrange(8))
        try:
            with Persona.open(copy, space) as store:
                if store.verify():
                    outcomes["reported"] += 1
                else:
                    assert (list(store.notes()), store.store_hash()) == (held, total)
                    outcomes["harmless"] += 1
        except StoreError:
            outcomes["refused"] += 1
        shutil.rmtree(copy)
    assert min(outcomes.values()) > 0, outcomes


@pytest.mark.parametrize("content", [b"not a database at all " * 300, b"SQLite format 3\0"])
def test_a_file_that_is_no_database_is_refused(folder, space, content):
    folder.mkdir()
    (folder / "notes.db").write_bytes(content)
    with pytest.raises(StoreError, match=r"notes\.db.*damaged"):
        Persona.open(folder, space)
    assert (folder / "notes.db").read_bytes() == content


def test_a_database_of_something_else_is_refused(folder, space):
    folder.mkdir()
    with sqlite3.connect(folder / "notes.db") as other:
        other.execute("CREATE TABLE recipes (name TEXT)")
    other.close()
    with pytest.raises(StoreError, match="not a persona store"):
        Persona.open(folder, space)


def test_a_store_of_a_later_schema_is_refused(closed, space):
    db = sqlite3.connect(closed / "notes.db")
    db.execute("PRAGMA user_version = 2")
    db.close()
    with pytest.raises(StoreError, match=r"schema 2, this ppedge reads 1"):
        Persona.open(closed, space)


def test_a_creation_that_was_cut_short_is_finished(folder, space, encode):
    folder.mkdir(mode=0o700)
    (folder / "lock").touch()
    (folder / "notes.db").touch()
    (folder / "notes.db-journal").touch()  # SQLite has one until the log is set up.
    (folder / "keys.0").write_bytes(b"half a hea")
    with Persona.open(folder, space) as store:
        store.add(make_notes(3), encode)
        assert [p.message for p in store.verify() if "mode" not in p.message] == []


# --- another plug ---


def test_a_store_of_another_plug_is_refused_and_nothing_is_lost(closed, space):
    with pytest.raises(StoreError, match="made for plug pppppppppppp"):
        Persona.open(closed, make_space("q"))
    with Persona.open(closed, space) as store:
        assert list(store.notes()) == make_notes(N_NOTES)
        assert store.verify() == []


def test_repair_takes_a_store_over_to_another_plug(closed, build):
    encode = Encoder("other")
    with Persona.open(closed, make_space("q"), damaged=True) as store:
        for use in (
            lambda: store.pool(make_query(), scale=1.0),
            lambda: store.add([Note("new")], encode),
        ):
            with pytest.raises(StoreError, match="but this is plug qqqqqqqqqqqq"):
                use()
        assert [problem.repairable for problem in store.verify()] == [True]
        assert store.repair(encode) == N_NOTES
        assert_same_store(store, build(make_notes(N_NOTES), make_space("q"), "other"))


def test_an_interrupted_repair_goes_on_where_it_stopped(folder, space, monkeypatch):
    monkeypatch.setattr("ppedge.store.writer.COMMIT_NOTES", 1)
    with Persona.open(folder, space) as store:
        store.add(make_notes(150), Encoder())
    encode = Encoder("other")

    def breaks(notes):
        if encode.seen:
            raise KeyboardInterrupt
        return encode(notes)

    with Persona.open(folder, make_space("q"), damaged=True) as store:
        with pytest.raises(KeyboardInterrupt):
            store.repair(breaks)
        assert store.repair(encode) == 150 - 64
        assert store.verify() == []
    with pytest.raises(StoreError, match="made for plug"):
        Persona.open(folder, space)


# --- other processes, other users, full disks ---


@contextmanager
def forked(work, gate=None):
    """Run ``work`` in a child; yield its process id and a pipe with what ``work`` returned.

    Fork before a store is opened: SQLite's locks do not survive a fork. With ``gate``, the
    reading end of a pipe, the child first waits for a byte in it.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            if gate is not None:
                os.read(gate, 1)
            os.write(writing, str(work()).encode())
        except BaseException as error:
            os.write(writing, f"{type(error).__name__}: {error}".encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        yield child, pipe
    os.waitpid(child, 0)


def in_child(work):
    with forked(work) as (_, pipe):
        return pipe.read().decode()


posix = pytest.mark.skipif(not hasattr(os, "fork"), reason="wants fork")


@posix
def test_a_second_writer_is_told_who_is_writing_and_loses_nothing(closed, space):
    hold, go = os.pipe()

    def write_until_told():
        def encode_slowly(notes):
            os.read(hold, 1)
            return Encoder()(notes)

        with Persona.open(closed, space) as store:
            return store.add([Note("from the child")], encode_slowly).added

    with forked(write_until_told) as (pid, pipe), Persona.open(closed, space, wait=0.2) as store:
        deadline = time.monotonic() + 20
        while (closed / "lock").read_text() != str(pid) and time.monotonic() < deadline:
            time.sleep(0.01)
        for change in (lambda: store.pin("id-0"), lambda: store.add([Note("mine")], Encoder())):
            with pytest.raises(StoreError, match=rf"another process \(id {pid}\) is changing"):
                change()
        assert list(store.notes()) == make_notes(N_NOTES), "reading goes on meanwhile"
        os.write(go, b"!")
        assert pipe.read() == b"1"
        store.add([Note("mine")], Encoder())
        assert [note.output for note in store.notes()][-2:] == ["from the child", "mine"]


@posix
def test_a_second_writer_waits_for_a_short_change(closed, space):
    def hold():
        with writer_lock(closed / "lock", 5):
            time.sleep(0.3)

    with forked(hold), Persona.open(closed, space) as store:
        time.sleep(0.1)
        store.pin("id-0")
        assert store.marks() == {"id-0": 1}


@posix
def test_changing_an_open_store_leaves_its_database_locked_against_other_processes(closed, space):
    # Without the lock another process would take itself for the last user, and delete a log that
    # is in use. Closable any other handle of the file drops it (sqlite.org/howtocorrupt.html).
    fcntl = pytest.importorskip("fcntl")
    gate, go = os.pipe()

    def lock_as_sqlite_would():
        with (closed / "notes.db").open("r+b") as file:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 510, 0x40000002)

    with forked(lock_as_sqlite_would, gate) as (_, pipe), Persona.open(closed, space) as store:
        store.add([Note("one")], Encoder())
        store.forget(ids=["id-0"])
        os.write(go, b"!")
        assert b"BlockingIOError" in pipe.read()


@posix
def test_many_writers_at_once_lose_nothing(closed, space):
    def add_own(start):
        with Persona.open(closed, space, wait=30) as store:
            for note in make_notes(10, start=start):
                store.add([note], Encoder())
        return "fine"

    with forked(lambda: add_own(1000)) as (_, one), forked(lambda: add_own(2000)) as (_, two):
        assert add_own(3000) == "fine"
        assert (one.read(), two.read()) == (b"fine", b"fine")
    with Persona.open(closed, space) as store:
        assert len(store) == N_NOTES + 30
        assert store.verify() == []


@pytest.fixture
def locked_up(closed):
    """The store in a read-only folder, and a way to run as a user whom that binds (not root)."""
    with tempfile.TemporaryDirectory() as outer:
        folder = Path(outer, "persona")
        shutil.copytree(closed, folder)
        for path in (*folder.iterdir(), folder, Path(outer)):
            if os.getuid() == 0:
                os.chown(path, 65534, 65534)
            path.chmod(0o500 if path.is_dir() else 0o400)

        def as_owner(work):
            def drop_and_work():
                if os.getuid() == 0:
                    os.setgroups([])
                    os.setgid(65534)
                    os.setuid(65534)
                return work()

            return in_child(drop_and_work)

        yield folder, as_owner
        Path(outer).chmod(0o700)
        folder.chmod(0o700)


@posix
def test_a_read_only_folder_can_be_read_and_not_changed(locked_up, space, closed):
    folder, as_owner = locked_up

    def read():
        with Persona.open(folder, space) as store:
            pooled = store.pool(make_query(), scale=1.0)
            store.heaviest(pooled.weights, 3)
            return list(store.notes()) == make_notes(N_NOTES), store.store_hash(), store.verify()

    with Persona.open(closed, space) as store:
        assert as_owner(read) == str((True, store.store_hash(), []))

    def change():
        with Persona.open(folder, space) as store:
            store.add([Note("new")], Encoder())

    assert as_owner(change) == f"StoreError: {folder}: the store is open for reading only"


@posix
def test_a_store_cannot_be_made_in_a_read_only_folder(locked_up, space):
    folder, as_owner = locked_up
    said = as_owner(lambda: Persona.open(folder / "inner", space))
    assert said.startswith(f"StoreError: {folder / 'inner'}: Permission denied; make the folder")


@posix
@pytest.mark.parametrize("operation", ["create", "add", "change", "sync", "forget", "repair"])
def test_a_full_disk_is_an_error_and_loses_nothing(folder, space, build, tmp_path, operation):
    resource = pytest.importorskip("resource")
    notes = make_notes(200)
    changes = {
        "create": lambda store: None,
        "add": lambda store: store.add(make_notes(2000, start=500), Encoder()),
        "change": lambda store: store.add([Note("x" * 50_000, id="id-0")], Encoder()),
        "sync": lambda store: store.sync(make_notes(300, start=100), Encoder()),
        "forget": lambda store: store.forget(ids=["id-0"]),
        "repair": lambda store: store.repair(Encoder("other")),
    }
    after = {
        "create": [],
        "add": [*notes, *make_notes(2000, start=500)],
        "change": [Note("x" * 50_000, id="id-0"), *notes[1:]],
        "sync": make_notes(300, start=100),
        "forget": notes[1:],
        "repair": notes,
    }[operation]
    if operation != "create":
        with Persona.open(folder, space) as store:
            store.add(notes, Encoder())
    target = make_space("q") if operation == "repair" else space

    def attempt(copy, limit):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        with Persona.open(copy, target, damaged=operation == "repair") as store:
            changes[operation](store)
        return "done"

    outcomes = []
    for n in itertools.count():
        copy, limit = tmp_path / f"copy-{n}", 40 + int(512 * 1.35**n)
        if folder.exists():
            shutil.copytree(folder, copy)
        outcomes.append(in_child(lambda copy=copy, limit=limit: attempt(copy, limit)))
        if outcomes[-1] == "done":
            break
        assert outcomes[-1].startswith("StoreError: "), outcomes[-1]
        assert "\n" not in outcomes[-1]
        if operation == "create":
            with Persona.open(copy, space) as store:
                assert store.verify() == []
            continue
        with Persona.open(copy, target, damaged=operation == "repair") as store:
            held = list(store.notes())
            assert held in (notes, after) or (operation == "add" and held == after[: len(held)])
            assert [p for p in store.verify() if "another plug" not in p.message] == []
    assert any("free some disk space" in said for said in outcomes)
    with Persona.open(copy, target) as store:
        assert list(store.notes()) == after
        assert store.verify() == []


@posix
@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_files_are_private_whatever_the_umask(folder, space, umask):
    before = os.umask(umask)
    try:
        with Persona.open(folder, space) as store:
            store.add(make_notes(5), Encoder())
            store.forget(ids=["id-0"])
            store.pool(np.zeros(8, np.float32), scale=1.0)
            modes = {f.name: stat.S_IMODE(f.stat().st_mode) for f in folder.iterdir()}
    finally:
        os.umask(before)
    assert set(modes) == {"lock", "notes.db", "notes.db-wal", "notes.db-shm", "keys.1", "values.1"}
    assert set(modes.values()) == {0o600}
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


@posix
def test_verify_reports_files_that_others_can_read(closed, space):
    (closed / "values.0").chmod(0o644)
    with Persona.open(closed, space) as store:
        (problem,) = store.verify()
    assert (
        problem.message == f"{closed / 'values.0'} has mode 0644: others can read it; chmod 600 it"
    )
