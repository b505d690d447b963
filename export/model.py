"""Persona-Plug in torch (arXiv 2409.11901, section 3), with each departure a named setting.

Shapes: B examples, N notes, L bytes, K key width, V value width, E the LLM's embedding width.

    w_i = softmax(scale * q . k_i)      q, k_i at unit length; the paper has scale = 1
    P   = sum_i w_i Proj(h_i)           Proj = Linear - GELU - Linear
    LLM input = [prompt; I; P; answer]  the paper has [I; P; prompt; answer]

The weights sum to one, so the last Linear of Proj commutes with the sum: the value of a note is
GELU(W1 h + b1), and W2 . + b2 is applied once, to the pooled value.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class PlugConfig:
    """Everything that fixes the shape of a plug."""

    d_text: int = 384  # width of the frozen text encoder
    d_key: int = 384
    d_value: int = 512
    n_embd: int = 576  # the LLM's embedding width
    n_instruction: int = 2  # rows of the instruction embedding I
    n_persona: int = 6  # rows of the persona P (the paper has 1)
    d_style: int = 0  # channels of the byte-level style encoder, 0 for none
    initial_scale: float = 8.0  # of the attention scores; learned (the paper has a fixed 1)


class StyleChannel(nn.Module):
    """Bytes [B, L] -> [B, 2 d]: what a lower-casing tokenizer cannot see.

    Two convolutions over the raw UTF-8 bytes (capitals, punctuation, spacing, emoji), then the
    mean and the maximum over the text.
    """

    def __init__(self, d: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(256, d)
        self.near = nn.Conv1d(d, d, kernel_size=3, padding=1)
        self.far = nn.Conv1d(d, d, kernel_size=5, padding=2)

    def forward(self, text: Tensor, mask: Tensor | None = None) -> Tensor:
        """Encode; ``mask`` [B, L] is True at real bytes (None: no padding)."""
        keep = None if mask is None else mask[:, None, :].float()
        x = self.embed(text).transpose(1, 2)
        for conv in (self.near, self.far):
            # Padding must look like the zeros that a convolution sees past the end.
            x = x + F.gelu(conv(x if keep is None else x * keep))
        if keep is None:
            return torch.cat([x.mean(-1), x.amax(-1)], -1)
        mean = (x * keep).sum(-1) / keep.sum(-1)
        return torch.cat([mean, x.masked_fill(keep == 0, -torch.inf).amax(-1)], -1)


class PersonaPlug(nn.Module):
    """The trained part of a plug; text vectors come from a frozen encoder."""

    def __init__(self, config: PlugConfig, rows: Tensor) -> None:
        """``rows`` [n, E]: some embedding rows of the LLM, where its soft tokens start from."""
        super().__init__()
        self.config = config
        c = config
        self.key_head = nn.Linear(c.d_text, c.d_key, bias=False)
        self.query_head = nn.Linear(c.d_text, c.d_key, bias=False)
        self.value_head = nn.Linear(c.d_text, c.d_value)
        self.style = StyleChannel(c.d_style) if c.d_style else None
        self.style_head = nn.Linear(2 * c.d_style, c.d_value, bias=False) if c.d_style else None
        self.log_scale = nn.Parameter(torch.tensor(c.initial_scale).log())
        self.null_key = nn.Parameter(torch.randn(c.d_key) * c.d_key**-0.5)
        self.null_value = nn.Parameter(torch.zeros(c.d_value))
        n_soft = c.n_instruction + c.n_persona
        start = rows[torch.randperm(len(rows))[:n_soft]].clone()
        self.instruction = nn.Parameter(start[: c.n_instruction])
        self.project = nn.Linear(c.d_value, c.n_persona * c.n_embd)
        with torch.no_grad():
            nn.init.eye_(self.key_head.weight)
            nn.init.eye_(self.query_head.weight)
            nn.init.normal_(self.project.weight, std=0.02 * float(rows.std()))
            self.project.bias.copy_(start[c.n_instruction :].flatten())
            if self.style_head is not None:
                nn.init.normal_(self.style_head.weight, std=0.1 * (2 * c.d_style) ** -0.5)

    @property
    def scale(self) -> Tensor:
        """The learned scale of the attention scores (an inverse temperature)."""
        return self.log_scale.exp()

    def key(self, h: Tensor) -> Tensor:
        """Text vectors [..., d_text] -> keys [..., K], unit length."""
        return F.normalize(self.key_head(h), dim=-1)

    def query(self, h: Tensor) -> Tensor:
        """Text vectors [..., d_text] -> queries [..., K], unit length."""
        return F.normalize(self.query_head(h), dim=-1)

    def value(self, h: Tensor, text: Tensor, mask: Tensor | None = None) -> Tensor:
        """Text vectors [n, d_text] and their bytes [n, L] -> values [n, V]."""
        # Unit vectors have entries near d^-1/2; the Linear wants entries near 1.
        x = self.value_head(h * h.shape[-1] ** 0.5)
        if self.style is not None and self.style_head is not None:
            x = x + self.style_head(self.style(text, mask))
        return F.gelu(x)

    def pool(self, query: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> Tensor:
        """Attention-pool: [B, K], [B, N, K], [B, N, V], bool [B, N] -> [B, V].

        The null note joins as row 0 and is never masked, so an empty history is well defined.
        """
        batch = len(query)
        null_key = F.normalize(self.null_key, dim=0).expand(batch, 1, -1)
        keys = torch.cat([null_key, keys], 1)
        values = torch.cat([self.null_value.expand(batch, 1, -1), values], 1)
        mask = F.pad(mask, (1, 0), value=True)
        scores = self.scale * torch.einsum("bk,bnk->bn", query, keys)
        weights = scores.masked_fill(~mask, -torch.inf).softmax(-1)
        return torch.einsum("bn,bnv->bv", weights, values)

    def soft_tokens(self, pooled: Tensor) -> Tensor:
        """Pooled values [B, V] -> soft tokens [B, n_instruction + n_persona, E]."""
        persona = self.project(pooled).unflatten(-1, (self.config.n_persona, self.config.n_embd))
        return torch.cat([self.instruction.expand(len(pooled), -1, -1), persona], 1)
