"""Training prompts with a person's notes in them, as retrieval puts them there.

    prompts = put_notes(batch, 0.25, count=len_in_tokens, seed=0, step=7)

A plug that has only ever seen bare prompts is at a loss where an application also puts notes into
them (``persona+bm25-1`` of ``export.evaluate``).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from export.baselines.retrieval import prompt_with_notes, rank_bm25
from export.synthetic.dataset import TASK
from export.synthetic.style_transfer import in_words_of_task
from export.training.sampler import Batch

BUDGET = 128  # LLM tokens of the notes in a prompt, with the words around them
COUNTS = (1, 1, 1, 2)  # of notes


def put_notes(
    batch: Batch, share: float, *, count: Callable[[str], int], seed: int, step: int
) -> list[str]:
    """What the LLM reads for each example: its prompt, and in some of them notes before it.

    Args:
        batch: the whole batch of a step, so that what is drawn does not depend on how many
            processes share it.
        share: of the examples that get notes, the best by BM25 of what is left of their history.
            General writing prompts and synthetic people have none in their prompts.
        count: how many tokens the LLM makes of a text.
        seed: of the draw.
        step: of the training run; the draw depends on these two and the batch alone.
    """
    rng = np.random.default_rng([seed, step, 3])
    prompts = []
    for question, history in zip(batch.questions, batch.histories, strict=True):
        # Drawn for every example, so that one's notes do not hang on the others.
        noted, k = rng.random() < share, int(rng.choice(COUNTS))
        prompts.append(question.input)
        if noted and history and question.task != TASK and in_words_of_task(question):
            asked = replace(question, history=tuple(history))
            notes = rank_bm25(asked, k)
            prompts[-1] = prompt_with_notes(asked, notes, count=count, budget=BUDGET)
    return prompts
