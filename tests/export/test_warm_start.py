"""Training that goes on from a plug: its weights come back whole, or it is refused in one line."""

import shutil
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch

from export.models.features import byte_rows
from export.models.plug import PersonaPlug, PlugConfig
from export.models.text_encoder import TextEncoder, find_minilm
from export.onnx import Graphs, export
from export.training.warm_start import read_weights
from ppedge.defaults import find_model, find_plug
from ppedge.plug.plug import Plug

FOLDER = find_plug(None)


@pytest.fixture(scope="module")
def shipped() -> Plug:
    return Plug(FOLDER)


PROJECTOR = Plug(FOLDER).manifest.projector
N_PERSONA = PROJECTOR.n_soft - PROJECTOR.n_instruction
FORM = {"d_style": 64, "n_persona": N_PERSONA, "d_control": 64, "n_control": PROJECTOR.n_control}


def untrained(**options) -> PersonaPlug:
    config = PlugConfig(**{**FORM, **options})
    return PersonaPlug(config, torch.randn(64, config.n_embd))


def test_a_plug_read_back_gives_its_own_vectors(shipped):
    plug = untrained()
    plug.load_state_dict(read_weights(FOLDER, plug))
    graphs = Graphs.of(plug.eval().requires_grad_(False), find_minilm())
    for text in ("The rain is back.", "lower case — and a dash"):
        # Its kept soft tokens come last, and are taught apart.
        *its_own, _ = shipped.vectors(text)
        for ours, its in zip(graphs.vectors(text), its_own, strict=True):
            np.testing.assert_allclose(ours, its, rtol=2e-6, atol=1e-5)
    assert float(plug.scale) == pytest.approx(shipped.manifest.attention_scale, rel=1e-6)
    null = torch.cat([torch.nn.functional.normalize(plug.null_key, dim=0), plug.null_value])
    stored = np.frombuffer((FOLDER / shipped.manifest.null_note).read_bytes(), "<f4")
    np.testing.assert_allclose(null.detach().numpy(), stored, atol=1e-6)


def test_every_weight_but_the_frozen_encoder_s_is_the_plug_s():
    plug = untrained()
    before = {name: tensor.clone() for name, tensor in plug.state_dict().items()}
    plug.load_state_dict(read_weights(FOLDER, plug))
    changed = {name for name, tensor in plug.state_dict().items() if not before[name].equal(tensor)}
    assert changed == set(before)


def test_its_values_see_bytes_and_text(minilm: TextEncoder, shipped):
    plug = untrained()
    plug.load_state_dict(read_weights(FOLDER, plug))
    spelt = byte_rows(["rain", "RAIN"])
    values = plug.value(torch.ones(2, 384) / 384**0.5, *spelt)
    assert not torch.allclose(values[0], values[1])


def test_persona_rows_that_the_plug_lacks_begin_anew_before_its_own(shipped):
    plug = untrained(n_persona=N_PERSONA + 3)
    new = plug.project.bias.detach().clone().view(N_PERSONA + 3, -1)
    plug.load_state_dict(read_weights(FOLDER, plug))
    pooled = torch.linspace(-1, 1, plug.config.d_value)
    said = shipped.project(pooled.numpy()).vectors
    rows = plug.soft_tokens(pooled[None])[0].detach().numpy()
    instruction = len(said) - N_PERSONA
    np.testing.assert_allclose(rows[:instruction], said[:instruction], atol=1e-5)
    np.testing.assert_allclose(rows[-N_PERSONA:], said[-N_PERSONA:], atol=1e-5)
    assert plug.project.bias.view(N_PERSONA + 3, -1)[:3].equal(new[:3])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"d_value": 64}, r"has another form than the options give: \S+ is \(.*\) in it, and \("),
        ({"n_persona": N_PERSONA - 1}, r"project.bias is \(\d+,\) in it, and \("),
        ({"recency": True}, None),
        ({"key_head": False}, r"_head.weight is \(384, 384\) in it, and not there here"),
    ],
)
def test_another_form_is_refused_by_name(options, message):
    plug = untrained(**options)
    if message is None:
        assert float(read_weights(FOLDER, plug)["recency_bias"]) < -10
        return
    with pytest.raises(ValueError, match=message):
        read_weights(FOLDER, plug)


def test_what_is_no_plug_is_refused_in_one_line(tmp_path):
    with pytest.raises(ValueError, match=r"^--start: .*nothing: no such plug"):
        read_weights(tmp_path / "nothing", untrained())
    packed = shutil.make_archive(str(tmp_path / "plug"), "zip", FOLDER)
    with pytest.raises(ValueError, match=r"^--start: .*plug\.zip is packed; unpack it first"):
        read_weights(tmp_path / packed, untrained())


def test_a_plug_without_a_control_vector_grows_one_that_begins_as_nothing(tmp_path):
    """Exported without, as plugs before it were, read with."""
    plain = untrained(d_control=0, n_control=0)
    path, folder = tmp_path / "plug.pt", tmp_path / "plug"
    torch.save({"config": asdict(plain.config), "plug": plain.state_dict(), "step": 1}, path)
    export(path, folder, Path(find_model()), find_minilm(), "plain", {})
    plug = untrained(d_control=8)
    plug.load_state_dict(read_weights(folder, plug))
    pooled = torch.randn(2, plug.config.d_value)
    assert plug.soft_tokens(pooled).equal(plain.soft_tokens(pooled))
    assert not plug.control(pooled).any()
    plug.control(pooled).sum().backward()
    assert plug.control_up.weight.grad.any()


def test_another_width_of_the_control_vector_is_refused():
    plug = untrained(d_control=8)
    with pytest.raises(
        ValueError, match=r"control_down\.weight is \(64, 512\) in it, and \(8, 512\)"
    ):
        read_weights(FOLDER, plug)
