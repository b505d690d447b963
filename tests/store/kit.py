"""A small space and a deterministic encoder for the store's tests."""

import hashlib
from collections.abc import Iterator, Sequence

import numpy as np

from ppedge.notes.reader import Note
from ppedge.store.persona import Persona, Space
from ppedge.store.rows import pack_row

D_KEY, D_VALUE = 8, 12


def vectors(text: str) -> np.ndarray:
    """float32 [D_KEY + D_VALUE], standard normal, drawn from a hash of ``text``."""
    seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")
    return np.random.default_rng(seed).standard_normal(D_KEY + D_VALUE).astype(np.float32)


class Encoder:
    """Hashes a note to vectors, and remembers which notes it was given."""

    def __init__(self, salt: str = "") -> None:
        self.salt = salt
        self.seen: list[Note] = []

    def __call__(self, notes: Sequence[Note]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for note in notes:
            self.seen.append(note)
            row = vectors(self.salt + note.digest)
            yield row[:D_KEY], row[D_KEY:]

    def row(self, note: Note) -> bytes:
        """The note's row as the store keeps it."""
        ((key, value),) = list(self([note]))
        return pack_row(make_space().layout, key, value, "a note")


def make_space(plug: str = "p") -> Space:
    null = vectors("null " + plug).astype(np.float16)
    return Space(D_KEY, D_VALUE, "e" * 64, plug * 64, null[:D_KEY], null[D_KEY:])


def make_notes(n: int, start: int = 0) -> list[Note]:
    """Distinct notes; every third has an id, every second a time, every fifth an input."""
    return [
        Note(
            output=f"note {i}: " + hashlib.sha256(str(i).encode()).hexdigest() * (1 + i % 4),
            input=f"question {i}" if i % 5 == 0 else "",
            id=f"id-{i}" if i % 3 == 0 else "",
            time=1_700_000_000.0 + i if i % 2 == 0 else None,
        )
        for i in range(start, start + n)
    ]


def make_query(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(D_KEY).astype(np.float32)


def assert_same_store(one: Persona, other: Persona) -> None:
    """Both hold the same notes in the same order, and pool to the same bits."""
    assert list(one.notes()) == list(other.notes())
    assert one.store_hash() == other.store_hash()
    for seed in range(3):
        ours, theirs = (store.pool(make_query(seed), scale=0.5) for store in (one, other))
        assert ours.value.tobytes() == theirs.value.tobytes()
        assert ours.weights.tobytes() == theirs.weights.tobytes()
        assert ours.log_sum_exp.tobytes() == theirs.log_sum_exp.tobytes()
    assert one.verify() == other.verify() == []
