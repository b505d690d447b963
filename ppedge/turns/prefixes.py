"""The turns of a persona, read by the model once: held in its context, or kept on disk."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ppedge.errors import ModelError
from ppedge.llm.binding.ggml import Cancel
from ppedge.llm.llm import LLM
from ppedge.llm.segments import Segment, Soft
from ppedge.store.persona import Persona, Sample
from ppedge.turns.form import ChatForm, Turn
from ppedge.turns.prefix import Packed, make_turns, prefix_key

Notify = Callable[[str], None]
"""Takes a line that a person should read, on stderr or wherever an app has such."""

MakeSoft = Callable[[Persona, Sequence[Turn]], NDArray[np.float32]]
"""Makes kept soft tokens, float32 [n, n_embd], of a persona for its turns."""

_REMEMBERED: Final = 8
"""Prefixes that are made once; of one more, the oldest is made again."""


@dataclass(frozen=True, slots=True)
class Prefix:
    """Turns for one model, and where their state is kept.

    Attributes:
        turns: those that fit.
        kept: kept soft tokens behind them; None for none.
        segments: both, as the model reads them; empty without turns.
        key: of the state, beside the store.
        version: of the notes that they were made of.
    """

    turns: list[Turn]
    kept: Soft | None
    segments: list[Segment]
    key: str
    version: int


class Prefixes:
    """Makes, holds and keeps prefixes for one model.

    Args:
        llm: the model.
        form: how turns are written for it.
        notify: is told when notes are read for the first time.
    """

    def __init__(self, llm: LLM, form: ChatForm, notify: Notify) -> None:
        """Begin with none."""
        self._llm, self._form, self._notify = llm, form, notify
        if opening := form.opening():
            llm.set_opening(opening)
        # By the store's folder too: two people's notes may well be of the same version.
        self._made: OrderedDict[tuple[Path, str], Prefix] = OrderedDict()
        self._state: tuple[Prefix, bytes | memoryview] | None = None
        self._mutex = threading.Lock()

    def make(
        self,
        persona: Persona,
        sample: Sample,
        count: int,
        plug: str = "",
        make_soft: MakeSoft | None = None,
    ) -> Prefix:
        """The prefix of a persona's notes.

        Args:
            persona: where its state may be kept.
            sample: some of its notes.
            count: of turns.
            plug: hash of the plug that makes kept soft tokens; "" for none.
            make_soft: makes them, where they are not kept yet.

        Raises:
            ModelError: the model is closed.
            PlugError, StoreError: of ``make_soft``.
        """
        key = prefix_key(self._llm, self._form, sample.version, count, persona.scope_key, plug)
        place = persona.path, key
        with self._mutex:
            found = self._made.get(place)
        if found is None:
            kept = self._kept(persona, key)
            turns = kept.turns if kept else self._turns(sample, count)
            soft = kept.soft if kept else None
            if not kept and make_soft and turns:
                soft = Soft(make_soft(persona, turns))
            found = Prefix(turns, soft, self._form.turns(turns, soft), key, sample.version)
            with self._mutex:
                for old in [each for each in self._made if each[0] == persona.path]:
                    if self._made[old].version != sample.version:
                        del self._made[old]  # It may hold what was forgotten since.
                self._made[place] = found
                while len(self._made) > _REMEMBERED:
                    self._made.popitem(last=False)
                self._state = (found, kept.state) if kept else None
        return found

    @contextmanager
    def held(self, persona: Persona, prefix: Prefix, cancel: Cancel) -> Iterator[None]:
        """Do as `hold`, and keep other threads from decoding until the block ends.

        Another answer in between would have the prefix read twice.

        Raises:
            ModelError: as `hold`.
        """
        with self._llm.alone():
            self.hold(persona, prefix, cancel)
            yield

    def _turns(self, sample: Sample, count: int) -> list[Turn]:
        return make_turns(self._llm, self._form, sample.notes, count, sample.pinned)

    def hold(self, persona: Persona, prefix: Prefix, cancel: Cancel) -> None:
        """Have the model hold a prefix: from its context, from disk, or by reading it.

        Raises:
            ModelError: the model is closed, or llama.cpp failed.
        """
        llm, segments = self._llm, prefix.segments
        if not segments or llm.has_encoder or llm.holds(segments):
            return
        if self._restored(persona, prefix):
            return
        self._notify(f"reading {len(prefix.turns)} of the notes, as nothing of them is kept yet")
        state = llm.state(segments, cancel=cancel)
        if state is not None:
            packed = Packed(prefix.turns, prefix.kept, state).pack()
            persona.keep_prefix(prefix.key, prefix.version, packed)

    def _restored(self, persona: Persona, prefix: Prefix) -> bool:
        state = self._taken(prefix)
        if state is None:
            kept = self._kept(persona, prefix.key)
            if kept is None or not kept.says(prefix.turns, prefix.kept):
                return False
            state = kept.state
        return self._llm.restore(prefix.segments, state)

    def _taken(self, prefix: Prefix) -> bytes | memoryview | None:
        """The state that came with a prefix, once: it is large, and on disk too."""
        with self._mutex:
            if self._state is None or self._state[0] is not prefix:
                return None
            state, self._state = self._state[1], None
        return state

    @staticmethod
    def _kept(persona: Persona, key: str) -> Packed | None:
        data = persona.kept_prefix(key)
        if data is None:
            return None
        try:
            return Packed.unpack(data)
        except ModelError:
            return None
