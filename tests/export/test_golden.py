"""Golden vectors for a plug without a checkpoint, by `python -m export.package.golden_vectors`."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from export.package.golden_vectors import FILE, TEXTS, add_golden, main
from ppedge.defaults import DEFAULT_PLUG
from ppedge.errors import PlugError
from ppedge.plug.manifest import MANIFEST_NAME, MAX_GOLDEN_CHARS, MAX_GOLDEN_TEXTS
from ppedge.plug.plug import Plug
from tests import tiny_gguf, tiny_plug


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_gguf.write(tmp_path_factory.mktemp("model") / "tiny.gguf")


def test_the_command_stores_what_the_graphs_give_here(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tiny_plug.write(tmp_path / "plug", model, query_file=True, max_bytes=20)
    before = json.loads((folder / MANIFEST_NAME).read_text())
    monkeypatch.setattr("sys.argv", ["golden", str(folder)])
    main()
    plug = Plug(folder)
    vectors = [array.ravel() for text in TEXTS for array in plug.vectors(text)]
    np.testing.assert_array_equal(
        np.frombuffer((folder / FILE).read_bytes(), "<f4"), np.concatenate(vectors)
    )
    found = plug.golden_differences()
    assert found is not None
    assert max(found.values()) == 0
    # Nothing else of the manifest changes.
    after = json.loads((folder / MANIFEST_NAME).read_text())
    assert after.pop("golden") == {"file": FILE, "texts": list(TEXTS)}
    assert after["files"].pop(FILE)["bytes"] == sum(array.nbytes for array in vectors)
    assert after == before


def test_doing_it_again_changes_nothing(tmp_path: Path, model: Path) -> None:
    folder = tiny_plug.write(tmp_path / "plug", model)
    add_golden(folder)
    first = {path.name: path.read_bytes() for path in folder.iterdir()}
    add_golden(folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == first


def test_the_texts_are_such_as_a_manifest_may_hold() -> None:
    assert len(TEXTS) <= MAX_GOLDEN_TEXTS
    assert max(map(len, TEXTS)) <= MAX_GOLDEN_CHARS


def test_a_damaged_plug_is_refused_in_one_line(tmp_path: Path, model: Path) -> None:
    folder = tiny_plug.write(tmp_path / "plug", model)
    (folder / tiny_plug.PROJECTOR).write_bytes(b"")
    with pytest.raises(PlugError, match=r"not the file that plug\.json describes"):
        add_golden(folder)
    assert not (folder / FILE).exists()


def test_a_zip_or_nothing_at_all_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"not a plug's folder; unpack a \.zip first"):
        add_golden(tmp_path / "plug.zip")


def test_the_shipped_plug_has_golden_vectors_and_names_its_instruction_rows() -> None:
    plug = Plug(DEFAULT_PLUG)
    assert plug.manifest.projector.n_instruction == 2
    found = plug.golden_differences()
    assert found is not None
    assert max(found.values()) < 1e-4
    one, other = (plug.vectors(text)[3] for text in TEXTS[:2])
    same = [bool(np.array_equal(ours, theirs)) for ours, theirs in zip(one, other, strict=True)]
    assert same == [True] * 2 + [False] * 6
