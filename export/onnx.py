"""Write a trained checkpoint as a plug: graphs, tokenizer, null note, golden vectors, manifest.

    python -m export.onnx runs/a/plug.pt PLUG_DIR --llm MODEL.gguf --name smollm2-135m

The graphs are run in onnxruntime beside torch on real texts; a difference of 1e-4 or more is an
error, and nothing is written. What torch gave is stored for ``ppedge doctor`` to compute again.

The matrices of text encoders lie in the graphs as int8 rows, each with a float32 scale, which is
how they were trained against; heads and projector are float32. Everything is computed in float32.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import Tensor, nn

from export.models.features import MAX_BYTES, MAX_TOKENS, open_tokenizer
from export.models.plug import PersonaPlug, PlugConfig
from export.models.text_encoder import TextEncoder, find_minilm
from export.package.golden_vectors import TEXTS, file_entry, write_golden
from export.package.graph_file import write_graph
from export.tools.commands import one_line_errors
from export.training import checkpoint
from ppedge.errors import PpedgeError
from ppedge.llm.fingerprint import Fingerprint, fingerprint
from ppedge.plug.golden import Vectors, shapes
from ppedge.plug.manifest import EncoderSpec, Manifest, ProjectorSpec
from ppedge.plug.plug import Plug
from ppedge.plug.template import Part

TOLERANCE = 1e-4
ENCODER, QUERY_ENCODER, PROJECTOR = "encoder.onnx", "query.onnx", "projector.onnx"
TOKENIZER, NULL_NOTE = "tokenizer.json", "null.f32"


class NoteGraph(nn.Module):
    """ids [1, L] (and bytes [1, B], with a style channel) -> key [d_key], value [d_value].

    A third output, query [d_key], unless the queries have an encoder of their own.
    """

    def __init__(self, encoder: TextEncoder, plug: PersonaPlug) -> None:
        super().__init__()
        self.encoder, self.plug = encoder, plug
        self.gives = ["key", "value"]
        if plug.query_encoder is None:
            self.gives.append("query")

    def forward(self, ids: Tensor, bytes: Tensor | None = None) -> tuple[Tensor, ...]:
        h = self.encoder(ids)
        key, value = self.plug.key(h)[0], self.plug.value(h, bytes)[0]
        if "query" not in self.gives:
            return key, value
        return key, value, self.plug.query(h)[0]


class QueryGraph(nn.Module):
    """ids [1, L] -> query [d_key], by the encoder that was trained for queries."""

    def __init__(self, encoder: TextEncoder, plug: PersonaPlug) -> None:
        super().__init__()
        self.encoder, self.plug = encoder.int8(), plug

    def forward(self, ids: Tensor) -> Tensor:
        return self.plug.query(self.encoder(ids))[0]


class ProjectorGraph(nn.Module):
    """pooled [d_value] -> soft [n_soft, n_embd], and any control vector [n_control, n_embd]."""

    def __init__(self, plug: PersonaPlug) -> None:
        super().__init__()
        self.plug = plug
        self.gives = ["soft", "control"] if plug.config.d_control else ["soft"]

    def forward(self, pooled: Tensor) -> tuple[Tensor, ...]:
        soft, control = self.plug.soft_tokens(pooled[None])[0], self.plug.control(pooled[None])
        return (soft,) if control is None else (soft, control[0])


@dataclass
class Graphs:
    """The graphs of a plug in torch, and what they read."""

    plug: PersonaPlug
    notes: NoteGraph
    queries: QueryGraph | None
    projector: ProjectorGraph
    tokenizer: Tokenizer

    @classmethod
    def of(cls, plug: PersonaPlug, encoder: Path) -> Graphs:
        """Join a plug and the text encoder of a folder.

        Raises:
            ValueError: it holds no encoder, or not the one that the plug was trained with.
        """
        try:
            shared, own = TextEncoder.read(encoder).eval(), plug.query_encoder
        except ValueError as error:
            raise ValueError(f"--encoder: {error}") from None
        if shared.width != plug.config.d_text:
            raise ValueError(
                f"{encoder} makes vectors of {shared.width} numbers, and the plug was trained on "
                f"{plug.config.d_text}; name the encoder that it was trained with (--encoder)"
            )
        return cls(
            plug,
            NoteGraph(shared, plug).eval(),
            QueryGraph(own, plug).eval() if own is not None else None,
            ProjectorGraph(plug).eval(),
            open_tokenizer(encoder),
        )

    def inputs(self, text: str) -> tuple[Tensor, ...]:
        """Token ids int64 [1, L], and for a style channel bytes int64 [1, B], both cut."""
        ids = torch.tensor([self.tokenizer.encode(text).ids])
        if not self.plug.config.d_style:
            return (ids,)
        return ids, torch.tensor([list(text.encode("utf-8")[:MAX_BYTES] or b" ")])

    @torch.inference_mode()
    def vectors(self, text: str) -> Vectors:
        """What torch makes of a text; as ``ppedge.plug.plug.Plug.vectors``."""
        inputs = self.inputs(text)
        key, value, *query = self.notes(*inputs)
        if self.queries is not None:
            query = [self.queries(inputs[0])]
        said = self.projector(value)
        return tuple(each.numpy() for each in (key, value, query[0], *said))


def load_plug(path: Path) -> tuple[PersonaPlug, dict[str, Any]]:
    """The plug of a checkpoint, ready to run, and all that the checkpoint holds.

    Raises:
        ValueError: the file is not a checkpoint that this code reads.
    """
    try:
        state = checkpoint.load(path)
        config = PlugConfig(**state["config"])
        n_soft = config.n_instruction + config.n_persona
        plug = PersonaPlug(config, torch.zeros(n_soft, config.n_embd))
        plug.load_state_dict(state["plug"])
    except (ValueError, TypeError, RuntimeError) as error:  # of the file, PlugConfig and torch
        line = " ".join(str(error).split())[:300]
        raise ValueError(f"{path} cannot be exported: {line}") from None
    return plug.eval().requires_grad_(False), state


def write_graphs(graphs: Graphs, folder: Path) -> None:
    """Write every graph of a plug; texts and bytes of any length, one text a run."""
    lengths: dict[str, tuple[int, int | None]] = {
        "ids": (2, graphs.notes.encoder.shape.positions),
        "bytes": (2, None),
    }
    inputs = graphs.inputs("of some length")
    takes = ["ids", "bytes"][: len(inputs)]
    used = {name: lengths[name] for name in takes}
    write_graph(graphs.notes, inputs, folder / ENCODER, takes, graphs.notes.gives, used)
    if graphs.queries is not None:
        only_ids = {"ids": (2, graphs.queries.encoder.shape.positions)}
        path = folder / QUERY_ENCODER
        write_graph(graphs.queries, inputs[:1], path, ["ids"], ["query"], only_ids)
    pooled = torch.zeros(graphs.plug.config.d_value)
    path = folder / PROJECTOR
    write_graph(graphs.projector, (pooled,), path, ["pooled"], graphs.projector.gives)


def describe(
    plug: PersonaPlug, template: tuple[Part, ...], llm: Fingerprint, **texts: Any
) -> Manifest:
    """The manifest of a plug, but for its files; ``texts``: name, llm_name, licence, about."""
    config = plug.config
    return Manifest(
        files={},
        llm=llm,
        encoder=EncoderSpec(
            file=ENCODER,
            tokenizer=TOKENIZER,
            max_tokens=MAX_TOKENS,
            max_bytes=MAX_BYTES if config.d_style else 0,
            d_key=config.d_key,
            d_value=config.d_value,
            key_fields=config.key_fields,
            value_fields=config.value_fields,
            query_file=None if plug.query_encoder is None else QUERY_ENCODER,
        ),
        null_note=NULL_NOTE,
        null_note_competes=config.null_note,
        attention_scale=float(plug.scale),
        recency=float(plug.recency),
        projector=ProjectorSpec(
            PROJECTOR,
            config.n_instruction + config.n_persona,
            config.n_instruction,
            config.n_control,
        ),
        template=template,
        **texts,
    )


def opened(folder: Path) -> Plug:
    """The plug in ``folder``, which the run time must accept."""
    try:
        return Plug(folder)
    except PpedgeError as error:
        raise ValueError(f"this would be no plug that ppedge opens: {error}") from None


def differences(plug: Plug, golden: list[Vectors]) -> dict[str, float]:
    """Largest |torch - onnxruntime| of each vector of ``TEXTS``, by name."""
    worst = dict.fromkeys(shapes(plug.manifest), 0.0)
    for text, ours in zip(TEXTS, golden, strict=True):
        for name, one, other in zip(worst, ours, plug.vectors(text), strict=True):
            worst[name] = max(worst[name], float(np.abs(one - other).max()))
    return worst


def read_about(path: Path | None) -> dict[str, Any]:
    """The JSON object that goes into the manifest for people."""
    if path is None:
        return {}
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} (--about) cannot be read as JSON: {error}") from None
    if not isinstance(about, dict):
        raise ValueError(f"{path} (--about) holds no JSON object")
    return about


def fitting(llm: Path, n_embd: int) -> Fingerprint:
    """The fingerprint of a GGUF whose embeddings are ``n_embd`` wide."""
    try:
        found = fingerprint(llm)
    except PpedgeError as error:
        raise ValueError(f"--llm: {error}") from None
    if found.n_embd != n_embd:
        raise ValueError(
            f"--llm: {llm} has embeddings of {found.n_embd} numbers, and the plug was trained for "
            f"{n_embd}; name the model that it was trained with"
        )
    return found


def export(
    trained: Path,
    out: Path,
    llm: Path,
    encoder: Path,
    name: str,
    about: dict[str, Any],
    licence: str = "Apache-2.0",
) -> None:
    """Write the plug of a checkpoint to the folder ``out``, which must not exist.

    Args:
        trained: the checkpoint, ``plug.pt`` of a training.
        out: the plug's folder.
        llm: the GGUF that it was trained with.
        encoder: folder of the text encoder that it was trained with.
        name: what the plug is called.
        about: for people; steps and seconds of the training are put before it.
        licence: SPDX expression of the plug's files.

    Raises:
        ValueError: something does not fit; nothing is written.
    """
    if out.exists():
        raise ValueError(f"{out} exists already; name another folder, or remove it first")
    plug, state = load_plug(trained)
    if not plug.config.n_persona:
        raise ValueError(
            f"{trained} has no persona rows: a trained instruction says the same for everybody "
            "and is no plug; evaluate it with the instruction.npy beside it"
        )
    about = {"steps": state["step"], "seconds": round(state.get("seconds", 0)), **about}
    found = fitting(llm, plug.config.n_embd)
    template = checkpoint.template_of(state)
    graphs = Graphs.of(plug, encoder)
    digest = graphs.notes.encoder.digest()
    if state.get("inputs", {}).get("encoder", digest) != digest:
        raise ValueError(f"--encoder: {encoder} is not the encoder that {trained} was trained with")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent) as scratch:
        folder = Path(scratch) / "plug"
        folder.mkdir()
        write_graphs(graphs, folder)
        shutil.copyfile(encoder / "tokenizer.json", folder / TOKENIZER)
        null = torch.cat([F.normalize(plug.null_key, dim=0), plug.null_value])
        (folder / NULL_NOTE).write_bytes(null.numpy().astype("<f4").tobytes())
        manifest = describe(
            plug, template, found, name=name, llm_name=llm.stem, licence=licence, about=about
        )
        files = {path.name: file_entry(path) for path in sorted(folder.iterdir())}
        golden = [graphs.vectors(text) for text in TEXTS]
        write_golden(folder, replace(manifest, files=files), golden)
        worst = differences(opened(folder), golden)
        print("torch against onnxruntime, largest difference:", json.dumps(worst))
        if max(worst.values()) >= TOLERANCE:
            raise ValueError(f"the graphs differ from torch by {TOLERANCE} or more; not written")
        folder.rename(out)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m export.onnx", description=__doc__.split("\n")[0]
    )
    add = parser.add_argument
    add("checkpoint", type=Path, help="plug.pt of a training")
    add("out", type=Path, metavar="PLUG_DIR", help="folder to write, which must not exist")
    add("--llm", type=Path, required=True, help="GGUF that the plug was trained for")
    add("--encoder", type=Path, help="folder of the text encoder (default: the MiniLM package's)")
    add("--name", required=True, help="what the plug is called")
    add("--licence", default="Apache-2.0", help="SPDX expression (default: Apache-2.0)")
    add("--about", type=Path, help="JSON object that goes into the manifest")
    args = parser.parse_args()
    with one_line_errors("export.onnx"):
        encoder = args.encoder or find_minilm()
        about = read_about(args.about)
        export(args.checkpoint, args.out, args.llm, encoder, args.name, about, args.licence)


if __name__ == "__main__":
    main()
