"""The default model, opened once, and three people of `examples/people`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from ppedge import Persona, Personalizer, read_notes

PEOPLE = Path(__file__).parents[2] / "examples" / "people"
NAMES = ("captain", "doctor", "texter")


@pytest.fixture(scope="session")
def personalizer() -> Iterator[Personalizer]:
    with Personalizer.open() as opened:
        yield opened


@pytest.fixture(scope="session")
def people(
    personalizer: Personalizer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Persona]]:
    folder = tmp_path_factory.mktemp("people")
    with ExitStack() as stack:
        found = {}
        for name in NAMES:
            persona = stack.enter_context(personalizer.persona(folder / name))
            notes = read_notes(PEOPLE / f"{name}.jsonl")
            persona.sync(notes, personalizer.plug.encode_notes)
            found[name] = persona
        yield found
