"""The turns of a persona, read by the model once: held in its context, or kept on disk."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ppedge.errors import ModelError
from ppedge.llm.binding.ggml import Cancel
from ppedge.llm.llm import LLM
from ppedge.llm.segments import Segment
from ppedge.notes.reader import Note
from ppedge.store.persona import Persona
from ppedge.turns.form import ChatForm, Turn
from ppedge.turns.prefix import make_turns, pack, prefix_key, unpack

Notify = Callable[[str], None]
"""Takes a line that a person should read, on stderr or wherever an app has such."""


@dataclass(frozen=True, slots=True)
class Prefix:
    """Turns for one model, and where their state is kept.

    Attributes:
        turns: those that fit.
        segments: the same, as the model reads them; empty without turns.
        key: of the state, beside the store.
        version: of the notes that they were made of.
    """

    turns: list[Turn]
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
        self._made: dict[str, Prefix] = {}
        self._states: dict[str, bytes] = {}

    def make(self, persona: Persona, notes: Sequence[Note], version: int, count: int) -> Prefix:
        """The prefix of a persona's notes.

        Args:
            persona: where its state may be kept.
            notes: some of its notes, in order.
            version: of the notes that the persona holds.
            count: of turns.

        Raises:
            ModelError: the model is closed.
        """
        key = prefix_key(self._llm, self._form, version, count)
        place = f"{persona.path} {key}"
        found = self._made.get(place)
        if found is None:
            kept = self._kept(persona, key)
            turns = kept[0] if kept else make_turns(self._llm, self._form, notes, count)
            found = Prefix(turns, self._form.turns(turns), key, version)
            self._made = {place: found}
            self._states = {key: kept[1]} if kept else {}
        return found

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
        self._notify(f"reading {len(prefix.turns)} of the notes; kept for the next time")
        state = llm.state(segments, cancel=cancel)
        if state is not None:
            persona.keep_prefix(prefix.key, prefix.version, pack(prefix.turns, state))

    def _restored(self, persona: Persona, prefix: Prefix) -> bool:
        state = self._states.pop(prefix.key, None)  # Large, and on disk too.
        if state is None:
            kept = self._kept(persona, prefix.key)
            if kept is None or kept[0] != prefix.turns:
                return False
            state = kept[1]
        return self._llm.restore(prefix.segments, state)

    @staticmethod
    def _kept(persona: Persona, key: str) -> tuple[list[Turn], bytes] | None:
        data = persona.kept_prefix(key)
        if data is None:
            return None
        try:
            return unpack(data)
        except ModelError:
            return None
