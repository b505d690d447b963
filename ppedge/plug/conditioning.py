"""From a prompt and a persona to what the plug says: attention over all notes, projected."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ppedge.llm.ngram_cache import NgramCache, NgramCacheBuilder
from ppedge.notes.reader import Note
from ppedge.plug.plug import Plug
from ppedge.store.persona import NotesChangedError, Persona


@dataclass(frozen=True, slots=True)
class Conditioning:
    """What a persona says to one prompt.

    Attributes:
        soft: soft tokens, float32 [n_soft, n_embd]; none without a plug.
        control: control vector, float32 [n_control, n_embd]; None where the plug has none.
        null_weight: attention weight of the null note, 0 to 1; None without a plug.
        heaviest: the notes that weigh most, with their attention weights, heaviest first; none
            without a plug.
        seconds: time by stage ("encode", "pool", "project", and "ngrams" where the plug has an
            n-gram cache).
        memory: the wording of the notes that weigh most; None where the plug has no
            n-gram cache, or every note is muted.
        turns: how many notes stand before the prompt as earlier turns.
    """

    soft: NDArray[np.float32]
    null_weight: float | None
    heaviest: list[tuple[Note, float]]
    seconds: dict[str, float]
    memory: NgramCache | None = None
    control: NDArray[np.float32] | None = None
    turns: int = 0


def condition(
    plug: Plug, ngrams: NgramCacheBuilder | None, prompt: str, persona: Persona, heaviest: int
) -> Conditioning:
    """Pool a persona for ``prompt`` into soft tokens, and remember its wording.

    Args:
        plug: encodes, and projects.
        ngrams: of the plug; None where it has no n-gram cache.
        prompt: what is asked.
        persona: whose notes; may be empty (the null note then stands alone).
        heaviest: how many of the heaviest notes to name.

    Raises:
        PlugError: the plug's graphs fail.
        StoreError: the store cannot be read.
        ModelError: the model is closed.
    """
    began = time.perf_counter()
    query = plug.encode_prompt(prompt)
    encoded = time.perf_counter()
    n_named = max(heaviest, ngrams.spec.max_notes if ngrams else 0)
    pooled, null_weight, named = _pool(plug, query, persona, n_named)
    pool_ended = time.perf_counter()
    projected = plug.project(pooled)
    project_ended = time.perf_counter()
    seconds = {
        "encode": encoded - began,
        "pool": pool_ended - encoded,
        "project": project_ended - pool_ended,
    }
    memory = None
    if ngrams:
        memory = ngrams.build(named)
        seconds["ngrams"] = time.perf_counter() - project_ended
    return Conditioning(
        projected.vectors, null_weight, named[:heaviest], seconds, memory, projected.control
    )


def _pool(
    plug: Plug, query: NDArray[np.float32], persona: Persona, heaviest: int
) -> tuple[NDArray[np.float32], float, list[tuple[Note, float]]]:
    """The pooled value, the null note's weight, and the heaviest notes.

    Pools again where another process changed the notes before they were named.
    """
    manifest = plug.manifest
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
