"""The program with a tiny model and a plug for it, made once a file of tests."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import pytest

from tests import tiny_gguf, tiny_plug
from tests.command import Command


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("files")
    model = tiny_gguf.write(folder / "tiny.gguf")
    return model, tiny_plug.write(folder / "plug", model)


@pytest.fixture
def ppedge(tmp_path: Path, files: tuple[Path, Path]) -> Command:
    names = ("PPEDGE_MODEL", "PPEDGE_PLUG")
    return Command(tmp_path / "home", dict(zip(names, map(str, files), strict=True)))


def written(path: Path, texts: Iterable[str]) -> Path:
    """Write notes as JSON Lines, with ids from 0 on."""
    notes = ({"id": str(number), "text": text} for number, text in enumerate(texts))
    path.write_text("".join(json.dumps(note) + "\n" for note in notes), encoding="utf-8")
    return path
