"""From a prompt and a persona to what the plug says: attention over all notes, projected.

Soft tokens behind the prompt are pooled for that prompt. Kept soft tokens stand before it, and
what the model makes of them is kept with the person's turns; they are pooled for what the turns
ask, by the mean of those queries, as long as they are in the mean.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
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
        control: control vector, float32 [n_control, n_embd]; None where the plug has none, or the
            soft tokens are kept ones.
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
    stages = _Stages()
    query = plug.encode_prompt(prompt)
    stages.end("encode")
    n_named = max(heaviest, ngrams.spec.max_notes if ngrams else 0)
    pooled, null_weight, named = _pool(plug, query, persona, n_named)
    stages.end("pool")
    projected = plug.project(pooled)
    stages.end("project")
    memory = None
    if ngrams:
        memory = ngrams.build(named)
        stages.end("ngrams")
    return Conditioning(
        projected.vectors, null_weight, named[:heaviest], stages.seconds, memory, projected.control
    )


def condition_kept(
    plug: Plug, asks: Sequence[str], persona: Persona, heaviest: int
) -> Conditioning:
    """Pool a persona for what its turns ask into kept soft tokens.

    Args:
        plug: one with kept soft tokens.
        asks: what is asked in the turns, at least one.
        persona: whose notes.
        heaviest: how many of the heaviest notes to name.

    Raises:
        PlugError, StoreError: as `condition`.
    """
    stages = _Stages()
    query = mean_query([plug.encode_prompt(ask) for ask in asks])
    stages.end("encode")
    pooled, null_weight, named = _pool(plug, query, persona, heaviest)
    stages.end("pool")
    soft = plug.project_kept(pooled)
    stages.end("project")
    return Conditioning(soft, null_weight, named, stages.seconds)


def mean_query(queries: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    """The mean of queries float32 [d_key], made as long as they are in the mean."""
    stacked = np.stack(queries)
    mean = stacked.mean(0)
    lengths = np.linalg.norm(stacked, axis=1)
    return np.asarray(mean * (lengths.mean() / max(np.linalg.norm(mean), 1e-12)), np.float32)


class _Stages:
    """Seconds of what comes one after another."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._began = time.perf_counter()

    def end(self, name: str) -> None:
        """Note how long a stage took; the next begins."""
        now = time.perf_counter()
        self.seconds[name] = now - self._began
        self._began = now


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
