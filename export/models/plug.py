"""Persona-Plug in torch: the paper's equations (arXiv 2409.11901, section 3), then departures.

Shapes: B examples, N notes, L bytes, K key width, V value width, E the LLM's embedding width.

The paper's form, which ``PlugConfig.paper`` selects:

    h_i = Enc_history(note_i)           frozen
    x   = Enc_input(prompt)             trained
    w_i = softmax_i(x . h_i)                                                          (3)
    P   = sum_i w_i Proj(h_i)           Proj(h) = W2 GELU(W1 h + b1) + b2             (4)
    LLM input = [I; P; prompt; answer]  I is trained, the LLM is frozen               (5)
    loss = -log p(answer | I, P, prompt), the mean over target tokens                 (6)

The weights sum to one, so the last Linear of Proj commutes with the sum: the value of a note is
GELU(W1 h + b1), and W2 . + b2 is applied once, to the pooled value.

Departures, each a field of ``PlugConfig``, all on by default but ``recency`` and ``d_control``:

    w_i = softmax_i(scale * q . k_i - softplus(b) * log1p(notes after note i))
    c_l = U_l D P + u_l, added to the output of every layer l but the first, from I on
    q = unit(W_q x),  k_i = unit(W_k h_i),  values of another text of the note than keys,
    a null note in the pool, more rows of I and P, I and P after the prompt.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from export.models.text_encoder import EncoderShape, TextEncoder

FIELDS = ("input", "output", "both")


@dataclass(frozen=True)
class PlugConfig:
    """Everything that fixes what a plug computes, but for its weights.

    Raises:
        ValueError: a field has no meaning, or two do not go together.
    """

    d_text: int = 384  # width of the text encoder
    d_key: int = 384
    d_value: int = 512
    n_embd: int = 576  # the LLM's embedding width
    n_instruction: int = 2  # rows of the instruction embedding I
    n_persona: int = 6  # rows of the persona P (the paper has 1); 0: the instruction alone
    d_style: int = 0  # channels of the byte-level style encoder, 0 for none
    d_control: int = 0  # numbers that a control vector is made of, 0 for none
    n_control: int = 0  # layers that it is added to: all of the LLM's but the first
    initial_scale: float = 8.0  # of the attention scores (the paper has 1)
    learn_scale: bool = True
    null_note: bool = True  # False: it stands in for an empty history only
    key_head: bool = True  # False: the text vectors themselves are keys and queries
    recency: bool = False  # a learned penalty on notes that others came after
    query_encoder: Literal["shared", "separate"] = "shared"  # separate: a trainable copy
    key_fields: tuple[str, ...] = ("input", "output")  # see ppedge.plug.template.note_text
    value_fields: tuple[str, ...] = ("output",)
    soft: Literal["after", "before"] = "after"  # place of I and P, seen from the prompt
    query_shape: EncoderShape | None = None  # of the separate query encoder

    def __post_init__(self) -> None:
        """Check the fields."""
        # A checkpoint holds plain lists and dicts.
        for name in ("key_fields", "value_fields"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
            unknown = [field for field in getattr(self, name) if field not in FIELDS]
            if unknown or not getattr(self, name):
                raise ValueError(f"{name} must be some of {', '.join(FIELDS)}, not {unknown}")
        if isinstance(self.query_shape, dict):
            object.__setattr__(self, "query_shape", EncoderShape(**self.query_shape))
        if self.n_instruction < 0 or self.n_persona < 0 or self.n_instruction + self.n_persona < 1:
            raise ValueError(
                f"{self.n_instruction} instruction and {self.n_persona} persona rows: "
                "neither may be negative, and there must be one at least"
            )
        if (self.d_control > 0) != (self.n_control > 0) or (self.d_control and not self.n_persona):
            raise ValueError(
                f"a control vector of {self.d_control} numbers for {self.n_control} layers and "
                f"{self.n_persona} persona rows: it wants some of each"
            )
        if not self.initial_scale > 0:
            raise ValueError(f"the attention scale must be above 0, not {self.initial_scale}")
        if not self.key_head and self.d_key != self.d_text:
            raise ValueError(f"raw text vectors are {self.d_text} wide, not d_key={self.d_key}")
        for name, known in (("soft", ("after", "before")), ("query_encoder", _ENCODERS)):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be {' or '.join(known)}, not {getattr(self, name)}")

    @classmethod
    def paper(cls, n_embd: int, d_text: int, **more: Any) -> PlugConfig:
        """The paper's form; ``more`` overrides single fields."""
        form: dict[str, Any] = {
            "d_text": d_text,
            "d_key": d_text,
            "d_value": n_embd,
            "n_embd": n_embd,
            "n_instruction": 1,
            "n_persona": 1,
            "initial_scale": 1.0,
            "learn_scale": False,
            "null_note": False,
            "key_head": False,
            "query_encoder": "separate",
            "key_fields": ("both",),
            "value_fields": ("both",),
            "soft": "before",
        }
        return cls(**{**form, **more})


_ENCODERS = ("shared", "separate")


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
    """The trained part of a plug; a note's text vectors come from a frozen encoder."""

    def __init__(
        self, config: PlugConfig, rows: Tensor, query_encoder: TextEncoder | None = None
    ) -> None:
        """Start an untrained plug.

        Args:
            config: its form.
            rows: float32 [n, E], some embedding rows of the LLM, where its soft tokens start from.
            query_encoder: where a separate query encoder starts from, trainable; None for one of
                ``config.query_shape`` full of zeros, to load weights into.
        """
        super().__init__()
        self.config = config
        c = config
        self.key_head = nn.Linear(c.d_text, c.d_key, bias=False) if c.key_head else None
        self.query_head = nn.Linear(c.d_text, c.d_key, bias=False) if c.key_head else None
        self.value_head = nn.Linear(c.d_text, c.d_value)
        self.style = StyleChannel(c.d_style) if c.d_style else None
        self.style_head = nn.Linear(2 * c.d_style, c.d_value, bias=False) if c.d_style else None
        scale = torch.tensor(c.initial_scale).log()
        self.log_scale = nn.Parameter(scale, requires_grad=c.learn_scale)
        self.recency_bias = nn.Parameter(torch.tensor(-2.0)) if c.recency else None
        self.null_key = nn.Parameter(torch.randn(c.d_key) * c.d_key**-0.5)
        self.null_value = nn.Parameter(torch.zeros(c.d_value))
        start = rows[torch.randperm(len(rows))[: c.n_instruction + c.n_persona]].clone()
        self.instruction = nn.Parameter(start[: c.n_instruction])
        with warnings.catch_warnings():  # Without a persona there is nothing to initialise.
            warnings.filterwarnings("ignore", "Initializing zero-element tensors")
            self.project = nn.Linear(c.d_value, c.n_persona * c.n_embd)
        if c.d_control:
            self.control_down = nn.Linear(c.d_value, c.d_control, bias=False)
            self.control_up = nn.Linear(c.d_control, c.n_control * c.n_embd)
        self.query_encoder = self._query_encoder(query_encoder)
        with torch.no_grad():
            if c.d_control:  # It begins as nothing, so that a trained plug may grow one.
                nn.init.zeros_(self.control_up.weight)
                nn.init.zeros_(self.control_up.bias)
            for head in (self.key_head, self.query_head):
                if head is not None:
                    nn.init.eye_(head.weight)
            nn.init.normal_(self.project.weight, std=0.02 * float(rows.std()))
            self.project.bias.copy_(start[c.n_instruction :].flatten())
            if self.style_head is not None:
                nn.init.normal_(self.style_head.weight, std=0.1 * (2 * c.d_style) ** -0.5)

    def _query_encoder(self, given: TextEncoder | None) -> TextEncoder | None:
        if self.config.query_encoder == "shared":
            return None
        if given is not None:
            return given
        if self.config.query_shape is None:
            raise ValueError("a separate query encoder needs query_shape in the config")
        return TextEncoder(self.config.query_shape, trainable=True)

    @property
    def scale(self) -> Tensor:
        """The scale of the attention scores (an inverse temperature)."""
        return self.log_scale.exp()

    @property
    def recency(self) -> Tensor:
        """What a note's score loses for each unit of log1p(notes after it), at least 0."""
        return torch.zeros(()) if self.recency_bias is None else F.softplus(self.recency_bias)

    def key(self, h: Tensor) -> Tensor:
        """Text vectors [..., d_text], unit length -> keys [..., K], unit length."""
        return h if self.key_head is None else F.normalize(self.key_head(h), dim=-1)

    def query(self, h: Tensor) -> Tensor:
        """Text vectors [..., d_text], unit length -> queries [..., K], unit length."""
        return h if self.query_head is None else F.normalize(self.query_head(h), dim=-1)

    def encode_query(self, ids: Tensor, mask: Tensor | None = None) -> Tensor:
        """A prompt's token ids [B, L] and mask -> queries [B, K], by the separate encoder."""
        if self.query_encoder is None:
            raise ValueError("this plug shares the notes' encoder: use query() on its vectors")
        return self.query(self.query_encoder(ids, mask))

    def value(self, h: Tensor, text: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """Text vectors [n, d_text] and, for a style channel, bytes [n, L] -> values [n, V]."""
        # Unit vectors have entries near d^-1/2; the Linear wants entries near 1.
        x = self.value_head(h * h.shape[-1] ** 0.5)
        if self.style is not None and self.style_head is not None:
            x = x + self.style_head(self.style(text, mask))
        return F.gelu(x)

    def pool(self, query: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> Tensor:
        """Attention-pool: [B, K], [B, N, K], [B, N, V], bool [B, N] -> [B, V].

        The notes of a history come oldest first. The null note joins as row 0; it always answers
        for an empty history, which is so well defined.
        """
        batch = len(query)
        null_key = F.normalize(self.null_key, dim=0).expand(batch, 1, -1)
        scores = self.scale * torch.einsum("bk,bnk->bn", query, torch.cat([null_key, keys], 1))
        values = torch.cat([self.null_value.expand(batch, 1, -1), values], 1)
        if self.recency_bias is not None:
            after = mask.sum(1, keepdim=True) - mask.cumsum(1)
            scores = scores - F.pad(self.recency * torch.log1p(after.clamp_min(0)), (1, 0))
        competes = mask.new_ones(batch) if self.config.null_note else ~mask.any(1)
        mask = torch.cat([competes[:, None], mask], 1)
        weights = scores.masked_fill(~mask, -torch.inf).softmax(-1)
        return torch.einsum("bn,bnv->bv", weights, values)

    def soft_tokens(self, pooled: Tensor) -> Tensor:
        """Pooled values [B, V] -> soft tokens [B, n_instruction + n_persona, E]."""
        instruction = self.instruction.expand(len(pooled), -1, -1)
        if not self.config.n_persona:
            return instruction
        persona = self.project(pooled).unflatten(-1, (self.config.n_persona, self.config.n_embd))
        return torch.cat([instruction, persona], 1)

    def control(self, pooled: Tensor) -> Tensor | None:
        """Pooled values [B, V] -> control vectors [B, n_control, E]; None if the plug has none."""
        if not self.config.d_control:
            return None
        whole: Tensor = self.control_up(self.control_down(pooled))
        return whole.unflatten(-1, (self.config.n_control, self.config.n_embd))
