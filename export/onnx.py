"""Write a trained checkpoint as a plug: two ONNX graphs, a tokenizer, the null note, a manifest.

    python -m export.onnx runs/a/plug.pt PLUG_DIR --gguf MODEL.gguf --name smollm2-135m

Each graph is run in onnxruntime beside torch on real texts; a difference of 1e-4 or more is an
error, and nothing is written.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from export.features import MAX_BYTES, MAX_TOKENS, open_tokenizer
from export.minilm import MiniLM, find_minilm
from export.model import PersonaPlug, PlugConfig
from export.train import KEY_FIELDS, TEMPLATE, VALUE_FIELDS
from ppedge.fingerprint import fingerprint
from ppedge.history import Note
from ppedge.manifest import MANIFEST_NAME, EncoderSpec, FileEntry, Manifest, ProjectorSpec
from ppedge.manifest import manifest_json as to_json
from ppedge.plug import Plug
from ppedge.prompt import note_text

TOLERANCE = 1e-4
OPSET = 18
# Short, long, empty-handed, cased, emoji: what a graph traced on one text might get wrong.
SAMPLES = (
    "Fix a leak",
    "lib: refuse an empty name, since the caller would only trip over it later on " * 4,
    "Happy birthday, Ann! \N{PARTY POPPER} #party",
    "A",
    "the rain kept on. so did we -- wet socks and all.",
)


class TextGraph(nn.Module):
    """ids [1, L] and bytes [1, B] -> key [d_key], value [d_value], query [d_key]."""

    def __init__(self, encoder: MiniLM, plug: PersonaPlug) -> None:
        super().__init__()
        self.encoder, self.plug = encoder, plug

    def forward(self, ids: Tensor, bytes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        h = self.encoder(ids)
        key, value, query = self.plug.key(h), self.plug.value(h, bytes), self.plug.query(h)
        return key[0], value[0], query[0]


class ProjectorGraph(nn.Module):
    """pooled [d_value] -> soft [n_soft, n_embd]."""

    def __init__(self, plug: PersonaPlug) -> None:
        super().__init__()
        self.plug = plug

    def forward(self, pooled: Tensor) -> Tensor:
        return self.plug.soft_tokens(pooled[None])[0]


def load_plug(checkpoint: Path) -> tuple[PersonaPlug, dict[str, Any]]:
    """The plug of a checkpoint, ready to run, and all that the checkpoint holds."""
    state = torch.load(checkpoint, weights_only=True)
    config = PlugConfig(**state["config"])
    plug = PersonaPlug(config, torch.zeros(config.n_instruction + config.n_persona, config.n_embd))
    plug.load_state_dict(state["plug"])
    return plug.eval().requires_grad_(False), state


def export_text_graph(graph: TextGraph, path: Path) -> None:
    """Write the text encoder; texts and bytes of any length, one text a run."""
    tokens, length = torch.export.Dim("tokens", min=2, max=512), torch.export.Dim("length", min=2)
    torch.onnx.export(
        graph,
        (torch.ones(1, 7, dtype=torch.long), torch.full((1, 11), 65)),
        path,
        input_names=["ids", "bytes"],
        output_names=["key", "value", "query"],
        dynamic_shapes={"ids": {1: tokens}, "bytes": {1: length}},
        opset_version=OPSET,
        dynamo=True,
        external_data=False,
        verbose=False,
    )


def export_projector(graph: ProjectorGraph, d_value: int, path: Path) -> None:
    """Write the projector."""
    torch.onnx.export(
        graph,
        (torch.zeros(d_value),),
        path,
        input_names=["pooled"],
        output_names=["soft"],
        opset_version=OPSET,
        dynamo=True,
        external_data=False,
        verbose=False,
    )


def strip(path: Path) -> None:
    """Leave out what only a debugger reads: it holds the paths of the machine that exported."""
    model = onnx.load(path)
    del model.metadata_props[:]
    for node in model.graph.node:
        node.doc_string = ""
        del node.metadata_props[:]
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        del value.metadata_props[:]
    for tensor in model.graph.initializer:
        tensor.doc_string = ""
        del tensor.metadata_props[:]
    onnx.save(model, path)


def differences(folder: Path, text: TextGraph, projector: ProjectorGraph) -> dict[str, float]:
    """Largest |torch - onnxruntime| of every output, on ``SAMPLES``, through the run time."""
    plug = Plug(folder)
    tokenizer = open_tokenizer(folder)
    worst = dict.fromkeys(("key", "value", "query", "soft"), 0.0)

    def compare(name: str, ours: Tensor, theirs: np.ndarray) -> None:
        worst[name] = max(worst[name], float(np.abs(ours.numpy() - theirs).max()))

    for sample in SAMPLES:
        note = Note(output=sample)
        data = torch.tensor([list(note_text(note, VALUE_FIELDS).encode()[:MAX_BYTES])])
        with torch.inference_mode():
            key, value, query = text(torch.tensor([tokenizer.encode(sample).ids]), data)
            [(their_key, their_value)] = plug.encode_notes([note])
            compare("key", key, their_key)
            compare("value", value, their_value)
            compare("query", query, plug.encode_prompt(sample))
            compare("soft", projector(value), plug.soft_tokens(value.numpy()))
    return worst


def write_manifest(
    folder: Path, plug: PersonaPlug, llm: Path, name: str, about: dict[str, Any]
) -> None:
    """Describe and hash the files of a plug's folder."""
    files = {}
    for file in sorted(folder.iterdir()):
        data = file.read_bytes()
        files[file.name] = FileEntry(len(data), hashlib.sha256(data).hexdigest())
    config = plug.config
    manifest = Manifest(
        name=name,
        licence="Apache-2.0",
        files=files,
        llm=fingerprint(llm),
        llm_name=llm.stem,
        encoder=EncoderSpec(
            file="encoder.onnx",
            tokenizer="tokenizer.json",
            max_tokens=MAX_TOKENS,
            max_bytes=MAX_BYTES,
            d_key=config.d_key,
            d_value=config.d_value,
            key_fields=KEY_FIELDS,
            value_fields=VALUE_FIELDS,
        ),
        null_note="null.f32",
        attention_scale=float(plug.scale),
        projector=ProjectorSpec("projector.onnx", config.n_instruction + config.n_persona),
        template=TEMPLATE,
        about=about,
    )
    (folder / MANIFEST_NAME).write_text(to_json(manifest), encoding="utf-8")


def export(checkpoint: Path, out: Path, llm: Path, encoder: Path, name: str, about: Any) -> None:
    """Write the plug of ``checkpoint`` to the folder ``out``, which must not exist."""
    if out.exists():
        raise SystemExit(f"{out} exists already; name another folder, or remove it first")
    plug, state = load_plug(checkpoint)
    text, projector = TextGraph(MiniLM(encoder), plug).eval(), ProjectorGraph(plug).eval()
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent) as scratch:
        folder = Path(scratch) / "plug"
        folder.mkdir()
        export_text_graph(text, folder / "encoder.onnx")
        export_projector(projector, plug.config.d_value, folder / "projector.onnx")
        for graph in ("encoder.onnx", "projector.onnx"):
            strip(folder / graph)
        shutil.copyfile(encoder / "tokenizer.json", folder / "tokenizer.json")
        null = torch.cat([F.normalize(plug.null_key, dim=0), plug.null_value])
        (folder / "null.f32").write_bytes(null.numpy().astype("<f4").tobytes())
        about = {"steps": state["step"], "seconds": round(state["seconds"]), **about}
        write_manifest(folder, plug, llm, name, about)
        worst = differences(folder, text, projector)
        print("torch against onnxruntime, largest difference:", json.dumps(worst))
        if max(worst.values()) >= TOLERANCE:
            raise SystemExit(f"the graphs differ from torch by {TOLERANCE} or more; not written")
        folder.rename(out)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--gguf", type=Path, required=True)
    parser.add_argument("--encoder", type=Path, help="MiniLM folder (default: the package's)")
    parser.add_argument("--name", required=True)
    parser.add_argument("--about", type=Path, help="JSON object that goes into the manifest")
    args = parser.parse_args()
    about = json.loads(args.about.read_text()) if args.about else {}
    encoder = args.encoder or find_minilm()
    export(args.checkpoint, args.out, args.gguf, encoder, args.name, about)


if __name__ == "__main__":
    main()
