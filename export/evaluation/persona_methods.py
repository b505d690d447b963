"""From a history to what it says, without a store; as the run time does it, and its ablations.

A person's machine keeps the vectors of their notes in a store; here they are kept in memory, in
the same float16, behind the same null row, pooled by the same kernel. Soft tokens and literal
memory are bit for bit those of ``Personalizer.condition``.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from export.models.note_vectors import Rows
from ppedge.attention.bias import with_plug
from ppedge.attention.pooling import Pooled, pool
from ppedge.llm.llm import LLM
from ppedge.llm.ngram_cache import NgramCache, NgramCacheBuilder
from ppedge.llm.segments import Soft
from ppedge.notes.reader import Note
from ppedge.plug.plug import Plug

TOP = 4  # notes that the paper's top-k ablation pools
ABLATIONS = ("persona-noinstruction", "persona-mean", "persona-top4", "persona-nongrams")


def attend(plug: Plug, prompt: str, rows: Rows, ablation: str = "") -> Pooled:
    """Pool a history for a prompt.

    Args:
        plug: its scale, recency and null note apply as at run time.
        prompt: what is asked.
        rows: the history.
        ablation: "" for the whole method, or one of `ABLATIONS`, on the same plug without training
            it anew. Two change what is pooled: "persona-mean", every row weighs the same whatever
            is asked (scores and recency are zero); "persona-top4", only the four notes that match
            best are pooled, beside the null note where that competes.

    Returns:
        The value float32 [d_value], and the weights float32 [n + 1], the null note's first.

    Raises:
        PlugError: the plug's graphs fail.
    """
    manifest = plug.manifest
    query = plug.encode_prompt(prompt)
    mean = ablation == "persona-mean"
    bias = with_plug(
        None,
        len(rows.keys) - 1,
        recency=0.0 if mean else manifest.recency,
        null_competes=manifest.null_note_competes,
    )
    scale = 0.0 if mean else manifest.attention_scale
    if ablation == "persona-top4":
        bias = _best_only(rows.keys @ query * np.float32(scale), bias)
    return pool(query, rows.keys, rows.values, scale=scale, bias=bias, weights=True)


def project(plug: Plug, pooled: Pooled, ablation: str = "") -> Soft:
    """What a pooled history says.

    Returns:
        As ``Plug.project``; for "persona-noinstruction" without the first ``n_instruction`` soft
        tokens, which are the same for everybody.

    Raises:
        PlugError: the plug's graph fails.
    """
    soft = plug.project(pooled.value)
    first = plug.manifest.projector.n_instruction if ablation == "persona-noinstruction" else 0
    return replace(soft, vectors=soft.vectors[first:])


def memory(
    llm: LLM, plug: Plug, notes: Sequence[Note], weights: NDArray[np.float32]
) -> NgramCache | None:
    """The n-gram cache of a history, tokenized anew: no store keeps token ids on disk.

    Args:
        llm: whose tokens.
        plug: one that has an n-gram cache.
        notes: the history.
        weights: float32 [n + 1], from `attend`.

    Returns:
        None where no note has a weight.
    """
    spec = plug.manifest.ngram_cache
    assert spec is not None  # `Bench.warm` sees to it.
    # As `Persona.heaviest` does.
    heaviest = np.argsort(-weights[1:], kind="stable")[: spec.max_notes]
    return NgramCacheBuilder(llm, spec).build((notes[i], float(weights[1 + i])) for i in heaviest)


def _best_only(
    scores: NDArray[np.float32], bias: NDArray[np.float32] | None
) -> NDArray[np.float32]:
    """The bias with all notes masked but the ``TOP`` of highest score; of equals, later ones."""
    bias = np.zeros(len(scores), np.float32) if bias is None else bias.copy()
    best_last = 1 + np.argsort((scores + bias)[1:], kind="stable")
    bias[best_last[:-TOP]] = -math.inf
    return bias


def shuffled(notes: Sequence[Note], user: str, seed: int) -> tuple[Note, ...]:
    """The user's inputs with the outputs dealt anew: what they wrote, but not in answer to what.

    No note keeps its own output (its place in the history, that is: two notes may say the same),
    except where there is only one. Notes without inputs, such as tweets, just change their order.

    Args:
        notes: the history.
        user: whose; the same user and history are always shuffled alike.
        seed: of the shuffling.
    """
    rng = np.random.default_rng([seed, zlib.crc32(user.encode("utf-8", "surrogatepass"))])
    # Sattolo's algorithm: a random permutation that is one cycle, so that nothing stays.
    source = list(range(len(notes)))
    for last in range(len(notes) - 1, 0, -1):
        other = int(rng.integers(last))
        source[last], source[other] = source[other], source[last]
    return tuple(
        replace(note, output=notes[i].output) for note, i in zip(notes, source, strict=True)
    )
