"""From a checkpoint to a plug: torch and the run time agree on it, with every option."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from export.models.features import MAX_BYTES, Features, byte_rows
from export.models.plug import PersonaPlug, PlugConfig
from export.models.text_encoder import TextEncoder, find_minilm
from export.onnx import (
    ENCODER,
    PROJECTOR,
    QUERY_ENCODER,
    Graphs,
    export,
    load_plug,
    main,
)
from export.package.golden_vectors import FILE, TEXTS
from ppedge.defaults import find_model
from ppedge.errors import PpedgeError
from ppedge.llm.segments import Soft
from ppedge.notes.reader import Note
from ppedge.plug.plug import Plug
from ppedge.plug.template import Part, list_parts, note_text
from ppedge.store.persona import Persona
from tests import tiny_gguf
from tests.export import tiny_bert

NOTES = [
    Note(f"Note {i}: the bread is out! " * (1 + i % 9), input="" if i % 3 else f"bread, {i}?")
    for i in range(12)
]
PROMPT = "Write about bread and rain"


@dataclass
class World:
    """A tiny language model and a tiny text encoder, and a way to train nothing on them."""

    model: Path
    encoder: Path

    def plug(self, **options: Any) -> PersonaPlug:
        """An untrained plug whose weights are all random."""
        torch.manual_seed(0)
        query_encoder = None
        if options.get("query_encoder") == "separate":
            query_encoder = TextEncoder.read(self.encoder, trainable=True)
            options["query_shape"] = query_encoder.shape
        form = {"d_text": tiny_bert.WIDTH, "d_key": tiny_bert.WIDTH, "d_value": 24}
        config = PlugConfig(**{"n_embd": tiny_gguf.N_EMBD, "n_persona": 3, **form, **options})
        plug = PersonaPlug(config, torch.randn(64, config.n_embd), query_encoder)
        with torch.no_grad():
            for name, parameter in plug.named_parameters():
                if name not in ("log_scale", "recency_bias"):
                    parameter.add_(0.1 * torch.randn_like(parameter))
        return plug.eval().requires_grad_(False)

    def checkpoint(self, path: Path, plug: PersonaPlug, **more: Any) -> Path:
        state = {"config": asdict(plug.config), "plug": plug.state_dict(), "step": 3}
        torch.save({**state, "seconds": 1.5, **more}, path)
        return path

    def export(self, folder: Path, plug: PersonaPlug, **more: Any) -> Plug:
        checkpoint = self.checkpoint(folder.with_suffix(".pt"), plug, **more)
        export(checkpoint, folder, self.model, self.encoder, "test", {"data": "none"})
        return Plug(folder)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("world")
    return World(tiny_gguf.write(folder / "tiny.gguf"), tiny_bert.write(folder / "bert"))


@pytest.fixture(scope="module")
def exported(world: World, tmp_path_factory: pytest.TempPathFactory) -> tuple[Plug, PersonaPlug]:
    """A plug with a style channel, and what it was exported from."""
    trained = world.plug(d_style=8)
    return world.export(tmp_path_factory.mktemp("exported") / "plug", trained), trained


def paper() -> dict[str, Any]:
    form = asdict(PlugConfig.paper(tiny_gguf.N_EMBD, tiny_bert.WIDTH))
    return {name: value for name, value in form.items() if name not in ("n_embd", "query_shape")}


# Tracing takes seconds, so options share plugs; the first is `exported`.
OPTIONS: dict[str, dict[str, Any]] = {
    "style": {"d_style": 8},
    "control vector": {"d_control": 4, "n_control": 3},
    "separate query encoder, recency, no null note, style": {
        "query_encoder": "separate",
        "recency": True,
        "null_note": False,
        "d_style": 8,
    },
    "both fields, narrow keys, no instruction, recency": {
        "key_fields": ("both",),
        "value_fields": ("both", "input"),
        "d_key": 8,
        "n_instruction": 0,
        "recency": True,
    },
    "paper": paper(),
}


@pytest.fixture(scope="module")
def plugs(
    world: World, exported: tuple[Plug, PersonaPlug], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], tuple[Plug, PersonaPlug]]:
    """The plug of some ``OPTIONS`` and what it was exported from, made once."""
    made = {"style": exported}

    def get(name: str) -> tuple[Plug, PersonaPlug]:
        if name not in made:
            trained = world.plug(**OPTIONS[name])
            made[name] = world.export(tmp_path_factory.mktemp("plugs") / "plug", trained), trained
        return made[name]

    return get


def torch_soft(trained: PersonaPlug, features: Features, history: list[Note]) -> Soft:
    """Soft tokens [n_soft, n_embd] of ``PROMPT`` over a history, as training computes them."""
    config = trained.config
    if config.query_encoder == "separate":
        query = trained.encode_query(*features.tokens_of([PROMPT]))
    else:
        query = trained.query(exact(features, [PROMPT]))
    keys, values = torch.zeros(1, 0, config.d_key), torch.zeros(1, 0, config.d_value)
    if history:
        written = [note_text(note, config.value_fields) for note in history]
        asked = [note_text(note, config.key_fields) for note in history]
        bytes_and_mask = byte_rows(written) if config.d_style else (None, None)
        keys = trained.key(exact(features, asked))[None]
        values = trained.value(exact(features, written), *bytes_and_mask)[None]
    mask = torch.ones(1, len(history), dtype=torch.bool)
    pooled = trained.pool(query, keys, values, mask)
    control = trained.control(pooled)
    soft = trained.soft_tokens(pooled)[0].numpy()
    return Soft(soft, None if control is None else control[0].numpy())


def exact(features: Features, texts: list[str]) -> torch.Tensor:
    """Text vectors in float32; ``Features.vectors_of`` keeps them in float16."""
    return features.encoder(*features.tokens_of(texts))


@pytest.mark.parametrize("name", OPTIONS)
@torch.inference_mode()
def test_training_and_run_time_agree_with_every_option(
    plugs: Callable[[str], tuple[Plug, PersonaPlug]], world: World, tmp_path: Path, name: str
) -> None:
    plug, trained = plugs(name)
    config, manifest = trained.config, plug.manifest
    features = Features(world.encoder)
    texts = [note_text(note, config.key_fields) for note in NOTES]
    keys = trained.key(exact(features, texts)).numpy()
    found = np.stack([key for key, _ in plug.encode_notes(NOTES)])
    np.testing.assert_allclose(found, keys, atol=1e-5)
    for n_notes in (0, 1, len(NOTES)):
        with Persona.open(tmp_path / f"persona-{n_notes}", plug.space) as persona:
            persona.add(NOTES[:n_notes], plug.encode_notes)
            pooled = persona.pool(
                plug.encode_prompt(PROMPT),
                scale=manifest.attention_scale,
                recency=manifest.recency,
                null_competes=manifest.null_note_competes,
            )
        wanted = torch_soft(trained, features, NOTES[:n_notes])
        # A store keeps keys and values in float16.
        said = plug.project(pooled.value)
        np.testing.assert_allclose(said.vectors, wanted.vectors, atol=5e-3)
        assert (said.control is None) == (wanted.control is None) == (config.n_control == 0)
        if said.control is not None:
            np.testing.assert_allclose(said.control, wanted.control, atol=5e-3)


@pytest.mark.parametrize("name", OPTIONS)
def test_the_encoder_takes_bytes_only_where_there_is_a_style_channel(
    plugs: Callable[[str], tuple[Plug, PersonaPlug]], name: str
) -> None:
    plug, _ = plugs(name)
    graph = onnx.load(plug.path / ENCODER).graph
    style = bool(OPTIONS[name].get("d_style"))
    assert [tensor.name for tensor in graph.input] == (["ids", "bytes"] if style else ["ids"])
    assert plug.manifest.encoder.max_bytes == (MAX_BYTES if style else 0)


def test_the_manifest_tells_what_was_exported(exported: tuple[Plug, PersonaPlug]) -> None:
    plug, trained = exported
    manifest = plug.manifest
    assert manifest.attention_scale == pytest.approx(float(trained.scale))
    assert manifest.about == {"steps": 3, "seconds": 2, "data": "none"}
    assert (manifest.projector.n_soft, manifest.projector.n_instruction) == (5, 2)
    assert manifest.encoder.query_file is None
    assert (manifest.null_note_competes, manifest.recency) == (True, 0.0)
    assert plug.space.null_value.shape == (24,)
    null_key = plug.space.null_key.astype(np.float32)
    assert np.linalg.norm(null_key) == pytest.approx(1, abs=1e-3)


def test_the_first_soft_tokens_are_the_instruction(exported: tuple[Plug, PersonaPlug]) -> None:
    plug, trained = exported
    rng = np.random.default_rng(0)
    for pooled in rng.standard_normal((2, 24)).astype(np.float32):
        soft = plug.project(pooled).vectors
        np.testing.assert_allclose(soft[:2], trained.instruction.numpy(), atol=1e-6)


def test_every_option_is_told_as_it_was_trained(
    plugs: Callable[[str], tuple[Plug, PersonaPlug]],
) -> None:
    first = plugs("separate query encoder, recency, no null note, style")[0].manifest
    assert first.recency == pytest.approx(float(np.log1p(np.exp(-2.0))))
    assert not first.null_note_competes
    assert first.encoder.query_file == QUERY_ENCODER
    second = plugs("both fields, narrow keys, no instruction, recency")[0].manifest
    assert second.encoder.key_fields == ("both",)
    assert second.encoder.value_fields == ("both", "input")
    assert (second.projector.n_soft, second.projector.n_instruction) == (3, 0)
    third = plugs("paper")[0].manifest
    assert (third.attention_scale, third.recency) == (pytest.approx(1), 0)
    assert (third.projector.n_soft, third.projector.n_instruction) == (2, 1)
    assert not third.null_note_competes


def test_encoders_are_written_as_int8_rows(
    plugs: Callable[[str], tuple[Plug, PersonaPlug]],
) -> None:
    folder = plugs("paper")[0].path
    for name in (ENCODER, QUERY_ENCODER):
        # Matrices as small as the tiny layers' are folded to float32 by the exporter.
        assert (258, tiny_bert.WIDTH) in int8_matrices(folder / name)


def int8_matrices(graph: Path) -> list[tuple[int, ...]]:
    weights = onnx.load(graph).graph.initializer
    return [tuple(w.dims) for w in weights if w.data_type == onnx.TensorProto.INT8]


def test_golden_vectors_are_those_of_torch(
    world: World, exported: tuple[Plug, PersonaPlug]
) -> None:
    plug, trained = exported
    golden = plug.manifest.golden
    assert golden is not None
    assert golden.texts == TEXTS
    features = Features(world.encoder)
    width = 2 * 32 + 24 + 5 * tiny_gguf.N_EMBD
    rows = np.frombuffer((plug.path / FILE).read_bytes(), "<f4").reshape(len(TEXTS), width)
    with torch.inference_mode():
        h = exact(features, list(TEXTS))
        values = trained.value(h, *byte_rows(TEXTS))
        soft = trained.soft_tokens(values).flatten(1)
        wanted = torch.cat([trained.key(h), values, trained.query(h), soft], 1).numpy()
    np.testing.assert_allclose(rows, wanted, atol=1e-5)
    found = plug.golden_differences()
    assert found is not None
    assert 0 < max(found.values()) < 1e-5


def test_the_plug_fits_the_model_it_was_exported_for(
    world: World, exported: tuple[Plug, PersonaPlug]
) -> None:
    from ppedge.llm.llm import LLM

    with LLM(world.model, n_ctx=64) as llm:
        exported[0].check_model(llm.fingerprint, llm.path)


def test_graphs_hold_no_path_of_the_machine_that_made_them(
    exported: tuple[Plug, PersonaPlug],
) -> None:
    folder = exported[0].path
    for name in (ENCODER, PROJECTOR):
        data = (folder / name).read_bytes()
        assert b".py" not in data
        assert str(folder.parent).encode() not in data
        onnx.checker.check_model(onnx.load_from_string(data))


def test_a_changed_graph_is_refused(exported: tuple[Plug, PersonaPlug], tmp_path: Path) -> None:
    shutil.copytree(exported[0].path, tmp_path / "plug")
    graph = tmp_path / "plug" / PROJECTOR
    data = bytearray(graph.read_bytes())
    data[len(data) // 2] ^= 1
    graph.write_bytes(data)
    with pytest.raises(PpedgeError, match=r"projector\.onnx is not the file"):
        Plug(tmp_path / "plug")


def test_the_default_model_and_encoder_are_exported_alike(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = PlugConfig(n_persona=2)
    trained = PersonaPlug(config, torch.randn(64, config.n_embd) * 0.13).eval()
    real = World(find_model(), find_minilm())
    plug = real.export(tmp_path / "plug", trained.requires_grad_(False))
    found = plug.golden_differences()
    assert found is not None
    assert max(found.values()) < 1e-4
    # The words, and six matrices in each of six layers.
    assert len(int8_matrices(plug.path / ENCODER)) == 37
    # Longer than everything is cut at.
    text = "z \N{SNOWMAN}" * 3000
    with torch.inference_mode():
        value = trained.value(exact(Features(find_minilm()), [text]))[0].numpy()
    np.testing.assert_allclose(plug.vectors(text)[1], value, atol=1e-4)


# --- what is refused ---


def refused(world: World, tmp_path: Path, plug: PersonaPlug, **change: Any) -> str:
    """Export with ``change``d arguments, expecting one line; nothing may be written."""
    arguments: dict[str, Any] = {
        "trained": world.checkpoint(tmp_path / "plug.pt", plug),
        "out": tmp_path / "plug",
        "llm": world.model,
        "encoder": world.encoder,
        "name": "test",
        "about": {},
    }
    before = sorted(tmp_path.iterdir())
    with pytest.raises((PpedgeError, ValueError)) as caught:
        export(**{**arguments, **change})
    assert sorted(tmp_path.iterdir()) == before
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_an_existing_folder_is_never_overwritten(world: World, tmp_path: Path) -> None:
    (tmp_path / "plug").mkdir()
    assert "exists already" in refused(world, tmp_path, world.plug())


def test_an_instruction_alone_is_no_plug(world: World, tmp_path: Path) -> None:
    message = refused(world, tmp_path, world.plug(n_persona=0))
    assert "no persona rows" in message
    assert "instruction.npy" in message


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: path.write_bytes(b"no checkpoint"),
        lambda path: path.unlink(),
        lambda path: torch.save({"plug": {}}, path),
        lambda path: torch.save({"config": {"d_text": 3}, "plug": {}}, path),
        lambda path: torch.save([1, 2], path),
    ],
    ids=["bytes", "missing", "no config", "no weights", "a list"],
)
def test_a_file_that_is_no_checkpoint_is_named(
    world: World, tmp_path: Path, spoil: Callable[[Path], object]
) -> None:
    path = world.checkpoint(tmp_path / "spoiled.pt", world.plug())
    spoil(path)
    message = refused(world, tmp_path, world.plug(), trained=path)
    assert "spoiled.pt cannot be exported" in message


def test_an_encoder_of_another_width_is_refused_with_both_widths(
    world: World, tmp_path: Path
) -> None:
    wide = tiny_bert.write(tmp_path / "wide", hidden_size=40)
    message = refused(world, tmp_path, world.plug(), encoder=wide)
    assert "vectors of 40 numbers" in message
    assert "trained on 32" in message


def test_another_encoder_of_the_same_width_is_refused(world: World, tmp_path: Path) -> None:
    other = tiny_bert.write(tmp_path / "other", seed=1)
    inputs = {"encoder": TextEncoder.read(world.encoder).digest()}
    path = world.checkpoint(tmp_path / "told.pt", world.plug(), inputs=inputs)
    message = refused(world, tmp_path, world.plug(), trained=path, encoder=other)
    assert f"{other} is not the encoder that {path} was trained with" in message


def test_a_folder_without_an_encoder_is_refused(world: World, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert "config.json" in refused(world, tmp_path, world.plug(), encoder=tmp_path / "empty")


def test_a_model_of_another_width_is_refused_with_both_widths(world: World, tmp_path: Path) -> None:
    message = refused(world, tmp_path, world.plug(), llm=find_model())
    assert "embeddings of 576 numbers" in message
    assert f"trained for {tiny_gguf.N_EMBD}" in message


def test_a_model_that_is_no_gguf_is_refused(world: World, tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"GGML")
    assert "--llm" in refused(world, tmp_path, world.plug(), llm=tmp_path / "model.gguf")


@pytest.fixture
def traced(
    exported: tuple[Plug, PersonaPlug], monkeypatch: pytest.MonkeyPatch
) -> tuple[Plug, PersonaPlug]:
    """`exported`, whose graphs are copied where they would be traced again."""

    def copy_graphs(graphs: Graphs, folder: Path) -> None:
        for name in (ENCODER, PROJECTOR):
            shutil.copyfile(exported[0].path / name, folder / name)

    monkeypatch.setattr("export.onnx.write_graphs", copy_graphs)
    return exported


def test_a_name_that_no_manifest_may_hold_is_refused(
    world: World, tmp_path: Path, traced: tuple[Plug, PersonaPlug]
) -> None:
    assert "field 'name'" in refused(world, tmp_path, traced[1], name="two\nlines")


@pytest.mark.usefixtures("traced")
def test_a_graph_that_differs_from_torch_is_not_written(world: World, tmp_path: Path) -> None:
    other = world.plug(d_style=8)
    with torch.no_grad():
        assert other.query_head is not None
        other.query_head.weight[0, 0] += 0.1
    assert "differ from torch" in refused(world, tmp_path, other)


def test_an_old_checkpoint_means_the_default_options(world: World, tmp_path: Path) -> None:
    first = ("d_text", "d_key", "d_value", "n_embd", "n_instruction", "n_persona", "d_style")
    trained = world.plug()
    config = {name: getattr(trained.config, name) for name in (*first, "initial_scale")}
    path = world.checkpoint(tmp_path / "plug.pt", trained, config=config)
    assert load_plug(path)[0].config == trained.config


def test_the_command_writes_a_plug(
    world: World,
    tmp_path: Path,
    traced: tuple[Plug, PersonaPlug],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    template = (Part("Q: "), Part(slot="prompt"), Part("\nA:"), Part(slot="soft"))
    checkpoint = world.checkpoint(tmp_path / "plug.pt", traced[1], template=list_parts(template))
    (tmp_path / "about.json").write_text(json.dumps({"steps": 9, "by": "nobody"}))
    words = ["onnx", checkpoint, tmp_path / "out" / "plug", "--llm", world.model]
    words += ["--encoder", world.encoder, "--name", "by command", "--licence", "MIT"]
    words += ["--about", tmp_path / "about.json"]
    monkeypatch.setattr("sys.argv", list(map(str, words)))
    main()
    manifest = Plug(tmp_path / "out" / "plug").manifest
    assert (manifest.name, manifest.licence) == ("by command", "MIT")
    assert manifest.about == {"steps": 9, "seconds": 2, "by": "nobody"}
    assert manifest.template == template
    assert '"soft tokens": ' in capsys.readouterr().out


def test_the_command_names_itself_in_its_errors(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["onnx", tmp_path / "none.pt", tmp_path / "plug", "--llm", world.model, "--name", "x"]
    monkeypatch.setattr("sys.argv", [*map(str, words), "--encoder", str(world.encoder)])
    with pytest.raises(SystemExit, match=r"^export\.onnx: .*none\.pt"):
        main()
    assert not (tmp_path / "plug").exists()
