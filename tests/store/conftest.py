from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from ppedge.notes.reader import Note
from ppedge.store.persona import Persona, Space

from .kit import Encoder, make_space


@pytest.fixture
def space() -> Space:
    return make_space()


@pytest.fixture
def encode() -> Encoder:
    return Encoder()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "persona"


@pytest.fixture
def persona(folder: Path, space: Space) -> Iterator[Persona]:
    with Persona.open(folder, space) as store:
        yield store


@pytest.fixture
def build(tmp_path: Path, space: Space):
    """Build a fresh store that holds given notes."""
    stores: list[Persona] = []

    def fresh(notes: Sequence[Note], plug_space: Space = space, salt: str = "") -> Persona:
        store = Persona.open(tmp_path / f"fresh-{len(stores)}", plug_space)
        stores.append(store)
        store.add(notes, Encoder(salt))
        return store

    yield fresh
    for store in stores:
        store.close()
