"""The methods that train something for each user, torch and all; imported only if asked for."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import torch

from export.baselines.lora import UserLora
from export.baselines.soft_tuning import fit_soft
from export.data.lamp import Question
from export.models.base_llm import FrozenLLM
from ppedge.closable import Closable
from ppedge.llm.segments import Soft
from ppedge.notes.reader import Note
from ppedge.plug.template import Part


class TunedUser(Closable):
    """What is trained for one user, kept while that user's questions come one after another.

    The model is loaded into torch (bfloat16) when the first user needs it.

    Args:
        path: the GGUF.
        template: the plug's.
        n_soft: as many soft tokens as a persona of the plug has.
        instruction: what "instruction+usertuned" starts from; it then has as many soft tokens,
            and keeps the control vector, if any, as it is.
        seed: of starts and of the order of notes.
        n_threads: CPU threads; None leaves torch's own choice.
    """

    def __init__(
        self,
        path: Path,
        template: Sequence[Part],
        n_soft: int,
        instruction: Soft | None,
        *,
        seed: int,
        n_threads: int | None,
    ) -> None:
        self._path, self._template = path, template
        self._n_soft, self._instruction = n_soft, instruction
        self._seed, self._n_threads = seed, n_threads
        self._soft: dict[str, Soft] = {}
        self._soft_whose: tuple[Note, ...] | None = None
        self._lora_whose: tuple[Note, ...] | None = None

    @cached_property
    def _llm(self) -> FrozenLLM:
        if self._n_threads:
            torch.set_num_threads(self._n_threads)
        return FrozenLLM(self._path, self._template, torch.bfloat16)

    @cached_property
    def _lora(self) -> UserLora:
        return UserLora(self._llm, seed=self._seed)

    def soft(self, method: str, question: Question) -> Soft:
        """The user's soft tokens.

        Args:
            method: "usertuned" or "instruction+usertuned".
            question: of that user; only its history, and how its task asks, count.

        Raises:
            ValueError: a task whose notes cannot be asked for.
        """
        if question.history != self._soft_whose:
            self._soft_whose, self._soft = question.history, {}
        if method not in self._soft:
            self.close()  # Soft tokens are tuned for the model as it is, without adapters.
            start = self._instruction if method == "instruction+usertuned" else None
            n_soft = self._n_soft if start is None else len(start.vectors)
            tuned = fit_soft(self._llm, question, n_soft, start=start, seed=self._seed)
            self._soft[method] = Soft(tuned.soft, start.control if start else None)
        return self._soft[method]

    def lora(self, question: Question) -> UserLora:
        """The model with adapters of the question's user, until `soft` or `lora` trains anew.

        Raises:
            ValueError: a task whose notes cannot be asked for.
        """
        if question.history != self._lora_whose:
            self._lora.fit(question)
            self._lora_whose = question.history
        return self._lora

    def close(self) -> None:
        """Take adapters out of the model; safe to call twice."""
        if self._lora_whose is not None:
            self._lora.close()
            self._lora_whose = None
