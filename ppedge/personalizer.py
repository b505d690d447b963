"""The whole walk in one class: history, prompt, soft tokens, answer. What an app embeds."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ppedge.closing import Closing
from ppedge.defaults import find_model, find_plug
from ppedge.guidance import ensure_strength
from ppedge.history import Note
from ppedge.literal import LiteralMemory, Wording
from ppedge.llm import LLM, Generation, Mix
from ppedge.persona import NotesChangedError, Persona
from ppedge.plug import Plug
from ppedge.prompt import Segment, Soft, render
from ppedge.sampling import Sampling


@dataclass(frozen=True, slots=True)
class Conditioning:
    """What a persona says to one prompt.

    Attributes:
        soft: soft tokens, float32 [n_soft, n_embd].
        control: control vector, float32 [n_control, n_embd]; None where the plug has none.
        null_weight: attention weight of the null note, 0 to 1.
        heaviest: the notes that weigh most, with their attention weights, heaviest first.
        seconds: time by stage ("encode", "pool", "project", and "literal" where the plug has a
            literal memory).
        memory: the wording of the notes that weigh most; None where the plug has no literal
            memory, or no note can be heard.
    """

    soft: NDArray[np.float32]
    null_weight: float
    heaviest: list[tuple[Note, float]]
    seconds: dict[str, float]
    memory: LiteralMemory | None = None
    control: NDArray[np.float32] | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer on its way: iterate for pieces of text; `cancel` ends it from any thread.

    Attributes:
        generation: the run; text, counts, finish and seconds are there once it has ended.
        conditioning: what the persona said; None without a persona.
    """

    generation: Generation
    conditioning: Conditioning | None

    def __iter__(self) -> Iterator[str]:
        """Yield the answer's pieces as they are made."""
        return iter(self.generation)

    def read(self) -> str:
        """Wait for the whole answer."""
        return self.generation.read()

    def cancel(self) -> None:
        """End the answer soon; safe from any thread."""
        self.generation.cancel()


def ensure_fits(plug: Plug, llm: LLM) -> None:
    """Refuse a model that the plug was not made for, or that cannot do what the plug asks.

    Raises:
        PlugError: the plug was made for another model.
        ModelError: the plug has a control vector, and llama.cpp cannot steer the model by it.
    """
    plug.check_model(llm.fingerprint, llm.path)
    if n_control := plug.manifest.projector.n_control:
        llm.ensure_steerable(n_control)


class Personalizer(Closing):
    """A frozen language model and a plug that fits it.

    >>> with Personalizer.open() as personalizer:
    ...     with personalizer.persona("personas/me") as persona:
    ...         persona.add(notes, personalizer.plug.encode_notes)
    ...         for piece in personalizer.stream("Write a note about rain", persona):
    ...             print(piece, end="")
    """

    def __init__(self, llm: LLM, plug: Plug) -> None:
        """Join a model and a plug.

        Raises:
            PlugError: the plug was made for another model.
            ModelError: the plug has a control vector, and llama.cpp cannot steer the model by it.
        """
        ensure_fits(plug, llm)
        self.llm = llm
        self.plug = plug
        literal = plug.manifest.literal
        self._wording = Wording(llm, literal) if literal else None

    @classmethod
    def open(
        cls,
        model: str | Path | None = None,
        plug: str | Path | None = None,
        *,
        n_ctx: int = 2048,
        n_threads: int | None = None,
        verbose: bool = False,
    ) -> Personalizer:
        """Load a model and a plug, the defaults where none is named.

        Args:
            model: a GGUF file.
            plug: a plug's folder or .zip.
            n_ctx: positions of the model's context.
            n_threads: CPU threads; None chooses.
            verbose: let llama.cpp write to stderr.

        Raises:
            ModelError: the model is missing, damaged or not supported.
            PlugError: the plug is missing, damaged, unsafe, or for another model.
        """
        # The plug first: it is checked in milliseconds, a model is not.
        opened = Plug(find_plug(plug), n_threads=n_threads)
        llm = LLM(find_model(model), n_ctx=n_ctx, n_threads=n_threads, verbose=verbose)
        try:
            return cls(llm, opened)
        except BaseException:
            llm.close()
            raise

    def close(self) -> None:
        """Free the model; safe to call twice."""
        self.llm.close()

    def persona(self, path: str | Path, *, read_only: bool = False) -> Persona:
        """Open, or make, the persona store in folder ``path`` in this plug's space.

        Raises:
            StoreError: it cannot be opened, or belongs to another plug.
        """
        return Persona.open(path, self.plug.space, read_only=read_only)

    def condition(self, prompt: str, persona: Persona, *, heaviest: int = 3) -> Conditioning:
        """Pool a persona for ``prompt`` into soft tokens, and remember its wording.

        Args:
            prompt: what is asked.
            persona: whose notes; may be empty (the null note then stands alone).
            heaviest: how many of the heaviest notes to name.

        Raises:
            PlugError: the plug's graphs fail.
            StoreError: the store cannot be read.
            ModelError: the model is closed.
        """
        began = time.perf_counter()
        query = self.plug.encode_prompt(prompt)
        encoded = time.perf_counter()
        wording = self._wording
        n_named = max(heaviest, wording.spec.max_notes if wording else 0)
        pooled, null_weight, named = self._pool(query, persona, n_named)
        pool_ended = time.perf_counter()
        said = self.plug.project(pooled)
        projected = time.perf_counter()
        seconds = {
            "encode": encoded - began,
            "pool": pool_ended - encoded,
            "project": projected - pool_ended,
        }
        memory = None
        if wording:
            memory = wording.memory(named)
            seconds["literal"] = time.perf_counter() - projected
        return Conditioning(
            said.vectors, null_weight, named[:heaviest], seconds, memory, said.control
        )

    def _pool(
        self, query: NDArray[np.float32], persona: Persona, heaviest: int
    ) -> tuple[NDArray[np.float32], float, list[tuple[Note, float]]]:
        """The pooled value, the null note's weight, and the heaviest notes.

        Pools again where another process changed the notes before they were named.
        """
        manifest = self.plug.manifest
        while True:
            pooled = persona.pool(
                query,
                scale=manifest.attention_scale,
                recency=manifest.recency,
                null_competes=manifest.null_note_competes,
            )
            assert pooled.weights is not None  # Persona.pool always asks for them.
            try:
                named = persona.heaviest(pooled.weights, heaviest)
            except NotesChangedError:
                continue
            return pooled.value, float(pooled.weights[0]), named

    def segments(
        self,
        prompt: str,
        soft: NDArray[np.float32] | None,
        control: NDArray[np.float32] | None = None,
    ) -> list[Segment]:
        """What the model is given for ``prompt``; without ``soft``, no persona.

        Args:
            prompt: what is asked.
            soft: soft tokens, float32 [n, n_embd].
            control: control vector, float32 [n_layer - 1, n_embd], if any.
        """
        said = None if soft is None else Soft(soft, control)
        return render(self.plug.manifest.template, prompt, said)

    def stream(
        self,
        prompt: str,
        persona: Persona | None = None,
        sampling: Sampling | None = None,
        *,
        heaviest: int = 3,
        strength: float = 1.0,
    ) -> Answer:
        """Answer ``prompt`` as the persona's owner would.

        Args:
            prompt: what is asked.
            persona: whose notes; None answers as the bare model does.
            sampling: how tokens are chosen.
            heaviest: how many of the heaviest notes to name.
            strength: how much of the persona: 0 none, 1 as it is, up to 5 pushed further
                (``ppedge.guidance``); any but 1 takes about twice the time per token.

        Raises:
            ModelError: the prompt does not fit the context, raised here or while iterating; or
                ``strength`` is out of range.
            PlugError, StoreError: as `condition`.
        """
        ensure_strength(strength)
        heard = None
        if persona is not None:
            heard = self.condition(prompt, persona, heaviest=heaviest)
        soft, control = (heard.soft, heard.control) if heard else (None, None)
        segments = self.segments(prompt, soft, control)
        memory = heard.memory if heard else None
        mix: Mix | None = memory.mix if memory else None
        if heard and strength != 1:
            mix = self.llm.guide(self.segments(prompt, None), strength, mix)
        generation = self.llm.generate(segments, sampling, mix=mix)
        return Answer(generation, heard)
