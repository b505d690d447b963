"""Writes plugs of a few hundred kilobytes: real graphs, a real tokenizer, random weights.

Enough for every part to do its work on them; what they say about a person is noise.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

from ppedge.llm.fingerprint import Fingerprint, fingerprint
from ppedge.plug.golden import pack_golden
from ppedge.plug.manifest import (
    MANIFEST_NAME,
    EncoderSpec,
    FileEntry,
    GoldenSpec,
    KeptSpec,
    Manifest,
    ProjectorSpec,
    manifest_json,
)
from ppedge.plug.plug import Plug
from ppedge.plug.template import Part

D_KEY, D_VALUE, N_SOFT = 8, 12, 3
MAX_TOKENS = 64
SCALE = 3.0
TEMPLATE = (Part("Q: "), Part(slot="prompt"), Part("\nA: "), Part(slot="soft"))
# What SmolLM2 was taught to answer in.
CHAT_TEMPLATE = (
    Part("<|im_start|>user\n"),
    Part(slot="prompt"),
    Part("<|im_end|>\n<|im_start|>assistant\n"),
    Part(slot="soft"),
)
ENCODER, PROJECTOR, TOKENIZER, NULL_NOTE, QUERY_ENCODER, GOLDEN, KEPT = (
    "encoder.onnx",
    "projector.onnx",
    "tokenizer.json",
    "null_note.bin",
    "query.onnx",
    "golden.f32",
    "kept.onnx",
)
OUTPUTS = ("key", "value", "query")
_WIDTHS = {"key": D_KEY, "value": D_VALUE, "query": D_KEY}
_N_VOCAB, _WIDTH = 258, 16
_OPSET = 17

model_fingerprint: Callable[[Path], Fingerprint] = cache(fingerprint)


def write(
    folder: Path,
    model: Path,
    *,
    seed: int = 0,
    max_bytes: int = 0,
    template: Sequence[Part] = TEMPLATE,
    key_fields: tuple[str, ...] = ("input", "output"),
    value_fields: tuple[str, ...] = ("output",),
    soft_size: float = 1.0,
    query_file: bool = False,
    null_note_competes: bool = True,
    recency: float = 0.0,
    n_control: int = 0,
    n_kept: int = 0,
) -> Path:
    """Write a plug for the GGUF ``model``.

    Args:
        folder: where to; made.
        model: the GGUF file that it shall fit.
        seed: of the random weights.
        max_bytes: as in the manifest; above 0 the encoder takes bytes too.
        template: the prompt template.
        key_fields: as in the manifest.
        value_fields: as in the manifest.
        soft_size: standard deviation of the soft tokens' numbers.
        query_file: whether another graph than the encoder makes the queries.
        null_note_competes: as in the manifest.
        recency: as in the manifest.
        n_control: as in the manifest; above 0 the projector gives a control vector too.
        n_kept: number of kept soft tokens.
    """
    rng = np.random.default_rng(seed)
    llm = model_fingerprint(model)
    null = rng.standard_normal(D_KEY + D_VALUE).astype("<f4")
    contents = {
        ENCODER: encoder_graph(
            rng, with_bytes=bool(max_bytes), gives=("key", "value") if query_file else OUTPUTS
        ),
        PROJECTOR: projector_graph(rng, llm.n_embd, soft_size, n_control),
        TOKENIZER: tokenizer_json().encode(),
        NULL_NOTE: null.tobytes(),
    }
    if n_kept:
        contents[KEPT] = projector_graph(rng, llm.n_embd, soft_size, n_soft=n_kept)
    if query_file:
        contents[QUERY_ENCODER] = encoder_graph(rng, gives=("query",))
    manifest = Manifest(
        name=f"tiny-{seed}",
        licence="Apache-2.0",
        files={name: entry(data) for name, data in contents.items()},
        llm=llm,
        llm_name=model.stem,
        encoder=EncoderSpec(
            file=ENCODER,
            tokenizer=TOKENIZER,
            max_tokens=MAX_TOKENS,
            max_bytes=max_bytes,
            d_key=D_KEY,
            d_value=D_VALUE,
            key_fields=key_fields,
            value_fields=value_fields,
            query_file=QUERY_ENCODER if query_file else None,
        ),
        null_note=NULL_NOTE,
        attention_scale=SCALE,
        projector=ProjectorSpec(file=PROJECTOR, n_soft=N_SOFT, n_control=n_control),
        template=tuple(template),
        about={"trained on": "nothing: random weights"},
        null_note_competes=null_note_competes,
        recency=recency,
        kept=KeptSpec(KEPT, n_kept) if n_kept else None,
    )
    folder.mkdir(parents=True)
    for name, data in contents.items():
        (folder / name).write_bytes(data)
    (folder / MANIFEST_NAME).write_text(manifest_json(manifest), encoding="utf-8")
    return folder


def add_golden(folder: Path, texts: Sequence[str], error: float = 0.0) -> Path:
    """Give a plug golden vectors; ``error`` is added to every number of them."""
    plug = Plug(folder)
    vectors = [plug.vectors(text) for text in texts]
    data = (np.frombuffer(pack_golden(vectors), "<f4") + np.float32(error)).tobytes()
    golden = dataclasses.asdict(GoldenSpec(GOLDEN, tuple(texts)))
    edit(folder, lambda raw: raw.update(golden=golden))
    swap(folder, GOLDEN, data)
    return folder


def entry(data: bytes) -> FileEntry:
    """Return what the manifest must say of a file that holds ``data``."""
    return FileEntry(len(data), hashlib.sha256(data).hexdigest())


def swap(folder: Path, name: str, data: bytes) -> None:
    """Replace a file of the plug, and let the manifest vouch for the new one."""
    (folder / name).write_bytes(data)
    edit(folder, lambda raw: raw["files"].update({name: dataclasses.asdict(entry(data))}))


def edit(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the manifest as JSON, in place."""
    path = folder / MANIFEST_NAME
    raw = json.loads(path.read_text("utf-8"))
    change(raw)
    path.write_text(json.dumps(raw), encoding="utf-8")


def encoder_graph(
    rng: np.random.Generator, *, with_bytes: bool = False, gives: Sequence[str] = OUTPUTS
) -> bytes:
    """An encoder in which a token's place counts, so that any two texts differ.

    Args:
        rng: draws the weights.
        with_bytes: whether it takes the text's bytes too.
        gives: names of its outputs.
    """

    def random(name: str, *shape: int) -> onnx.TensorProto:
        weights = rng.standard_normal(shape).astype(np.float32)
        return numpy_helper.from_array(weights, name)

    width = _WIDTH * (2 if with_bytes else 1)
    weights = [
        random("table", _N_VOCAB, _WIDTH),
        random("places", MAX_TOKENS, _WIDTH),
        *(random(f"to_{name}", width, _WIDTHS[name]) for name in gives),
        numpy_helper.from_array(np.array([0], np.int64), "zero"),
    ]
    nodes = [
        helper.make_node("Shape", ["ids"], ["n_tokens"], start=1, end=2),
        helper.make_node("Slice", ["places", "zero", "n_tokens"], ["here"]),
        helper.make_node("Gather", ["table", "ids"], ["rows"]),
        helper.make_node("Mul", ["rows", "here"], ["placed"]),
        helper.make_node("ReduceMean", ["placed"], ["mean_ids"], axes=[0, 1], keepdims=0),
    ]
    inputs = [helper.make_tensor_value_info("ids", TensorProto.INT64, [1, "L"])]
    text = "mean_ids"
    if with_bytes:
        weights.append(random("byte_table", 256, _WIDTH))
        inputs.append(helper.make_tensor_value_info("bytes", TensorProto.INT64, [1, "B"]))
        text = "both"
        nodes += [
            helper.make_node("Gather", ["byte_table", "bytes"], ["byte_rows"]),
            helper.make_node("ReduceMean", ["byte_rows"], ["mean_bytes"], axes=[0, 1], keepdims=0),
            helper.make_node("Concat", ["mean_ids", "mean_bytes"], [text], axis=0),
        ]
    nodes += [helper.make_node("MatMul", [text, f"to_{name}"], [name]) for name in gives]
    outputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [_WIDTHS[name]]) for name in gives
    ]
    return model_bytes(nodes, inputs, outputs, weights)


def projector_graph(
    rng: np.random.Generator,
    n_embd: int,
    size: float = 1.0,
    n_control: int = 0,
    n_soft: int = N_SOFT,
) -> bytes:
    """Soft tokens that are linear in the pooled value, and a control vector that is, too."""
    matrix, offset = projector_weights(rng, n_embd, size, n_soft)
    weights = [
        numpy_helper.from_array(matrix, "matrix"),
        numpy_helper.from_array(offset, "offset"),
        numpy_helper.from_array(np.array([n_soft, n_embd], np.int64), "shape"),
    ]
    nodes = [
        helper.make_node("MatMul", ["pooled", "matrix"], ["turned"]),
        helper.make_node("Add", ["turned", "offset"], ["moved"]),
        helper.make_node("Reshape", ["moved", "shape"], ["soft"]),
    ]
    inputs = [helper.make_tensor_value_info("pooled", TensorProto.FLOAT, [D_VALUE])]
    outputs = [helper.make_tensor_value_info("soft", TensorProto.FLOAT, [n_soft, n_embd])]
    if n_control:
        steering = rng.standard_normal((D_VALUE, n_control * n_embd)).astype(np.float32)
        weights += [
            numpy_helper.from_array(steering, "steering"),
            numpy_helper.from_array(np.array([n_control, n_embd], np.int64), "layers"),
        ]
        nodes += [
            helper.make_node("MatMul", ["pooled", "steering"], ["steered"]),
            helper.make_node("Reshape", ["steered", "layers"], ["control"]),
        ]
        shape = [n_control, n_embd]
        outputs.append(helper.make_tensor_value_info("control", TensorProto.FLOAT, shape))
    return model_bytes(nodes, inputs, outputs, weights)


def projector_weights(
    rng: np.random.Generator, n_embd: int, size: float, n_soft: int = N_SOFT
) -> tuple[np.ndarray, np.ndarray]:
    """Matrix float32 [d_value, n_soft * n_embd] and offset float32 [n_soft * n_embd]."""
    matrix = rng.standard_normal((D_VALUE, n_soft * n_embd)) * size * D_VALUE**-0.5
    return matrix.astype(np.float32), (rng.standard_normal(n_soft * n_embd) * size).astype("f4")


def weights_of(graph: bytes) -> dict[str, np.ndarray]:
    """The initializers of a graph, by name."""
    initializers = onnx.load_model_from_string(graph).graph.initializer
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in initializers}


def constant_graph(
    inputs: dict[str, tuple[int, list[Any]]], outputs: dict[str, np.ndarray]
) -> bytes:
    """A graph that ignores its inputs (ONNX type and shape by name) and returns ``outputs``."""
    nodes = [
        helper.make_node("Constant", [], [name], value=numpy_helper.from_array(array))
        for name, array in outputs.items()
    ]
    return model_bytes(
        nodes,
        [helper.make_tensor_value_info(name, *spec) for name, spec in inputs.items()],
        [
            helper.make_tensor_value_info(
                name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape
            )
            for name, array in outputs.items()
        ],
        [],
    )


def model_bytes(
    nodes: list[onnx.NodeProto],
    inputs: list[onnx.ValueInfoProto],
    outputs: list[onnx.ValueInfoProto],
    weights: list[onnx.TensorProto],
) -> bytes:
    """Put a graph together and check it."""
    model = helper.make_model(
        helper.make_graph(nodes, "tiny", inputs, outputs, weights),
        opset_imports=[helper.make_opsetid("", _OPSET)],
        ir_version=8,
    )
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


@cache
def tokenizer_json() -> str:
    """A tokenizer of bytes; like some published ones it asks for padding and truncation."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {"[CLS]": 0, "[SEP]": 1, **{char: 2 + i for i, char in enumerate(alphabet)}}
    assert len(vocabulary) == _N_VOCAB
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 0), ("[SEP]", 1)]
    )
    tokenizer.enable_padding(length=MAX_TOKENS * 2)
    tokenizer.enable_truncation(5)
    return str(tokenizer.to_str())


def ids_of(text: str) -> list[int]:
    """The ids of a whole text, [CLS] first and [SEP] last."""
    tokenizer = Tokenizer.from_str(tokenizer_json())
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return list(tokenizer.encode(text).ids)
