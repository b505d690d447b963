"""Soft tokens tuned by gradient on one user's own history: the *usertuned* rival.

    tuned = fit_soft(llm, question, n_soft=6)
    tuned.soft, tuned.step

It knows nobody else, so it shows what soft tokens can carry of a person without a trained plug,
for seconds of gradient descent a user. Each note is asked for in the task's words, as questions
are. The user's latest notes are held out to choose the number of steps, so that the rival neither
stops too soon nor overfits. ``lora.py`` tunes another way, on the same pairs and by the same rule.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from export.data.lamp import Question
from export.data.leave_one_out import leave_one_out
from export.models.base_llm import FrozenLLM, Head
from ppedge.llm.segments import Soft

STEPS = 60  # at most; the held-out notes say when to stop
# Tried on three train users: of 3e-3, 1e-2 and 3e-2 it was best for two with short histories (task
# 6); for one with 128 notes (task 7) 3e-2 did as well. Too few to call it more than a fair choice.
RATE = 1e-2
BATCH_SIZE = 4
CHECK = 5  # steps between two looks at the held-out notes
PATIENCE = 3  # looks without a gain before it ends
FEW_STEPS = 10  # for users with too few notes to hold one out
MAX_PAIRS = 64  # the latest notes that are tuned on, and
MAX_HELD_OUT = 12  # held out, to bound the time a user takes
MAX_PROMPT = 192  # LLM tokens, as in training the plug
MAX_ANSWER = 64

Batch = TypeVar("Batch")


@dataclass(frozen=True)
class Pair:
    """One note asked for as a question is: token ids of what is asked and of what was written.

    Attributes:
        before: up to the soft slot, the prompt cut at ``MAX_PROMPT`` tokens.
        after: between the soft slot and the answer.
        answer: cut at ``MAX_ANSWER`` tokens, then the end token.
    """

    before: list[int]
    after: list[int]
    answer: list[int]


@dataclass(frozen=True)
class Tuned:
    """What tuning on one user gave.

    Attributes:
        soft: float32 [n_soft, n_embd].
        step: after how many steps, as the held-out notes chose.
        curve: (steps, nats per held-out token) of each look; empty if nothing was held out.
    """

    soft: NDArray[np.float32]
    step: int
    curve: tuple[tuple[int, float], ...]


def ensure_tunable(task: int) -> None:
    """Refuse task 1.

    Raises:
        ValueError: the notes of task 1 are titles that nobody asked for.
    """
    if task == 1:
        raise ValueError(
            "task 1 has no pairs to tune on: its notes are titles without a question; "
            "leave out usertuned and lora there"
        )


def history_pairs(llm: FrozenLLM, question: Question) -> list[Pair]:
    """The user's notes as pairs, in the order of the history; notes that ask nothing are left out.

    Raises:
        ValueError: the question is of task 1.
    """
    ensure_tunable(question.task)
    rng = np.random.default_rng(0)  # Asking in the task's own words draws nothing.
    pairs = []
    for index in range(len(question.history)):
        asked = leave_one_out(question, index, general=False, rng=rng)
        if asked is not None:
            before, after = llm.around_soft(asked.input, MAX_PROMPT)
            answer = llm.tokens(asked.output, special=False)[:MAX_ANSWER]
            pairs.append(Pair(before, after, [*answer, llm.end]))
    return pairs


def split(pairs: Sequence[Pair]) -> tuple[list[Pair], list[Pair]]:
    """Pairs to tune on and the latest 15 % held out: at least one of four, none of fewer."""
    held = max(1, round(0.15 * len(pairs))) if len(pairs) >= 4 else 0
    held = min(held, MAX_HELD_OUT)
    border = len(pairs) - held
    return list(pairs[max(0, border - MAX_PAIRS) : border]), list(pairs[border:])


def batches_of(pairs: Sequence[Pair]) -> list[list[Pair]]:
    """Batches of at most ``BATCH_SIZE`` pairs of like length."""
    ordered = sorted(pairs, key=lambda pair: len(pair.before) + len(pair.after))
    return [ordered[i : i + BATCH_SIZE] for i in range(0, len(ordered), BATCH_SIZE)]


def descend(
    parameters: Sequence[Tensor],
    batches: Sequence[Batch],
    held_out: Sequence[Batch],
    nll: Callable[[Batch], tuple[Tensor, Tensor]],
    *,
    steps: int,
    rate: float,
    seed: int,
) -> tuple[int, tuple[tuple[int, float], ...]]:
    """Tune ``parameters`` in place with AdamW, and leave them as they were at the best look.

    Batches come in a new seeded order each time all have been. The start counts as a look, so
    tuning never leaves the held-out notes worse off. With nothing held out there are
    ``FEW_STEPS`` steps, or ``steps`` if that is less.

    Args:
        parameters: float32 leaves that require gradients.
        batches: what is tuned on; none: nothing is done.
        held_out: batches that choose the number of steps.
        nll: summed nats and token counts of a batch.
        steps: at most.
        rate: AdamW's learning rate, constant.
        seed: of the order of batches.

    Returns:
        The chosen number of steps, and the looks (see ``Tuned.curve``).
    """

    @torch.no_grad()
    def look() -> float:
        scored = [nll(batch) for batch in held_out]
        nats = sum(float(nats.sum()) for nats, _ in scored)
        return nats / sum(float(count.sum()) for _, count in scored)

    if not batches:
        return 0, ()
    optimizer = torch.optim.AdamW(parameters, lr=rate, weight_decay=0.0)
    rng = np.random.default_rng(seed)
    curve = [(0, look())] if held_out else []
    best, kept = 0, [p.detach().clone() for p in parameters]
    order: list[int] = []
    for step in range(1, (steps if held_out else min(steps, FEW_STEPS)) + 1):
        order = order or rng.permutation(len(batches)).tolist()
        nats, count = nll(batches[order.pop()])
        optimizer.zero_grad(set_to_none=True)
        (nats.sum() / count.sum()).backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        if not held_out:
            best = step
        elif step % CHECK == 0 or step == steps:
            curve.append((step, look()))
            if curve[-1][1] < min(loss for _, loss in curve[:-1]):
                best, kept = step, [p.detach().clone() for p in parameters]
            elif step - best >= PATIENCE * CHECK:
                break
    if held_out:
        with torch.no_grad():
            for parameter, value in zip(parameters, kept, strict=True):
                parameter.copy_(value)
    return best, tuple(curve)


def fit_soft(
    llm: FrozenLLM,
    question: Question,
    n_soft: int,
    *,
    start: Soft | None = None,
    steps: int = STEPS,
    lr: float = RATE,
    seed: int = 0,
) -> Tuned:
    """Tune soft tokens on the history of ``question``'s user; the question itself is not read.

    Args:
        llm: the frozen model; nothing of it changes.
        question: whose history, and of which task.
        n_soft: how many soft tokens.
        start: n_soft soft tokens to start from, such as a trained instruction, whose control
            vector steers all along; None draws embedding rows of ordinary tokens by ``seed``,
            which know nobody.
        steps: at most.
        lr: AdamW's learning rate.
        seed: of the start and of the order of batches.

    Returns:
        The soft tokens; the start itself, at step 0, for a history that asks nothing.

    Raises:
        ValueError: the question is of task 1, or ``start`` has another shape.
    """
    tuned_on, held_out = split(history_pairs(llm, question))
    soft = _start(llm, n_soft, start, seed).requires_grad_(True)
    steering = start.control if start else None
    control = None if steering is None else torch.from_numpy(steering).to(llm.device)

    def prepared(pairs: Sequence[Pair]) -> list[tuple[Head, list[Pair]]]:
        # What stands before the soft tokens does not depend on them: it is run once.
        return [(llm.run_heads([p.before for p in batch]), batch) for batch in batches_of(pairs)]

    def nll(batch: tuple[Head, list[Pair]]) -> tuple[Tensor, Tensor]:
        head, pairs = batch
        rows = soft.expand(len(pairs), -1, -1)
        return llm.nll(
            head,
            rows,
            [p.after for p in pairs],
            [p.answer for p in pairs],
            None if control is None else control.expand(len(pairs), -1, -1),
        )

    step, curve = descend(
        [soft], prepared(tuned_on), prepared(held_out), nll, steps=steps, rate=lr, seed=seed
    )
    return Tuned(soft.detach().cpu().numpy().copy(), step, curve)


def _start(llm: FrozenLLM, n_soft: int, start: Soft | None, seed: int) -> Tensor:
    n_embd = llm.table.shape[1]
    if start is None:
        special = set(llm.tokenizer.all_special_ids)
        ordinary = [i for i in range(llm.table.shape[0]) if i not in special]
        drawn = np.random.default_rng(seed).choice(ordinary, n_soft, replace=False)
        return llm.table[torch.from_numpy(drawn).to(llm.device)].float()
    rows = start.vectors
    if rows.shape != (n_soft, n_embd):
        raise ValueError(f"start must be [{n_soft}, {n_embd}], not {list(rows.shape)}")
    return torch.from_numpy(rows.astype(np.float32)).to(llm.device)
