"""People who sit: who they are, and that nothing they are asked for stands before the prompt."""

import numpy as np
import pytest

from export.data.authors import Author
from export.data.lamp import read_questions
from export.synthetic.corpus import read_corpus
from export.synthetic.dataset import TASK, SyntheticPersonas
from export.training.sampler import Sampler
from export.training.turn_sampler import (
    EACH,
    FREE_TEXT,
    TurnedSampler,
    dev_turns,
    dev_writers,
    running_text,
)
from ppedge.notes.reader import Note
from tests.export import lamp

AUTHORS = [
    Author("debian", f"{number:x}", tuple(f"Told {number} times of the {m}, {i}" for i, m in
           enumerate(lamp.MATTERS)))
    for number in range(24)
]  # fmt: skip


@pytest.fixture
def make(tmp_path, corpus):
    questions = list(read_questions(lamp.write(tmp_path, 6, split="train", notes=9), "train"))

    def make(turns=3, batch=16, **more):
        synthetic = SyntheticPersonas(read_corpus(corpus))
        return TurnedSampler(
            Sampler(questions, batch, 0, synthetic=synthetic), AUTHORS, turns=turns, seats=8, **more
        )

    return make


def test_a_step_hangs_on_the_seed_and_the_step_alone(make):
    one, other = make(), make()
    for step in (5, 0):
        other.step(step)
    assert one.step(3) == other.step(3)
    assert one.step(3) != one.step(4)


def test_nothing_that_is_asked_for_stands_before_it_or_among_the_notes(make):
    sampler, tasks, alone = make(), set(), 0
    for step in range(40):
        batch = sampler.step(step)
        assert len(batch.questions) == len(batch.turns) == len(batch.histories) == 16
        for question, turns in zip(batch.questions, batch.turns, strict=True):
            tasks.add(question.task)
            alone += not turns
            assert len(turns) <= 3
            shown = [note.output for note in (*turns, *question.history)]
            if question.task in (TASK, FREE_TEXT):
                assert question.output not in shown
            else:
                assert question.input not in [note.input for note in turns]
    assert tasks == {TASK, 6, FREE_TEXT}
    assert 0 < alone < 40 * 16 // 3


def test_two_processes_meet_other_people(make):
    batch = make().step(2)
    users = [{(q.user, turns) for q, turns in zip(part.questions, part.turns, strict=True)}
             for part in (batch.part(0, 2), batch.part(1, 2))]  # fmt: skip
    assert not users[0] & users[1]
    assert all(len({turns for _, turns in side}) <= 16 // EACH // 2 for side in users)


def test_one_seat_changes_a_step(make):
    sampler = make()
    before = [sampler.seat(place, 20) for place in range(8)]
    after = [sampler.seat(place, 21) for place in range(8)]
    assert sum(a is not b for a, b in zip(before, after, strict=True)) == 1


def test_dev_authors_are_not_trained_on_and_their_questions_stay_the_same(make):
    trained = {notes[0].output for notes in make().free_text["debian"]}
    dev = [author for author in AUTHORS if author.dev]
    assert dev
    assert not trained & {author.notes[0] for author in dev}
    questions = dev_writers(AUTHORS, 2, seed=0)
    assert questions == dev_writers(AUTHORS, 2, seed=0)
    assert [q.user for q in questions] == [f"author-{author.author}" for author in dev[:2]]
    for question, turns in zip(questions, dev_turns(questions, 3, seed=0), strict=True):
        assert Note(question.output) not in question.history
        assert len(turns) == 3
        assert set(turns) <= set(question.history)


def test_running_text_is_each_body_once():
    history = [Note("subject", "The body of this commit. More."), Note("a tweet of five words!")]
    assert running_text([*history, *history]) == (
        Note("The body of this commit. More."),
        Note("a tweet of five words!"),
    )


def test_a_batch_of_uneven_sides_is_refused(make):
    with pytest.raises(ValueError, match="--turns wants a --batch of 8 times something"):
        make(batch=12)


def test_shares_are_followed(make):
    sampler = make(shares={0: 1e-9, 6: 1e-9, 8: 1.0})
    rng = np.random.default_rng(0)
    assert {sampler._draw(rng).ask(rng).task for _ in range(20)} == {FREE_TEXT}
