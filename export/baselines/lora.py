"""Per-user LoRA in torch: the paper's fine-tuned rival, on the same pairs as ``tuning.py``.

    with UserLora(llm).fit(question) as tuned:
        nats, tokens = tuned.nll(prompt, answer)
        text = tuned.generate(prompt, max_tokens=64)

The base is the GGUF's weights, dequantised; adapters of rank 8 on the query and value projections
are float32 (Hu et al., arXiv 2106.09685, as the ``peft`` package builds them). Prompts go through
the plug's template with its soft slot left out. When the ``with`` ends the adapters are unloaded,
and the base is bit for bit what it was.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor

from export.baselines.soft_tuning import (
    Pair,
    batches_of,
    descend,
    ensure_tunable,
    history_pairs,
    split,
)
from export.data.lamp import Question
from export.models.base_llm import FrozenLLM, Head
from ppedge.closable import Closable

STEPS = 30  # at most; each goes through whole prompts, so it costs more than a soft one
RATE = 1e-3  # tried on two train users of task 6; on one of them 3e-3 overfitted sooner
RANK, ALPHA = 8, 16
TARGETS = ("q_proj", "v_proj")


class UserLora(Closable):
    """Adapters for one user at a time, inside the frozen model.

    Attributes:
        step: after how many steps the adapters were left, as the held-out notes chose.
        curve: (steps, nats per held-out token) of each look; empty if nothing was held out.
    """

    def __init__(
        self, llm: FrozenLLM, *, steps: int = STEPS, lr: float = RATE, seed: int = 0
    ) -> None:
        self.llm, self.steps, self.lr, self.seed = llm, steps, lr, seed
        self.step = 0
        self.curve: tuple[tuple[int, float], ...] = ()
        self._adapted: PeftModel | None = None

    def fit(self, question: Question) -> Self:
        """Tune fresh adapters on the history of ``question``'s user; the question is not read.

        Adapters start at zero effect, so a history that asks nothing leaves the base model.

        Raises:
            ValueError: the question is of task 1.
        """
        ensure_tunable(question.task)
        self.close()
        tuned_on, held_out = split(history_pairs(self.llm, question))
        torch.manual_seed(self.seed)
        config = LoraConfig(r=RANK, lora_alpha=ALPHA, lora_dropout=0.0, target_modules=[*TARGETS])
        self._adapted = get_peft_model(self.llm.model, config)
        try:
            self.step, self.curve = descend(
                [p for p in self._adapted.parameters() if p.requires_grad],
                batches_of(tuned_on),
                batches_of(held_out),
                self._pairs_nll,
                steps=self.steps,
                rate=self.lr,
                seed=self.seed,
            )
        except BaseException:
            self.close()
            raise
        return self

    def close(self) -> None:
        """Take the adapters out again; safe to call twice."""
        if self._adapted is not None:
            self._adapted.unload()
            self._adapted = None

    def nll(self, prompt: str, answer: str) -> tuple[float, int]:
        """Nats and tokens of ``answer`` with the end token, asked for by ``prompt`` (not cut)."""
        [scored] = self.nlls(prompt, [answer])
        return scored

    @torch.inference_mode()
    def nlls(self, prompt: str, answers: Sequence[str]) -> list[tuple[float, int]]:
        """``nll`` of each of several answers; the prompt is run once."""
        before, after = self.llm.around_soft(prompt)
        head = self.llm.run_heads([before])
        n = len(answers)
        spread = Head(
            [
                (keys.expand(n, -1, -1, -1), values.expand(n, -1, -1, -1))
                for keys, values in head.states
            ],
            head.mask.expand(n, -1),
            head.last.expand(n, -1),
        )
        ids = [[*self.llm.tokens(answer, special=False), self.llm.end] for answer in answers]
        nats, counts = self.llm.nll(spread, None, [after] * n, ids)
        return [(float(a), int(b)) for a, b in zip(nats, counts, strict=True)]

    @torch.inference_mode()
    def generate(self, prompt: str, max_tokens: int) -> str:
        """The most likely token at each place, up to the end token or ``max_tokens``."""
        before, after = self.llm.around_soft(prompt)
        ids = torch.tensor([[*before, *after]], device=self.llm.device)
        written = self.llm.model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=max_tokens,
            eos_token_id=self.llm.end,
            pad_token_id=self.llm.end,
        )
        text: str = self.llm.tokenizer.decode(written[0, ids.shape[1] :], skip_special_tokens=True)
        return text

    def _pairs_nll(self, pairs: Sequence[Pair]) -> tuple[Tensor, Tensor]:
        """Summed nats and token counts [B], with gradients through prompt and answer."""
        # Nothing is run ahead: the adapters change what the prompt becomes, too.
        nothing = self.llm.run_heads([[] for _ in pairs])
        prompts = [[*pair.before, *pair.after] for pair in pairs]
        return self.llm.nll(nothing, None, prompts, [pair.answer for pair in pairs])
