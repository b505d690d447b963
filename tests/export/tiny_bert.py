"""Writes text encoders of a few kilobytes, as sentence-transformers folders: random weights."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

from export.models.text_encoder import TextEncoder
from tests import tiny_plug

WIDTH = 32
SHAPE = {
    "model_type": "bert",
    "hidden_act": "gelu",
    "num_hidden_layers": 1,
    "hidden_size": WIDTH,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "vocab_size": 258,
    "max_position_embeddings": 128,
    "layer_norm_eps": 1e-12,
}


def write(folder: Path, seed: int = 0, **shape: object) -> Path:
    """Write an encoder; ``shape`` overrides fields of its config.json."""
    folder.mkdir(parents=True)
    config = {**SHAPE, **shape}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").write_text(tiny_plug.tokenizer_json())
    generator = torch.Generator().manual_seed(seed)
    width, inner = config["hidden_size"], config["intermediate_size"]
    sizes = {
        "embeddings.word_embeddings.weight": (config["vocab_size"], width),
        "embeddings.position_embeddings.weight": (config["max_position_embeddings"], width),
        "embeddings.token_type_embeddings.weight": (2, width),
        **norm("embeddings.LayerNorm", width),
    }
    for layer in (f"encoder.layer.{i}" for i in range(config["num_hidden_layers"])):
        for part in ("attention.self.query", "attention.self.key", "attention.self.value"):
            sizes |= linear(f"{layer}.{part}", width, width)
        sizes |= linear(f"{layer}.attention.output.dense", width, width)
        sizes |= norm(f"{layer}.attention.output.LayerNorm", width)
        sizes |= linear(f"{layer}.intermediate.dense", inner, width)
        sizes |= linear(f"{layer}.output.dense", width, inner)
        sizes |= norm(f"{layer}.output.LayerNorm", width)
    weights = {
        name: torch.randn(size, generator=generator) * (0.3 if "dense" in name else 1.0)
        for name, size in sizes.items()
    }
    save_file(weights, folder / "model.safetensors")
    assert TextEncoder.read(folder).width == width
    return folder


def norm(name: str, width: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def linear(name: str, wide: int, width: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (wide, width), f"{name}.bias": (wide,)}
