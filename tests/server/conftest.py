"""Servers that the tests of this folder share: one of the default model, one that never ends."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import tiny_gguf, tiny_plug
from tests.command import Command
from tests.server.running import Running, keep, running

# Two people whom nobody takes for one another.
ANNA = [
    {"id": "a1", "text": "rain again. third day. the tomatoes have stopped asking why.\n— a, damp"},
    {"id": "a2", "input": "How is the bread?", "text": "flat. proud, but flat.\n— a, floured"},
    {"id": "a3", "text": "the bicycle has a new noise. a confident noise.\n— a, on foot"},
    {"id": "a4", "input": "Are you free?", "text": "saturday, yes. bring coffee.\n— a, free"},
]
BERT = [
    {"id": "b1", "text": "DEAR ALL! THE RAIN IS GREAT! GREAT FOR THE GARDEN! YOURS, BERT!"},
    {"id": "b2", "input": "How is the bread?", "text": "IT IS GREAT! EAT IT! YOURS, BERT!"},
    {"id": "b3", "text": "DEAR ALL! THE BICYCLE IS SOLD! TO A GREAT MAN! YOURS, BERT!"},
    {"id": "b4", "input": "Are you free?", "text": "ALWAYS! CALL ME! YOURS, BERT!"},
]

CARL = [{"id": f"c{i}", "text": f"day {i}. sowed {i} beans. - c"} for i in range(12)]


def with_output(notes: list[dict[str, str]]) -> list[dict[str, str]]:
    """Notes in the form that a file of notes has."""
    return [
        {**{k: v for k, v in note.items() if k != "text"}, "output": note["text"]}
        if "input" in note
        else note
        for note in notes
    ]


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """The default model, with the personas anna, bert and carl."""
    folder = tmp_path_factory.mktemp("served")
    command = Command(folder / "home")
    keep(command, "anna", with_output(ANNA), folder)
    keep(command, "bert", with_output(BERT), folder)
    keep(command, "carl", CARL, folder)
    with running(command) as server:
        yield server


@pytest.fixture(scope="session")
def endless_model(tmp_path_factory: pytest.TempPathFactory) -> list[str | Path]:
    """Options of a model that spells "onagi onagi ..." until it is stopped."""
    pieces = [259, *(tiny_gguf.byte(value) for value in b"onagi")]
    path = tmp_path_factory.mktemp("endless") / "loop.gguf"
    model = tiny_gguf.script(path, pieces, n_ctx=1 << 18, loops=True)
    return ["--model", model, "--plug", "none", "--context", "100000"]


@pytest.fixture
def endless(tmp_path: Path, endless_model: list[str | Path]) -> Iterator[Running]:
    """A server whose answers do not end by themselves."""
    with running(Command(tmp_path / "home"), *endless_model) as server:
        yield server


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A model of noise with a plug, quick and short of breath: 96 tokens are its context."""
    folder = tmp_path_factory.mktemp("tiny")
    model = tiny_gguf.write(folder / "tiny.gguf")
    plug = tiny_plug.write(folder / "plug", model)
    names = {"PPEDGE_MODEL": str(model), "PPEDGE_PLUG": str(plug)}
    command = Command(folder / "home", names)
    keep(command, "anna", with_output(ANNA), folder)
    with running(command, "--context", "96") as server:
        yield server
