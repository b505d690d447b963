"""``kill -9`` at random moments of adding, syncing and forgetting, always on the same store."""

import hashlib
import itertools
import json
import os
import random
import signal
import time

import pytest

from ppedge.notes.reader import Note
from ppedge.store.persona import Persona, handle

from .kit import Encoder, assert_same_store, make_space

KILLS = 200
LONGEST_LIFE = 0.08  # seconds; a few operations long

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="kill -9 wants POSIX")

# A state is a list of (number, revision), one a note; only even numbers have ids, and revisions.


def make_note(number, revision):
    text = f"{number}/{revision} "
    return Note(
        output=text + hashlib.sha256(text.encode()).hexdigest() * 3,
        id=f"n{number}" if number % 2 == 0 else "",
    )


def parse(note):
    number, revision = note.output.split()[0].split("/")
    return int(number), int(revision)


def edited(state, rng):
    return [
        (number, revision + 1) if number % 2 == 0 and rng.random() < 0.1 else (number, revision)
        for number, revision in state
    ]


def choose(state, rng):
    """An operation: (kind, state it leads to, states it may leave when it is cut short)."""
    fresh = [(rng.randrange(10**9), 0) for _ in range(rng.randrange(1, 40))]
    grown = [[*state, *fresh[:n]] for n in range(len(fresh) + 1)]
    kind = rng.choice(["add", "grow", "sync", "forget"]) if len(state) < 200 else "forget"
    if kind == "forget":
        return kind, [entry for entry in state if rng.random() < 0.8], [state]
    if kind == "sync":
        target = edited([entry for entry in state if rng.random() < 0.9], rng) + fresh
        rng.shuffle(target)
        if target[: len(state)] == state:  # It only grows the store, as when that is empty.
            return kind, target, [target[:n] for n in range(len(state), len(target))]
        return kind, target, [state]
    if kind == "add":
        return kind, edited(state, rng) + fresh, grown
    return kind, grown[-1], grown


def live(folder, seed, pipe):
    """What the process to be killed does: one operation after another, each announced."""
    rng = random.Random(seed)
    with Persona.open(folder, make_space()) as store:
        state = [parse(note) for note in store.notes()]
        while True:
            kind, target, partial = choose(state, rng)
            os.write(pipe, json.dumps([kind, state, target, partial]).encode() + b"\n")
            notes = [make_note(*entry) for entry in target]
            if kind == "forget":
                wanted = set(target)
                gone = [handle(make_note(*entry)) for entry in state if entry not in wanted]
                if gone:
                    store.forget(ids=gone)
            elif kind == "add":
                store.add(notes, Encoder())
            else:
                store.sync(notes, Encoder())
            os.write(pipe, b"done\n")
            state = target


def live_and_die(folder, seed):
    """Run `live` in a child, kill it after a random time, and return what it announced."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            live(folder, seed, writing)
        finally:
            os._exit(1)
    os.close(writing)
    time.sleep(random.Random(~seed).uniform(0, LONGEST_LIFE))
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    with os.fdopen(reading, "rb") as pipe:
        *lines, _ = pipe.read().split(b"\n")
    assert os.WIFSIGNALED(status), "the child failed by itself"
    return [
        (*json.loads(line), lines[i + 1 : i + 2] == [b"done"])
        for i, line in enumerate(lines)
        if line != b"done"
    ]


def test_a_store_killed_at_random_moments_is_whole_and_loses_nothing(
    folder, space, build, monkeypatch
):
    monkeypatch.setattr("ppedge.store.encode.CHUNK_NOTES", 8)
    monkeypatch.setattr("ppedge.store.writer.COMMIT_NOTES", 8)
    Persona.open(folder, space).close()
    state, cut_short = [], {"add": 0, "grow": 0, "sync": 0, "forget": 0}
    for seed in itertools.count():
        events = live_and_die(folder, seed)
        allowed, gone = [state], []
        for _, before, target, partial, ended in events:
            allowed = [target] if ended else [*partial, target]
            gone += [entry for entry in before if entry not in target]
        with Persona.open(folder, space) as store:
            state = [list(parse(note)) for note in store.notes()]
            assert state in allowed
            assert store.verify() == []
            assert store.stats().erased
        left = b"".join(file.read_bytes() for file in folder.iterdir())
        for entry in gone:
            assert entry in state or make_note(*entry).output.encode() not in left
        if events and not events[-1][-1]:
            cut_short[events[-1][0]] += 1
        if sum(cut_short.values()) == KILLS:
            break
    assert min(cut_short.values()) > 0, cut_short
    with Persona.open(folder, space) as store:
        assert_same_store(store, build([make_note(*entry) for entry in state]))
