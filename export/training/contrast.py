"""The contrastive term: a person's own history is to beat another's.

    L = mean_i softplus(margin + own_i - swapped_i)

``own_i`` and ``swapped_i`` are the nats per target token of example i with its own history and
with its rival's. The term is near zero where the own history wins by more than the margin, and
grows linearly where it loses, so it asks for a difference and not for more than that. It is added
to the loss times a weight, and its gradient goes through both sides.

The rival is drawn from the whole batch of a step, before processes share it out: which one it is
does not depend on how many there are.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from export.data.lamp import Question
from ppedge.notes.reader import Note


def draw_rivals(
    questions: Sequence[Question], histories: Sequence[Sequence[Note]], seed: int, step: int
) -> list[Sequence[Note] | None]:
    """For each example, the history of another user: of the same task, if the batch holds one.

    Args:
        questions: the whole batch.
        histories: what is left of each one's history; an empty one is nobody's rival and has
            none, as there is nothing personal to tell apart.
        seed: of the draw.
        step: of the training run; the draw depends on these two and the batch alone.

    Returns:
        A history an example, or None where there is no rival.
    """
    rng = np.random.default_rng([seed, step, 2])
    negatives: list[Sequence[Note] | None] = []
    for question, history in zip(questions, histories, strict=True):
        others = [
            i for i, q in enumerate(questions) if q.user != question.user and len(histories[i])
        ]
        same_task = [i for i in others if questions[i].task == question.task]
        found = same_task or others
        # Drawn for every example, so that one's rival does not hang on the others' dropout.
        place = rng.random()
        negatives.append(histories[found[int(place * len(found))]] if found and history else None)
    return negatives


def contrast(
    own: tuple[Tensor, Tensor], swapped: tuple[Tensor, Tensor], rivalled: Tensor, margin: float
) -> Tensor:
    """The sum (not the mean) of the term over the examples that have a rival.

    Args:
        own: nats and token counts, float32 [B] each, with the own history.
        swapped: the same with the rival's.
        rivalled: bool [B], False where there is no rival.
        margin: nats per token.
    """
    difference = own[0] / own[1] - swapped[0] / swapped[1]
    return F.softplus(margin + difference)[rivalled].sum()
