"""The frozen LLM in torch: any causal model that transformers reads, best the GGUF it will run as.

Everything before the soft tokens (the *head*) is run without gradients, and its keys and values
are kept: only soft tokens, what follows them and the answer are trained through.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    DynamicCache,
    GgufConfig,
    PreTrainedTokenizerBase,
)

from export.models.batching import alike, left_padded
from export.models.hooks import selecting, steering
from export.models.tokenizer import GgufWords, TransformersWords, Words, gguf_words
from ppedge.plug.template import Part, render

LEAST_ROWS = {"cpu": 4, "cuda": 96}
"""Rows that are run together, at least: a GPU takes as long for few as for these."""

# By which llama.cpp knows them (LLM_TYPE_27B of llama-model.cpp).
_LAYERS_OF_27B = {"gemma2": 46, "gemma3_text": 62}


@dataclass
class Head:
    """A batch of prompts already run, all but the last token before the soft ones."""

    states: list[tuple[Tensor, Tensor]]  # each layer's keys and values; none if nothing was run
    mask: Tensor  # bool [B, L], left-padded (prefix and prompt each)
    last: Tensor  # int64 [B, 1], the token that comes next; [B, 0] if soft tokens come first

    def rows(self, chosen: list[int]) -> Head:
        """Some of the prompts, without the padding that none of them needs."""
        mask = self.mask[chosen]
        # Behind a prefix of turns, padding is in the middle too.
        kept = mask.any(0)
        states = [(keys[chosen][:, :, kept], values[chosen][:, :, kept])
                  for keys, values in self.states]  # fmt: skip
        return Head(states, mask[:, kept], self.last[chosen])


class FrozenLLM:
    """A causal LM that never gets gradients; it scores answers after soft tokens.

    Attributes:
        model: the transformers model.
        tokenizer: its transformers tokenizer; ``tokens`` is what training and run time agree on.
        template: where prompt and soft tokens stand.
        n_layer: layers of the model.
        table: [n_vocab, E] embedding rows as the file has them, which is the scale of soft tokens.
        row_scale: what the model multiplies rows by on the way in; soft tokens too.
        end: id of the token that closes an answer.
        device: where the model is.
    """

    def __init__(
        self,
        llm: Path | str,
        template: Sequence[Part],
        dtype: torch.dtype,
        device: torch.device | str = "cpu",
    ) -> None:
        """Load a model.

        Args:
            llm: a GGUF file, a folder in Hugging Face form, or a name on its hub.
            template: of the prompt, with one soft slot.
            dtype: of the weights in memory.
            device: where to compute.

        Raises:
            ValueError: there is no such model, or it is not a causal one with attention.
        """
        self.device = torch.device(device)
        # The run time's reader comes first: it checks a file for damage, and says what it found.
        self.words: Words | None = gguf_words(llm)
        self.tokenizer, self.model = _load(llm, dtype)
        self.model.requires_grad_(False).eval().to(self.device)
        self.words = self.words or TransformersWords(self.tokenizer, str(llm))
        # The same turns and prompts come again and again.
        self._tokens = lru_cache(1 << 17)(self.words.tokens)
        self.template = tuple(template)
        self.end = self.words.end
        self.n_layer: int = self.model.config.get_text_config().num_hidden_layers
        lists = (each for each in self.model.modules() if isinstance(each, torch.nn.ModuleList))
        self._layers = next((list(each) for each in lists if len(each) == self.n_layer), [])
        self.embed = self.model.get_input_embeddings()
        weight = self.embed.weight
        self.table = weight
        # Gemma multiplies its rows on the way in, and the run time does so with soft tokens too.
        some = torch.arange(8, device=self.device)
        scaled = not torch.equal(self.embed(some), weight[:8])
        self.row_scale = weight.shape[1] ** 0.5 if scaled else 1.0

    def tokens(self, text: str, *, special: bool) -> list[int]:
        """Tokenize one segment; ``special``: control tokens in it are recognised."""
        return self._tokens(text, special)

    def ensure_steerable(self, n_control: int) -> None:
        """Refuse a model that cannot be steered by control vectors, here or at run time.

        Raises:
            ValueError: its layers were not found.
            ModelError: llama.cpp does not steer a GGUF of this architecture.
        """
        if len(self._layers) != n_control + 1:
            raise ValueError(
                f"--control: found {len(self._layers)} layers to steer in this model, and there "
                f"should be {n_control + 1}; leave it out"
            )
        if isinstance(self.words, GgufWords):
            self.words.ensure_steerable(n_control)

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
        before, after = sides
        if before[: len(self.words.start)] != self.words.start:
            before = [*self.words.start, *before]
        return before, after

    @torch.no_grad()
    def run_prefixes(self, rows: Sequence[Sequence[int]]) -> list[Head]:
        """Run what stands before prompts, all of each, into a head of one row; some may be empty.

        They are run side by side where that costs less than one by one.
        """
        none = torch.zeros(1, 0, dtype=torch.long, device=self.device)
        found = [Head([], none.bool(), none) for _ in rows]
        filled = [i for i, row in enumerate(rows) if row]
        together = len(filled) if self.device.type == "cuda" else 1
        for start in range(0, len(filled), max(together, 1)):
            chosen = filled[start : start + together]
            ids, mask = left_padded([rows[i] for i in chosen], self.end)
            cache = DynamicCache()
            self.model.base_model(
                input_ids=ids.to(self.device),
                attention_mask=mask.long().to(self.device),
                position_ids=(mask.cumsum(1) - 1).clamp_min(0).to(self.device),
                past_key_values=cache,
                use_cache=True,
            )
            for place, i in enumerate(chosen):
                # Copies: a view would keep the states of all.
                states = [
                    tuple(part[place : place + 1, :, -len(rows[i]) :].clone() for part in pair)
                    for pair in ((layer.keys, layer.values) for layer in cache.layers)
                ]
                whole = torch.ones(1, len(rows[i]), dtype=torch.bool, device=self.device)
                found[i] = Head([(keys, values) for keys, values in states], whole, none)
        return found

    @torch.no_grad()
    def run_heads(self, heads: Sequence[Sequence[int]], prefix: Head | None = None) -> Head:
        """Run the tokens before the soft ones, left-padded so that all end together.

        The last token of each is kept back: with no soft tokens at all, it is the one that
        predicts the answer, and it must be run together with the answer.

        Args:
            heads: token ids of each prompt.
            prefix: what has been run before each of them, left as it was; None for nothing.
        """
        if not any(heads):
            nothing = torch.zeros(len(heads), 0, dtype=torch.long, device=self.device)
            return Head([], nothing.bool(), nothing)
        if not all(heads):
            raise ValueError("an empty prompt leaves nothing before its soft tokens")
        width = max(map(len, heads)) - 1
        ids, mask = left_padded([head[:-1] for head in heads], self.end)
        last = torch.tensor([[head[-1]] for head in heads], device=self.device)
        ids, mask = ids.to(self.device), mask.to(self.device)
        if prefix is not None:
            mask = torch.cat([prefix.mask, mask], 1)
        if width == 0:
            return Head([] if prefix is None else prefix.states, mask, last)
        cache = DynamicCache()
        for layer, (keys, values) in enumerate([] if prefix is None else prefix.states):
            cache.update(keys, values, layer)
        self.model.base_model(
            input_ids=ids,
            attention_mask=mask.long(),
            position_ids=(mask.cumsum(1) - 1).clamp_min(0)[:, -width:],
            past_key_values=cache,
            use_cache=True,
        )
        return Head([(layer.keys, layer.values) for layer in cache.layers], mask, last)

    def nll(
        self,
        head: Head,
        soft: Tensor | None,
        tails: Sequence[Sequence[int]],
        answers: Sequence[Sequence[int]],
        control: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Negative log-likelihood of answers after a head, soft tokens and a tail.

        Args:
            head: from ``run_heads``; left as it was.
            soft: float32 [B, n_soft, E], or None for no soft tokens.
            tails: ids between the soft tokens and the answer, often none.
            answers: ids to be predicted, the end token last.
            control: float32 [B, n_layer - 1, E], added to the output of each layer but the first,
                from the first soft token on; None for no such.

        Returns:
            Summed nats [B] and token counts [B], both float32. Nothing but the answers' tokens
            is counted.
        """
        lengths = [len(tail) + len(a) for tail, a in zip(tails, answers, strict=True)]
        groups = alike(lengths, LEAST_ROWS[self.device.type])
        parts = [
            self._nll(
                head.rows(group),
                None if soft is None else soft[group],
                [tails[i] for i in group],
                [answers[i] for i in group],
                None if control is None else control[group],
            )
            for group in groups
        ]
        order = torch.tensor([i for group in groups for i in group]).argsort()
        nats, counts = (torch.cat(column)[order] for column in zip(*parts, strict=True))
        return nats, counts

    def _nll(
        self,
        head: Head,
        soft: Tensor | None,
        tails: Sequence[Sequence[int]],
        answers: Sequence[Sequence[int]],
        control: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """``nll`` of answers that are run together, padded to the longest."""
        logits, tokens, scored = self.answer_logits(head, soft, tails, answers, control)
        losses = F.cross_entropy(logits, tokens, reduction="none")
        total = torch.zeros(scored.shape, device=self.device).masked_scatter(scored, losses).sum(1)
        return total, scored.sum(1).float()

    def answer_logits(
        self,
        head: Head,
        soft: Tensor | None,
        tails: Sequence[Sequence[int]],
        answers: Sequence[Sequence[int]],
        control: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Logits that predict answers after a head, soft tokens and a tail, all run together.

        Args:
            head, soft, tails, answers, control: as of ``nll``.

        Returns:
            Logits float32 [n, n_vocab] of each of the answers' tokens, answer by answer, those
            tokens int64 [n], and where they are in tails and answers, bool [B, L].
        """
        rows = [[*tail, *answer] for tail, answer in zip(tails, answers, strict=True)]
        ids = torch.full((len(rows), max(map(len, rows))), self.end)
        real = torch.zeros(ids.shape, dtype=torch.bool)
        scored = torch.zeros(ids.shape, dtype=torch.bool)
        for i, row in enumerate(rows):
            ids[i, : len(row)] = torch.tensor(row)
            real[i, : len(row)] = True
            scored[i, len(tails[i]) : len(row)] = True
        ids, real, scored = (each.to(self.device) for each in (ids, real, scored))
        pieces = [self.embed(head.last), self.embed(ids)]
        if soft is not None:
            pieces.insert(1, soft.to(self.table.dtype) * self.row_scale)
        lead = sum(piece.shape[1] for piece in pieces[:-1])
        if lead == 0 and not all(tails):
            raise ValueError("there is nothing before the answer to predict it from")
        # The state before a token predicts it.
        predicting = F.pad(scored, (lead, 0))[:, 1:]
        embedded = torch.cat(pieces, 1)
        with steering(self._layers[1:], control, head.last.shape[1]):
            logits = self._continue(
                head, embedded, F.pad(real, (lead, 0), value=True), F.pad(predicting, (0, 1))
            )
        return logits.float(), ids[scored], scored

    def _continue(self, head: Head, embedded: Tensor, real: Tensor, wanted: Tensor) -> Tensor:
        """Logits [n, n_vocab] at the ``wanted`` places of ``embedded`` [B, L, E] after ``head``."""
        # A cache grows as it is used, and what it grows by has gradients: each run gets its own.
        # It keeps all positions, also of layers that look at a window: their mask sees to that.
        cache = DynamicCache()
        for layer, (keys, values) in enumerate(head.states):
            cache.update(keys, values, layer)
        mask = torch.cat([head.mask, real], 1)
        width = head.mask.shape[1]
        positions = (mask.cumsum(1) - 1).clamp_min(0)[:, width:]
        # The whole model is called, as some scale or cap their logits; but its output matrix is
        # large, and is applied where it is asked for only.
        with selecting(self.model.get_output_embeddings(), wanted):
            logits: Tensor = self.model(
                inputs_embeds=embedded,
                attention_mask=mask.long(),
                position_ids=positions,
                past_key_values=cache,
                use_cache=True,
            ).logits[0]
        return logits

    def digest(self) -> str:
        """SHA-256 (hex) over some of every weight: tells models apart, whatever their paths."""
        found = hashlib.sha256()
        for name, weight in self.model.named_parameters():
            found.update(f"{name} {tuple(weight.shape)}".encode())
            found.update(weight.detach().flatten()[:64].float().cpu().numpy().tobytes())
        return found.hexdigest()


def _load(llm: Path | str, dtype: torch.dtype) -> tuple[PreTrainedTokenizerBase, Any]:
    """Tokenizer and model of a GGUF file, a folder or a hub name."""
    try:
        if str(llm).endswith(".gguf"):
            folder, name = os.path.split(llm)
            folder = folder or "."
            tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=name)
            # Dense weights: matrices left in GGUF blocks have no gradient for their input.
            model = AutoModelForCausalLM.from_pretrained(
                folder,
                gguf_file=name,
                dtype=dtype,
                quantization_config=GgufConfig(dequantize=True),
            )
            _scale_queries(model)
            return tokenizer, model
        if AutoConfig.from_pretrained(str(llm)).is_encoder_decoder:
            raise ValueError("an encoder-decoder model; training wants a causal one")
        return (
            AutoTokenizer.from_pretrained(str(llm)),
            AutoModelForCausalLM.from_pretrained(str(llm), dtype=dtype),
        )
    except (OSError, ValueError) as error:
        reason = str(error).strip().split("\n")[0]
        raise ValueError(f"{llm}: not a model that transformers reads: {reason}") from None


def _scale_queries(model: Any) -> None:
    """Scale Gemma's queries as llama.cpp does.

    What they are divided by (``query_pre_attn_scalar``) is in no GGUF file: transformers takes its
    default, 256, and llama.cpp the width of a head or, for the largest of each kind, that of the
    state divided among the heads. They differ wherever a head is not 256 wide, as in the 27B's.
    """
    config = model.config.get_text_config()
    if not hasattr(config, "query_pre_attn_scalar"):
        return
    largest = config.num_hidden_layers == _LAYERS_OF_27B.get(config.model_type)
    width = config.hidden_size // config.num_attention_heads if largest else config.head_dim
    config.query_pre_attn_scalar = width
    for module in model.modules():
        if hasattr(module, "scaling"):
            module.scaling = width**-0.5
