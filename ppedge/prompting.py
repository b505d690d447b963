"""What a model is given for a prompt: a person's turns and soft tokens, and what is asked."""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ppedge.blend import Blend
from ppedge.fitting import chat_form, keeps_soft, soft_of
from ppedge.llm.llm import LLM
from ppedge.llm.ngram_cache import NgramCacheBuilder
from ppedge.llm.segments import Segment, Soft
from ppedge.plug.conditioning import Conditioning, condition, condition_kept
from ppedge.plug.no_plug import NoPlug
from ppedge.plug.plug import Plug
from ppedge.store.persona import Persona
from ppedge.style.manner import DEFAULT_NGRAM_CACHE, SAMPLED_NOTES, Manner
from ppedge.turns.form import Turn
from ppedge.turns.prefixes import Notify, Prefix, Prefixes

_LEAST_ROOM: Final = 64
"""Positions that turns leave for an answer, or else they are left out."""

_ANSWER_ROOM: Final = 256
"""Positions that a conversation leaves for an answer; its oldest turns make way."""


@dataclass(frozen=True, slots=True)
class Said:
    """What a persona says to a prompt.

    Attributes:
        prefix: its turns, and kept soft tokens behind them; None for none.
        soft: what is said behind the prompt; None for nothing.
        condition: what the plug's part of it is made of, found once, when it is asked for.
    """

    prefix: Prefix | None
    soft: Soft | None
    condition: Callable[[], Conditioning]


class Prompting:
    """Puts prompts together for one model and a plug or none.

    Attributes:
        form: how conversations are written.
        prefixes: of the people who were asked for last.
    """

    def __init__(self, llm: LLM, plug: Plug | NoPlug, notify: Notify) -> None:
        """Find out how the model is talked to; ``notify`` as of `ppedge.Personalizer`."""
        self._llm, self._plug = llm, plug
        self.form = chat_form(llm, plug, notify)
        ngrams = plug.manifest.ngram_cache if plug.manifest else DEFAULT_NGRAM_CACHE
        self._ngrams = NgramCacheBuilder(llm, ngrams) if ngrams else None
        self.prefixes = Prefixes(llm, self.form, notify)

    def condition(
        self, prompt: str, persona: Persona, heaviest: int, *, ngrams: bool
    ) -> Conditioning:
        """See `ppedge.Personalizer.condition`."""
        builder = self._ngrams if ngrams else None
        if isinstance(self._plug, Plug):
            return condition(self._plug, builder, prompt, persona, heaviest)
        memory, seconds = None, {}
        if builder:
            began = time.perf_counter()
            memory = builder.build((note, 1.0) for note in persona.sample(SAMPLED_NOTES).notes)
            seconds["ngrams"] = time.perf_counter() - began
        nothing = np.zeros((0, self._llm.n_embd), np.float32)
        return Conditioning(nothing, None, [], seconds, memory)

    def say(
        self,
        prompt: str,
        persona: Persona,
        manner: Manner | None,
        blend: Blend,
        heaviest: int,
    ) -> Said:
        """What a persona says to a prompt.

        Args:
            prompt: what is asked.
            persona: whose notes.
            manner: of the same; None of somebody without notes.
            blend: which parts of the persona bear on the answer.
            heaviest: how many of the heaviest notes to name.

        Raises:
            ModelError, PlugError, StoreError: as `ppedge.Personalizer.stream`.
        """
        plug = self._plug
        if isinstance(plug, Plug) and keeps_soft(plug, blend):
            prefix = self._prefix(persona, manner, blend, prompt, kept=plug)
            if prefix:
                asks = [turn.ask for turn in prefix.turns]
                found = partial(condition_kept, plug, asks, persona, heaviest)
                return Said(prefix, None, cache(found))
        condition = cache(partial(self.condition, prompt, persona, heaviest, ngrams=blend.ngrams))
        soft = soft_of(self._llm, condition(), blend) if blend.soft else None
        return Said(self._prefix(persona, manner, blend, prompt, soft), soft, condition)

    def given(
        self, prefix: Prefix | None, said: Sequence[Turn], prompt: str, soft: Soft | None = None
    ) -> list[Segment]:
        """What the model is given: turns, what was said as far as it fits, and the prompt."""

        def given(start: int) -> list[Segment]:
            before = prefix.segments if prefix else []
            if said[start:]:
                turns, kept = (prefix.turns, prefix.kept) if prefix else ([], None)
                before = self.form.turns(turns, kept, said[start:])
            return [*before, *self.form.prompt(prompt, soft, after_turns=bool(before))]

        def fits(start: int) -> bool:
            return len(self._llm.tokens(given(start))) + _ANSWER_ROOM <= self._llm.n_ctx

        return given(bisect_left(range(len(said)), True, key=fits))

    def _prefix(
        self,
        persona: Persona,
        manner: Manner | None,
        blend: Blend,
        prompt: str,
        soft: Soft | None = None,
        kept: Plug | None = None,
    ) -> Prefix | None:
        """The persona's turns; None where there are none, or they would leave no room."""
        if manner is None or not blend.turns:
            return None
        made_by, make = ("", None) if kept is None else (kept.sha256, _maker(kept))
        prefix = self.prefixes.make(persona, manner.sample, blend.turns, made_by, make)
        needed = len(self._llm.tokens(self.given(prefix, (), prompt, soft)))
        return prefix if prefix.turns and needed + _LEAST_ROOM <= self._llm.n_ctx else None


def _maker(plug: Plug) -> Callable[[Persona, Sequence[Turn]], NDArray[np.float32]]:
    """What makes a plug's kept soft tokens."""

    def make(persona: Persona, turns: Sequence[Turn]) -> NDArray[np.float32]:
        return condition_kept(plug, [turn.ask for turn in turns], persona, 0).soft

    return make
