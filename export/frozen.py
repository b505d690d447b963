"""The frozen LLM in torch, dequantised from the very GGUF that the plug will run on.

Soft tokens come after the prompt by default, so everything before them (the *head*) is run
without gradients and its keys and values are kept: only soft tokens and answer are trained through.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache, GgufConfig

from ppedge.prompt import Part, render


@dataclass
class Head:
    """A batch of prompts already run, all but the last token before the soft ones."""

    states: list[tuple[Tensor, Tensor]]  # each layer's keys and values
    mask: Tensor  # bool [B, L], left-padded
    last: Tensor  # int64 [B, 1], the token that comes next


class FrozenLLM:
    """A causal LM that never gets gradients; it scores answers after soft tokens."""

    def __init__(self, gguf: Path, template: Sequence[Part], dtype: torch.dtype) -> None:
        folder, name = os.path.split(gguf)
        self.tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=name)
        # Dense weights: matrices left in GGUF blocks have no gradient with respect to their input.
        self.model = AutoModelForCausalLM.from_pretrained(
            folder, gguf_file=name, dtype=dtype, quantization_config=GgufConfig(dequantize=True)
        )
        self.model.requires_grad_(False).eval()
        self.template = tuple(template)
        self.table = self.model.get_input_embeddings().weight
        self.end: int = self.tokenizer.eos_token_id

    def tokens(self, text: str, *, special: bool) -> list[int]:
        """Tokenize one segment; ``special``: control tokens in it are recognised."""
        encoded = self.tokenizer(text, add_special_tokens=False, split_special_tokens=not special)
        return list(encoded["input_ids"])

    def around_soft(
        self, prompt: str, max_prompt: int | None = None
    ) -> tuple[list[int], list[int]]:
        """Token ids before and after the soft slot; the prompt is cut at ``max_prompt`` tokens."""
        slot = next(i for i, part in enumerate(self.template) if part.slot == "soft")
        sides: list[list[int]] = []
        for parts in (self.template[:slot], self.template[slot + 1 :]):
            sides.append([])
            for segment in render(parts, prompt, None):
                ids = self.tokens(segment.text, special=segment.special)
                sides[-1] += ids if segment.special else ids[:max_prompt]
        return sides[0], sides[1]

    @torch.no_grad()
    def run_heads(self, heads: Sequence[Sequence[int]]) -> Head:
        """Run the tokens before the soft ones, left-padded so that all end together.

        The last token of each is kept back: with no soft tokens at all, it is the one that
        predicts the answer, and it must be run together with the answer.
        """
        width = max(map(len, heads)) - 1
        ids = torch.full((len(heads), width), self.end)
        mask = torch.zeros(len(heads), width, dtype=torch.bool)
        for row, head in enumerate(heads):
            ids[row, width + 1 - len(head) :] = torch.tensor(head[:-1])
            mask[row, width + 1 - len(head) :] = True
        cache = DynamicCache(config=self.model.config)
        self.model.model(
            input_ids=ids,
            attention_mask=mask.long(),
            position_ids=(mask.cumsum(1) - 1).clamp_min(0),
            past_key_values=cache,
            use_cache=True,
        )
        states = [(layer.keys, layer.values) for layer in cache.layers]
        return Head(states, mask, torch.tensor([[head[-1]] for head in heads]))

    def nll(
        self,
        head: Head,
        soft: Tensor | None,
        tails: Sequence[Sequence[int]],
        answers: Sequence[Sequence[int]],
    ) -> tuple[Tensor, Tensor]:
        """Negative log-likelihood of answers after a head, soft tokens and a tail.

        Args:
            head: from ``run_heads``; left as it was.
            soft: float32 [B, n_soft, E], or None for no soft tokens.
            tails: ids between the soft tokens and the answer, often none.
            answers: ids to be predicted, the end token last.

        Returns:
            Summed nats [B] and token counts [B], both float32.
        """
        rows = [[*tail, *answer] for tail, answer in zip(tails, answers, strict=True)]
        ids = torch.full((len(rows), max(map(len, rows))), self.end)
        real = torch.zeros(ids.shape, dtype=torch.bool)
        scored = torch.zeros(ids.shape, dtype=torch.bool)
        for i, row in enumerate(rows):
            ids[i, : len(row)] = torch.tensor(row)
            real[i, : len(row)] = True
            scored[i, len(tails[i]) : len(row)] = True
        pieces = [F.embedding(head.last, self.table), F.embedding(ids, self.table)]
        if soft is not None:
            pieces.insert(1, soft.to(self.table.dtype))
        lead = sum(piece.shape[1] for piece in pieces[:-1])
        states = self._continue(head, torch.cat(pieces, 1), F.pad(real, (lead, 0), value=True))
        logits = self.model.lm_head(states[:, lead - 1 : -1][scored]).float()
        losses = F.cross_entropy(logits, ids[scored], reduction="none")
        total = torch.zeros(scored.shape).masked_scatter(scored, losses).sum(1)
        return total, scored.sum(1).float()

    def _continue(self, head: Head, embedded: Tensor, real: Tensor) -> Tensor:
        """Hidden states [B, L, E] of ``embedded`` run after ``head``."""
        # A cache grows as it is used, and what it grows by has gradients: each run gets its own.
        cache = DynamicCache(config=self.model.config)
        for layer, (keys, values) in enumerate(head.states):
            cache.update(keys, values, layer)
        mask = torch.cat([head.mask, real], 1)
        width = head.mask.shape[1]
        positions = (mask.cumsum(1) - 1).clamp_min(0)[:, width:]
        return self.model.model(
            inputs_embeds=embedded,
            attention_mask=mask.long(),
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state
