"""One person's manner for one model: turns, shapes, rules and wording, made of some of their notes.

Made anew when the notes change; until then it is in memory, and what was counted is kept beside the
store, as counting takes longer than reading a prompt.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from ppedge.errors import PpedgeError
from ppedge.llm.llm import LLM
from ppedge.llm.ngram_cache import Gate, NgramCacheConfig
from ppedge.store.persona import Persona, Sample
from ppedge.style.address import Greetings
from ppedge.style.ending import Ending
from ppedge.style.model import ShapeCounts, StyleModel
from ppedge.style.rules import NoCopying, NoFiller, NoLoops
from ppedge.style.ruling import Pieces, Rules
from ppedge.style.shapes import Shapes

SAMPLED_NOTES: Final = 256
"""Notes that a manner is made of, spread over the history; more would say the same."""

MAX_NOTE_CHARS: Final = 2000
"""Of a note that are looked at."""

_KEPT: Final = 4
"""Manners in memory."""

_FORMAT: Final = 1  # raised with what is looked for in notes, or how it is told

# Whatever else somebody wrote into the file may raise.
_NO_MANNER: Final = (
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    ArithmeticError,
    RecursionError,
)

_EVERYBODY: Final = Path(__file__).with_name("everybody.json")

# For models without a plug; those that were fitted for the default plug, with its caution.
DEFAULT_NGRAM_CACHE: Final = NgramCacheConfig(
    max_notes=256,
    gates=(
        Gate(-7.2, 1.85, -2.07, 1.3),
        Gate(-7.0, 2.63, -2.79, 1.63),
        Gate(-4.36, -0.14, -0.67, 0.47),
        Gate(-5.33, 3.05, -3.67, 0.5),
    ),
)


class Voices:
    """What all manners of one model share: the shapes of its tokens, and everybody's counts.

    Args:
        llm: the model.
    """

    def __init__(self, llm: LLM) -> None:
        """Count nothing yet."""
        self.llm = llm
        self.shapes = Shapes(llm)
        self.pieces = Pieces(llm)

    @cached_property
    def everybody(self) -> ShapeCounts:
        """Counts over texts that the default model wrote by itself, in this model's tokens."""
        data = json.loads(_EVERYBODY.read_text(encoding="utf-8"))
        if data["tokenizer_sha256"] == self.llm.fingerprint.tokenizer_sha256:
            return ShapeCounts.of_tables(data["counts"])
        return self.count(data["texts"])

    def count(self, texts: Iterable[Mapping[str, Any]]) -> ShapeCounts:
        """Counts over texts, in this model's tokens.

        Args:
            texts: each with its "text", and whether it "ended".
        """
        return ShapeCounts(
            [self.shapes(token) for token in self.tokens(each["text"], ended=each["ended"])]
            for each in texts
        )

    def tokens(self, text: str, *, ended: bool) -> list[int]:
        """Tokens of a text, the one that ends it last if it ended."""
        end = self.llm.end_token
        ids = self.llm.tokenize(text.encode("utf-8", "replace").decode("utf-8"))
        return [*ids, end] if ended and end is not None else ids


class Manner:
    """How the author of some notes writes.

    Args:
        voices: of the model.
        sample: of the author's notes, at least one.
        weight: of the shapes in what is written, see ``ppedge.style.model``.
        kept: what `keep` kept of the same notes; None for nothing.
    """

    def __init__(
        self,
        voices: Voices,
        sample: Sample,
        weight: float,
        kept: bytes | memoryview | None = None,
    ) -> None:
        """Take the notes; the rest is made when it is asked for."""
        self.sample = sample
        self._voices = voices
        self._weight = weight
        self._texts = [note.output[:MAX_NOTE_CHARS] for note in sample.notes]
        self._making = threading.RLock()
        self._kept, self._is_kept = kept, kept is not None

    def begin(self) -> None:
        """Make all of it on a thread; who asks for a part meanwhile waits for it."""
        if "_rules" not in vars(self):
            threading.Thread(target=self._make, name="ppedge-manner").start()

    @property
    def style(self) -> StyleModel:
        """The person's shapes against everybody's."""
        with self._making:
            return self._style

    @property
    def rules(self) -> Rules:
        """Where an answer ends, and what it may not copy."""
        with self._making:
            return self._rules

    @cached_property
    def copying(self) -> NoCopying:
        """What of the notes may not be copied."""
        return NoCopying(self._texts)

    @cached_property
    def greetings(self) -> Greetings:
        """How the person begins when they write to somebody."""
        return Greetings(self._texts)

    def keep(self, persona: Persona) -> None:
        """Keep what was counted beside the notes, once, to go when any of them goes.

        Args:
            persona: whose notes they are.

        Raises:
            ModelError: the model is closed.
        """
        with self._making:
            shapes, loops, ending = self._counted
            if self._is_kept:
                return
            self._is_kept = True  # A store that cannot be written is not asked each time.
        found = {"shapes": shapes.tables(), "loops": loops.found(), "ending": ending.found()}
        version = self.sample.version
        key = manner_key(self._voices.llm, persona, version)
        persona.keep_prefix(key, version, json.dumps(found).encode(), "manner")

    # --- made once, by whoever is first ---

    def _make(self) -> None:
        # Whoever asks for what could not be made meets the error.
        with self._making, suppress(PpedgeError):
            _ = self._style, self._rules

    @cached_property
    def _counted(self) -> tuple[ShapeCounts, NoLoops, Ending]:
        """What takes time to make of notes."""
        kept, self._kept = self._kept, None
        if kept is not None:
            try:
                found = json.loads(bytes(kept))
                shapes = ShapeCounts.of_tables(found["shapes"])
                return shapes, NoLoops.of(found["loops"]), Ending.of(found["ending"])
            except _NO_MANNER:
                self._is_kept = False
        voices = self._voices
        tokens = [voices.tokens(text, ended=True) for text in self._texts]
        shapes = ShapeCounts([voices.shapes(token) for token in text] for text in tokens)
        return shapes, NoLoops(self._texts), Ending(self._texts, list(map(len, tokens)))

    @cached_property
    def _style(self) -> StyleModel:
        voices = self._voices
        return StyleModel(voices.shapes, self._counted[0], voices.everybody, self._weight)

    @cached_property
    def _rules(self) -> Rules:
        voices = self._voices
        _, loops, ending = self._counted
        filler, end = NoFiller(self._texts), voices.llm.end_token
        return Rules(voices.pieces, end, self.copying, loops, filler, ending)


def manner_key(llm: LLM, persona: Persona, version: int) -> str:
    """What a kept manner hangs on, beside the store: SHA-256, 64 hex digits.

    Args:
        llm: its tokens.
        persona: which of the store's notes are in.
        version: of the store's notes.
    """
    tokenizer = llm.fingerprint.tokenizer_sha256
    end, sampled = llm.end_token, (SAMPLED_NOTES, MAX_NOTE_CHARS)
    parts = ["manner", _FORMAT, tokenizer, end, *sampled, version, persona.scope_key]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


class Manners:
    """The manners of the people who were asked for last; may be shared between threads.

    Args:
        voices: of the model.
    """

    def __init__(self, voices: Voices) -> None:
        """Begin with none."""
        self._voices = voices
        self._made: OrderedDict[tuple[Path, str, int, float], Manner] = OrderedDict()
        self._mutex = threading.Lock()

    def of(self, persona: Persona, weight: float) -> Manner | None:
        """How the persona's owner writes; None of somebody without notes.

        Args:
            persona: whose notes.
            weight: of the shapes.

        Raises:
            StoreError: the store cannot be read.
        """
        name = (persona.path, persona.scope_key, persona.version(), weight)
        with self._mutex:
            found = self._made.get(name)
        if found is None:
            sample = persona.sample(SAMPLED_NOTES)
            if not sample.notes:
                return None
            key = manner_key(self._voices.llm, persona, sample.version)
            kept = persona.kept_prefix(key, "manner")
            found = Manner(self._voices, sample, weight, kept)
            with self._mutex:
                self._made[persona.path, persona.scope_key, sample.version, weight] = found
                while len(self._made) > _KEPT:
                    self._made.popitem(last=False)
        return found
