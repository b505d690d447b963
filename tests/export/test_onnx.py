from dataclasses import asdict

import numpy as np
import onnx
import pytest
import torch

from export.features import open_tokenizer
from export.minilm import find_minilm
from export.onnx import SAMPLES, export
from ppedge.defaults import find_model
from ppedge.errors import PpedgeError
from ppedge.history import Note
from ppedge.plug import Plug


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A plug folder exported from an untrained checkpoint, and that checkpoint's plug."""
    from export.model import PersonaPlug, PlugConfig

    folder = tmp_path_factory.mktemp("export")
    torch.manual_seed(0)
    config = PlugConfig(d_style=16, n_persona=2)
    plug = PersonaPlug(config, torch.randn(64, config.n_embd) * 0.13).eval().requires_grad_(False)
    state = {"config": asdict(config), "plug": plug.state_dict(), "step": 3, "seconds": 1.5}
    torch.save(state, folder / "plug.pt")
    about = {"data": "none"}
    export(folder / "plug.pt", folder / "plug", find_model(), find_minilm(), "test", about)
    return folder, plug


def test_every_graph_agrees_with_torch(exported, minilm):
    """Through the run time's own tokenizer and sessions; the largest difference is below 1e-4."""
    folder, trained = exported
    plug = Plug(folder / "plug")
    tokenizer = open_tokenizer(folder / "plug")
    for text in (*SAMPLES, "\N{SNOWMAN}", "z" * 3000):
        ids = torch.tensor([tokenizer.encode(text).ids])
        data = torch.tensor([list(text.encode()[:192])])
        with torch.inference_mode():
            h = minilm(ids)
            wanted = (trained.key(h)[0], trained.value(h, data)[0], trained.query(h)[0])
            soft = trained.soft_tokens(wanted[1][None])[0]
        [(key, value)] = plug.encode_notes([Note(text)])
        found = (key, value, plug.encode_prompt(text), plug.soft_tokens(wanted[1].numpy()))
        for ours, theirs in zip((*wanted, soft), found, strict=True):
            assert np.abs(ours.numpy() - theirs).max() < 1e-4


def test_the_manifest_tells_what_was_exported(exported):
    folder, trained = exported
    plug = Plug(folder / "plug")
    manifest = plug.manifest
    assert manifest.attention_scale == pytest.approx(float(trained.scale))
    assert manifest.about == {"steps": 3, "seconds": 2, "data": "none"}
    assert manifest.projector.n_soft == 4
    assert plug.space.null_value.shape == (512,)
    null_key = plug.space.null_key.astype(np.float32)
    assert np.linalg.norm(null_key) == pytest.approx(1, abs=1e-3)


def test_the_plug_fits_the_model_it_was_exported_for(exported):
    from ppedge.llm import LLM

    folder, _ = exported
    with LLM(find_model(), n_ctx=64) as llm:
        Plug(folder / "plug").check_model(llm.fingerprint, llm.path)


def test_graphs_hold_no_path_of_the_machine_that_made_them(exported):
    folder, _ = exported
    for name in ("encoder.onnx", "projector.onnx"):
        data = (folder / "plug" / name).read_bytes()
        assert b".py" not in data
        assert str(folder).encode() not in data
        onnx.checker.check_model(onnx.load_from_string(data))


def test_an_existing_folder_is_never_overwritten(exported):
    folder, _ = exported
    with pytest.raises(SystemExit, match="exists already"):
        export(folder / "plug.pt", folder / "plug", find_model(), find_minilm(), "test", {})


def test_a_changed_graph_is_refused(exported, tmp_path):
    import shutil

    folder, _ = exported
    shutil.copytree(folder / "plug", tmp_path / "plug")
    graph = tmp_path / "plug" / "projector.onnx"
    data = bytearray(graph.read_bytes())
    data[len(data) // 2] ^= 1
    graph.write_bytes(data)
    with pytest.raises(PpedgeError, match=r"projector\.onnx is not the file"):
        Plug(tmp_path / "plug")
