"""What a step sees, who its negatives are, and the contrastive term by hand."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from export.data.lamp import Question, read_questions
from export.models.features import Features
from export.models.plug import PersonaPlug, PlugConfig
from export.models.text_encoder import find_minilm
from export.synthetic.corpus import LEAST, CorpusText
from export.synthetic.dataset import TASK, SyntheticPersonas
from export.training.contrast import contrast, draw_rivals
from export.training.retrieval_prompts import BUDGET
from export.training.sampler import GENERAL, MAX_NOTES, SHARES, Batch, Sampler, keep_some
from export.training.trainer import MAX_PROMPT, Contrast, Trainer
from export.training.turn_sampler import FREE_TEXT
from ppedge.notes.reader import Note


@pytest.fixture(scope="module")
def questions(lamp_folder):
    return list(read_questions(lamp_folder / "LaMP_6_style", "train"))


def test_batches_depend_on_the_seed_and_the_step_alone(questions):
    first, second = Sampler(questions, 4, seed=3), Sampler(questions, 4, seed=3)
    second.step(0)
    assert first.step(11) == second.step(11)
    assert first.step(11) != first.step(12)
    assert first.step(11) != Sampler(questions, 4, seed=4).step(11)


def test_history_dropout_keeps_order_of_magnitude_and_sometimes_nothing():
    notes = [Note(f"note {i}") for i in range(100)]
    rng = np.random.default_rng(0)
    sizes = [len(keep_some(notes, rng)) for _ in range(300)]
    assert max(sizes) == MAX_NOTES
    assert 0 in sizes
    assert keep_some([], rng) == []


def test_without_dropout_a_history_is_as_long_as_there_is_room_for():
    rng = np.random.default_rng(0)
    for size, kept in ((0, 0), (5, 5), (MAX_NOTES + 9, MAX_NOTES)):
        notes = [Note(f"note {i}") for i in range(size)]
        assert {len(keep_some(notes, rng, dropout=False)) for _ in range(40)} == {kept}


def test_without_notes_left_out_only_the_files_own_questions_come(questions):
    sampler = Sampler(questions, 4, seed=0, leave_one_out=False)
    usual = Sampler(questions, 4, seed=0)
    drawn, others = (
        [q for step in range(10) for q in each.step(step).questions] for each in (sampler, usual)
    )
    assert all(q in questions for q in drawn)
    assert not all(q in questions for q in others)


def test_a_history_keeps_its_order_where_that_counts():
    notes = [Note(f"note {i}") for i in range(40)]
    shuffled = keep_some(notes, np.random.default_rng(1))
    ordered = keep_some(notes, np.random.default_rng(1), in_order=True)
    assert shuffled != ordered
    assert ordered == sorted(shuffled, key=notes.index)


def asked(task, user, notes=3):
    history = tuple(Note(f"{user} wrote {i}", f"{user} was asked {i}") for i in range(notes))
    prompt = f"Which? description: {user}"
    return Question(f"{task}-{user}", user, task, prompt, "romance", history)


def test_every_task_has_a_share_and_shares_are_kept():
    assert set(SHARES) - {TASK} == set(GENERAL) | {FREE_TEXT} == set(range(1, 9))
    assert [GENERAL[task] for task in (1, 2, 3, 4)] == [0] * 4
    questions = [asked(task, user) for task in range(1, 8) for user in "ab"]
    shares = {**SHARES, 1: 3.0}
    del shares[FREE_TEXT]  # people of free text are drawn by a sampler of their own
    synthetic = SyntheticPersonas(
        [CorpusText(f"Say {i}.", f"{i}", f"It is {i} o'clock.") for i in range(LEAST)]
    )
    sampler = Sampler(questions, 1, 0, shares=shares, synthetic=synthetic)
    rng = np.random.default_rng(0)
    drawn = [sampler.draw(rng).task for _ in range(2000)]
    for task, share in shares.items():
        wanted = share / sum(shares.values())
        assert drawn.count(task) / 2000 == pytest.approx(wanted, abs=0.04)


def test_tasks_with_labels_train_too_and_task_1_on_its_own_questions_only():
    rng = np.random.default_rng(0)
    for task in (1, 2, 3):
        sampler = Sampler([asked(task, "a"), asked(task, "b")], 1, 0)
        ids = {sampler.draw(rng).id for _ in range(60)}
        assert (ids == {"1-a", "1-b"}) == (task == 1)
        assert {f"{task}-a", f"{task}-b"} <= ids


def test_parts_of_a_batch_make_it_up_whatever_their_number(questions):
    batch = Sampler(questions, 7, seed=0).step(2)
    batch.negatives = draw_rivals(batch.questions, batch.histories, 0, 2)
    for parts in (1, 2, 3):
        shared = [batch.part(i, parts) for i in range(parts)]
        together = [zip(p.questions, p.histories, p.negatives, strict=True) for p in shared]
        whole = [tuple(row) for part in together for row in part]
        wanted = zip(batch.questions, batch.histories, batch.negatives, strict=True)
        assert sorted(map(repr, whole)) == sorted(map(repr, wanted))
        assert max(len(p.questions) for p in shared) - min(len(p.questions) for p in shared) <= 1


def test_a_rival_is_another_user_of_the_same_task_if_there_is_one():
    people = [asked(6, "a"), asked(6, "a"), asked(6, "b"), asked(4, "c"), asked(6, "d", 0)]
    histories = [q.history for q in people]
    seen = [set(), set(), set(), set(), set()]
    for step in range(50):
        negatives = draw_rivals(people, histories, 0, step)
        assert negatives == draw_rivals(people, histories, 0, step)
        for found, rival in zip(seen, negatives, strict=True):
            found.add(None if rival is None else rival[0].output.split()[0])
    assert seen == [{"b"}, {"b"}, {"a"}, {"a", "b"}, {None}]
    assert draw_rivals(people[:2], histories[:2], 0, 0) == [None, None]


def test_the_contrastive_term_by_hand():
    counts = torch.tensor([2.0, 4.0, 1.0])
    own, swapped = torch.tensor([2.0, 8.0, 5.0]), torch.tensor([4.0, 6.0, 0.0])
    rivalled = torch.tensor([True, True, False])
    ours = contrast((own, counts), (swapped, counts), rivalled, margin=0.5)
    wanted = math.log1p(math.exp(0.5 + 1 - 2)) + math.log1p(math.exp(0.5 + 2 - 1.5))
    assert float(ours) == pytest.approx(wanted)


def test_the_loss_of_a_step_is_its_two_means_and_the_head_is_run_once(
    tiny_llm, questions, monkeypatch
):
    torch.manual_seed(0)
    plug = PersonaPlug(PlugConfig(n_embd=64), tiny_llm.table.float())
    trainer = Trainer(plug, tiny_llm, Features(find_minilm()))
    batch = Sampler(questions, 3, seed=0).step(1)
    batch.negatives = [(Note("quite another"),), None, (Note("another still"),)]
    plain = Batch(batch.questions, batch.histories, [])
    prompts = [q.input for q in batch.questions]
    negatives = trainer.condition(prompts, [rival or () for rival in batch.negatives])
    soft = [trainer.condition(prompts, batch.histories), negatives]
    (own, counts), (swapped, _) = trainer.nll(batch.questions, soft, [192] * 3)
    runs, run_heads = [], tiny_llm.run_heads
    monkeypatch.setattr(tiny_llm, "run_heads", lambda h: runs.append(1) or run_heads(h))
    loss = trainer.loss(batch, term=Contrast(0.7, 0, 0.1))
    assert len(runs) == 1
    mean = own.sum() / counts.sum()
    terms = torch.log1p(torch.exp(0.1 + (own - swapped) / counts))
    wanted = mean + 0.7 * (terms[0] + terms[2]) / 2
    assert loss.item() == pytest.approx(wanted.item())
    assert trainer.loss(plain).item() == pytest.approx(mean.item())


def test_notes_in_a_prompt_do_not_push_out_what_is_asked(tiny_llm, questions):
    torch.manual_seed(0)
    plug = PersonaPlug(PlugConfig(n_embd=64), tiny_llm.table.float())
    trainer = Trainer(plug, tiny_llm, Features(find_minilm()))
    asked = replace(questions[0], input="Title: " + "word " * 40)
    lead = "A note, " * 8
    batch = Batch([asked], [questions[0].history], [], [lead + asked.input])
    soft = trainer.condition([asked.input], batch.histories)

    def nll(prompt, room):
        [(nats, counts)] = trainer.nll([replace(asked, input=prompt)], [soft], [room])
        return (nats.sum() / counts.sum()).item()

    assert len(tiny_llm.tokens(asked.input, special=False)) > MAX_PROMPT
    loss = trainer.loss(batch).item()
    assert loss == pytest.approx(nll(lead + asked.input, MAX_PROMPT + BUDGET))
    assert loss != pytest.approx(nll(lead + asked.input, MAX_PROMPT))
    bare = replace(batch, prompts=[])
    assert trainer.loss(bare).item() == pytest.approx(nll(asked.input, MAX_PROMPT))


def test_the_term_is_there_from_its_first_step_on():
    assert [Contrast(0.5, 3).at(step) for step in (2, 3, 4)] == [False, True, True]
    assert not Contrast(0.0).at(9)
