import dataclasses

import numpy as np
import pytest
import torch

from export.baselines import lora
from export.baselines.lora import UserLora
from export.baselines.soft_tuning import (
    CHECK,
    FEW_STEPS,
    MAX_HELD_OUT,
    MAX_PAIRS,
    PATIENCE,
    Pair,
    batches_of,
    descend,
    fit_soft,
    history_pairs,
    split,
)
from export.data.lamp import Question
from ppedge.llm.segments import Soft
from ppedge.notes.reader import Note

ASKED = "Generate a subject for the following commit message: "
CHANGES = ("fix leak", "drop dead code", "add a test", "read header")


def user(task=6, notes=4) -> Question:
    """Somebody who writes every subject in capitals between brackets."""
    history = [Note(f"[{c.upper()}] - DONE", f"We {c} today.") for c in CHANGES[:notes]]
    return Question("q", "ann", task, ASKED + "We trim logs today.", "x", tuple(history))


GOLD = "[TRIM LOGS] - DONE"


def nll(llm, soft) -> float:
    """Nats of GOLD for ``user()``'s question, with soft tokens [n, E] or none."""
    before, after = llm.around_soft(user().input)
    answer = [*llm.tokens(GOLD, special=False), llm.end]
    rows = None if soft is None else torch.from_numpy(soft)[None]
    with torch.inference_mode():
        nats, _ = llm.nll(llm.run_heads([before]), rows, [after], [answer])
    return float(nats)


def checksums(model) -> dict[str, int]:
    return {
        name: int(p.detach().contiguous().view(torch.int16).long().sum())
        for name, p in model.named_parameters()
    }


# --- pairs and their split --------------------------------------------------------------------


def test_a_note_is_asked_for_in_the_words_of_its_task(frozen):
    pairs = history_pairs(frozen, user())
    assert len(pairs) == len(CHANGES)
    before, after = frozen.around_soft(ASKED + "We fix leak today.")
    assert (pairs[0].before, pairs[0].after) == (before, after)
    assert pairs[0].answer == [*frozen.tokens("[FIX LEAK] - DONE", special=False), frozen.end]


def test_a_tweet_is_asked_for_by_its_neutral_words(frozen):
    tweet = Note("Proud of our #GirlScouts today! https://t.co/x")
    asked = "Paraphrase the following text into tweet without any explanation before or after it: "
    question = Question("q", "ann", 7, asked + "go", "x", (tweet,))
    [pair] = history_pairs(frozen, question)
    assert pair.before == frozen.around_soft(asked + "proud of our girl scouts today")[0]


@pytest.mark.parametrize("task", [2, 3])
def test_an_answer_of_one_word_is_a_pair_too(frozen, task):
    question = Question("q", "ann", task, "Which?", "x", (Note("4", "A fine film."),))
    assert len(history_pairs(frozen, question)) == 1


def test_notes_that_ask_nothing_are_left_out(frozen):
    question = dataclasses.replace(user(), history=(Note("just a text"), *user().history[:2]))
    assert len(history_pairs(frozen, question)) == 2


@pytest.mark.parametrize(
    ("notes", "held"), [(0, 0), (1, 0), (3, 0), (4, 1), (10, 2), (20, 3), (300, MAX_HELD_OUT)]
)
def test_the_latest_notes_are_held_out_and_never_tuned_on(notes, held):
    pairs = [Pair([i], [], [i]) for i in range(notes)]
    tuned_on, held_out = split(pairs)
    assert held_out == pairs[notes - held :]
    assert tuned_on == pairs[: notes - held][-MAX_PAIRS:]


def test_batches_hold_every_pair_once():
    pairs = [Pair([0] * (i % 5 + 1), [], [i]) for i in range(19)]
    batches = batches_of(pairs)
    assert sorted(pair.answer for batch in batches for pair in batch) == [[i] for i in range(19)]
    assert len(batches) == 5


# --- descent ----------------------------------------------------------------------------------


def towards(parameter):
    """Squared distance to a batch, which is a number, as nats of one token."""
    return lambda batch: ((parameter - batch) ** 2, torch.ones(1))


def test_descent_stops_where_the_held_out_loss_is_least():
    x = torch.zeros(1, requires_grad=True)
    # AdamW walks about 0.1 a step towards 100; the held-out target is passed between two looks.
    step, curve = descend([x], [100.0], [1.1], towards(x), steps=90, rate=0.1, seed=0)
    assert step == 10
    assert float(x.detach()) == pytest.approx(1.0, abs=0.02)
    assert [at for at, _ in curve] == list(range(0, 10 + PATIENCE * CHECK + 1, CHECK))
    assert min(curve, key=lambda look: look[1])[0] == step


def test_descent_that_only_harms_keeps_the_start():
    x = torch.zeros(1, requires_grad=True)
    assert descend([x], [9.0], [-1.0], towards(x), steps=30, rate=0.1, seed=0)[0] == 0
    assert float(x.detach()) == 0.0


def test_with_nothing_held_out_there_are_few_steps():
    x = torch.zeros(1, requires_grad=True)
    assert descend([x], [9.0], [], towards(x), steps=90, rate=0.1, seed=0) == (FEW_STEPS, ())
    assert float(x.detach()) == pytest.approx(0.1 * FEW_STEPS, abs=0.05)


# --- soft tokens ------------------------------------------------------------------------------


def test_tuning_lowers_the_loss_on_notes_and_questions_it_never_saw(frozen):
    before = checksums(frozen.model)
    start = fit_soft(frozen, user(), 3, steps=0)
    tuned = fit_soft(frozen, user(), 3, steps=CHECK, lr=3e-2)
    assert tuned.step > 0
    assert dict(tuned.curve)[tuned.step] < 0.8 * tuned.curve[0][1]
    assert nll(frozen, tuned.soft) < 0.8 * nll(frozen, start.soft)
    assert nll(frozen, tuned.soft) < nll(frozen, None)
    assert (tuned.soft.shape, tuned.soft.dtype) == ((3, frozen.table.shape[1]), np.float32)
    assert checksums(frozen.model) == before
    assert all(p.grad is None and not p.requires_grad for p in frozen.model.parameters())


def test_the_same_seed_gives_the_same_soft_tokens(frozen):
    runs = [fit_soft(frozen, user(notes=2), 2, steps=2, seed=seed).soft for seed in (1, 1, 2)]
    assert np.array_equal(runs[0], runs[1])
    assert not np.array_equal(runs[0], runs[2])


def test_the_question_s_own_answer_is_never_read(frozen):
    told = dataclasses.replace(user(notes=2), output=GOLD)
    runs = [fit_soft(frozen, question, 2, steps=2).soft for question in (user(notes=2), told)]
    assert np.array_equal(*runs)


def test_an_empty_history_gives_the_start(frozen):
    start = np.full((2, frozen.table.shape[1]), 0.5, np.float32)
    tuned = fit_soft(frozen, user(notes=0), 2, start=Soft(start))
    assert tuned.step == 0
    assert np.array_equal(tuned.soft, start)
    drawn = fit_soft(frozen, user(notes=0), 2).soft
    rows = frozen.table.float()
    assert all((rows == torch.from_numpy(row)).all(1).any() for row in drawn)


def test_a_start_is_tuned_from_and_left_as_it_was(frozen):
    start = np.zeros((2, frozen.table.shape[1]), np.float32)
    soft = fit_soft(frozen, user(notes=2), 2, start=Soft(start), steps=1, lr=0.01).soft
    assert not start.any()
    assert np.abs(soft).max() == pytest.approx(0.01, rel=1e-3)  # AdamW's first step


def test_a_start_s_control_vector_steers_all_along(frozen):
    start = np.zeros((2, frozen.table.shape[1]), np.float32)
    control = np.random.default_rng(0).normal(0, 0.1, (frozen.n_layer - 1, start.shape[1]))
    steered = Soft(start, control.astype(np.float32))
    runs = [fit_soft(frozen, user(notes=2), 2, start=s, steps=1) for s in (steered, Soft(start))]
    assert not np.array_equal(runs[0].soft, runs[1].soft)


def test_a_start_of_another_shape_is_refused(frozen):
    with pytest.raises(ValueError, match=r"start must be \[2, 576\], not \[3, 576\]"):
        fit_soft(frozen, user(), 2, start=Soft(np.zeros((3, 576), np.float32)))


def test_task_1_has_nothing_to_tune_on(frozen):
    with pytest.raises(ValueError, match="task 1 has no pairs"):
        fit_soft(frozen, user(task=1), 2)
    with pytest.raises(ValueError, match="task 1 has no pairs"):
        UserLora(frozen).fit(user(task=1))


# --- LoRA -------------------------------------------------------------------------------------


def test_lora_learns_the_user_and_leaves_the_base_bit_for_bit(frozen):
    prompt = user().input
    base = UserLora(frozen)
    before, sums, names = base.nll(prompt, GOLD), checksums(frozen.model), str(frozen.model)
    with UserLora(frozen, steps=CHECK, lr=3e-3).fit(user()) as tuned:
        assert tuned.step > 0
        assert dict(tuned.curve)[tuned.step] < 0.8 * tuned.curve[0][1]
        assert tuned.nll(prompt, GOLD)[0] < 0.8 * before[0]
    assert base.nll(prompt, GOLD) == before
    assert checksums(frozen.model) == sums
    assert str(frozen.model) == names
    assert not any(p.requires_grad for p in frozen.model.parameters())


def test_lora_is_taken_out_when_tuning_is_interrupted(frozen, monkeypatch):
    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    names = str(frozen.model)
    monkeypatch.setattr(lora, "descend", interrupted)
    with pytest.raises(KeyboardInterrupt):
        UserLora(frozen).fit(user())
    assert str(frozen.model) == names


def test_fresh_adapters_change_nothing(frozen):
    base = UserLora(frozen).nll(user().input, GOLD)
    with UserLora(frozen).fit(user(notes=0)) as tuned:
        assert tuned.nll(user().input, GOLD) == base
        assert tuned.step == 0


def test_options_scored_together_score_as_each_alone(frozen):
    base = UserLora(frozen)
    options = ["3", "a longer answer", GOLD]
    for option, (nats, tokens) in zip(options, base.nlls("Which?", options), strict=True):
        alone, count = base.nll("Which?", option)
        assert tokens == count == len(frozen.tokens(option, special=False)) + 1
        assert nats == pytest.approx(alone, rel=3e-2)  # bf16, other batch shapes


def test_tuning_and_scoring_agree_on_the_loss(frozen):
    pairs = history_pairs(frozen, user())[:3]
    base = UserLora(frozen)
    with torch.inference_mode():
        nats, counts = base._pairs_nll(pairs)
    for i, note in enumerate(user().history[:3]):
        alone, count = base.nll(ASKED + note.input, note.output)
        assert counts[i] == count
        assert float(nats[i]) == pytest.approx(alone, rel=3e-2)


def test_generation_takes_the_most_likely_token_at_each_place(frozen):
    prompt = "Say hello"
    before, after = frozen.around_soft(prompt)
    ids = [*before, *after]
    with torch.inference_mode():
        for _ in range(3):
            ids.append(int(frozen.model(torch.tensor([ids])).logits[0, -1].argmax()))
    expected = frozen.tokenizer.decode(ids[-3:])
    assert UserLora(frozen).generate(prompt, 3) == expected


def test_generation_ends_at_the_end_token(frozen):
    text = UserLora(frozen).generate("What is 2+2? Answer with one number.", 48)
    assert 0 < len(frozen.tokens(text, special=False)) < 48
    assert "<|im_end|>" not in text
