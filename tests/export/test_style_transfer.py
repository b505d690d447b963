"""Made-up habits on real examples, people who choose, and notes put into training prompts."""

import numpy as np
import pytest

from export.data.lamp import Question
from export.synthetic.choices import draw_choice
from export.synthetic.corpus import CorpusText
from export.synthetic.dataset import TASK, SyntheticPersonas
from export.synthetic.personas import WORDS, SyntheticPersona
from export.synthetic.style_transfer import MAX_NOTES, STYLED, in_words_of_task, transfer_style
from export.training.retrieval_prompts import put_notes
from export.training.sampler import Batch, Sampler
from ppedge.notes.reader import Note

COMMIT = "Generate a subject for the following commit message: "
TWEET = "Paraphrase the following text into tweet without any explanation before or after it: "
LOUD = SyntheticPersona(
    case="upper", prefix="re: ", closer="-Ann", emoji=("🌧",), end="!!", sentences=1
)


def asked(task=6, prompt=COMMIT + "The parser leaks.", output="parser: plug a leak", notes=3):
    history = tuple(Note(f"part {i}: mend it", f"The part {i} broke.") for i in range(notes))
    return Question("q", "ann", task, prompt, output, history)


@pytest.fixture(scope="module")
def texts():
    return [CorpusText(f"Say {i}.", f"thing {i}", f"It is {i} o'clock.") for i in range(240)]


# --- habits ---------------------------------------------------------------------------------------


def test_a_title_and_the_titles_of_all_notes_wear_the_same_habits():
    styled = transfer_style(asked(), LOUD, np.random.default_rng(0))
    assert styled.output == "RE: PARSER: PLUG A LEAK!! -Ann 🌧"
    assert sorted(note.output for note in styled.history) == [
        f"RE: PART {i}: MEND IT!! -Ann 🌧" for i in range(3)
    ]
    assert styled.input == asked().input
    assert {note.input for note in styled.history} == {note.input for note in asked().history}


@pytest.mark.parametrize(
    ("task", "prompt"), [(7, TWEET + "rain. wind."), (6, "Write a short post.")]
)
def test_running_text_keeps_all_its_sentences(task, prompt):
    question = asked(task, prompt, "Rain today. Wind too. So it goes.")
    styled = transfer_style(
        question, SyntheticPersona(end="!", sentences=1), np.random.default_rng(0)
    )
    assert styled.output == "Rain today! Wind too! So it goes!"


def test_a_plain_voice_changes_no_text_and_a_history_is_cut():
    styled = transfer_style(asked(notes=40), SyntheticPersona(), np.random.default_rng(0))
    assert styled.output == asked().output
    assert len(styled.history) == MAX_NOTES
    assert set(styled.history) <= set(asked(notes=40).history)


def test_a_general_prompt_is_not_in_the_task_s_words():
    assert in_words_of_task(asked())
    assert not in_words_of_task(asked(prompt="Write a short post about rain, wind."))


def test_worn_examples_come_as_often_as_asked_for_and_keep_a_note():
    people = [asked(notes=4)]
    sampler = Sampler(people, 16, 0, style_transfer=0.5)
    styled = kept = 0
    for step in range(30):
        batch = sampler.step(step)
        for question, history in zip(batch.questions, batch.histories, strict=True):
            is_worn = question.id.endswith(STYLED)
            styled += is_worn
            kept += is_worn and bool(history)
    assert 480 * 0.4 < styled < 480 * 0.6
    assert kept == styled
    assert not any(q.id.endswith(STYLED) for q in Sampler(people, 16, 0).step(0).questions)


def test_labels_and_ratings_are_left_as_they_are():
    prompt = "What is the score of the following review on a scale of 1 to 5? review: fine"
    sampler = Sampler([asked(3, prompt, "4")], 4, 0, style_transfer=1.0)
    assert not any(q.id.endswith(STYLED) for q in sampler.step(0).questions)


# --- people who choose ----------------------------------------------------------------------------


def test_who_chooses_says_one_of_the_labels_and_so_do_their_notes(texts):
    for seed in range(80):
        question = draw_choice(texts, np.random.default_rng(seed))
        assert question == draw_choice(texts, np.random.default_rng(seed))
        chosen = {question.output, *(note.output for note in question.history)}
        assert any(chosen <= set(labels) for labels in WORDS["labels"])
        assert all(label in question.input for label in chosen)
        assert 3 <= len(question.history) < 25
        assert all(note.input not in question.input for note in question.history)


def test_notes_tell_what_is_chosen(texts):
    drawn = [draw_choice(texts, np.random.default_rng(seed)) for seed in range(300)]
    hits = 0
    for question in drawn:
        outputs = [note.output for note in question.history]
        hits += question.output == max(sorted(set(outputs)), key=outputs.count)
    assert hits / len(drawn) > 0.55


def test_who_chooses_labels_has_a_share_of_the_synthetic_people(texts):
    def of(share):
        sampler = Sampler(
            [], 16, 0, shares={TASK: 1.0}, synthetic=SyntheticPersonas(texts), choices=share
        )
        users = [q.user for step in range(20) for q in sampler.step(step).questions]
        return sum(user.startswith("chooser") for user in users) / len(users)

    assert of(0) == 0
    assert of(1) == 1
    assert of(0.3) == pytest.approx(0.3, abs=0.07)


# --- notes in the prompt --------------------------------------------------------------------------


def batch_of(*questions):
    return Batch(list(questions), [q.history for q in questions], [])


def count(text):
    return len(text.split())


def test_the_best_notes_of_what_is_left_stand_before_what_is_asked():
    question = asked(prompt=COMMIT + "The part 2 broke again.")
    batch = Batch([question], [question.history[:2]], [])
    for step in range(8):
        [prompt] = put_notes(batch, 1.0, count=count, seed=0, step=step)
        assert prompt.endswith(question.input)
        assert "part 2: mend it" not in prompt
        assert 'mend it" is the title for "The part' in prompt


def test_made_up_people_and_general_prompts_have_no_notes_in_them():
    persona = asked(TASK, "Write about rain")
    general = asked(prompt="Write a short post about rain.")
    alone = asked(notes=0)
    batch = batch_of(persona, general, alone)
    prompts = put_notes(batch, 1.0, count=count, seed=0, step=0)
    assert prompts == [q.input for q in batch.questions]


def test_which_prompts_have_notes_depends_on_the_seed_and_the_step_alone():
    batch = batch_of(*[asked()] * 40)

    def noted(seed, step, share=0.3):
        prompts = put_notes(batch, share, count=count, seed=seed, step=step)
        return [prompt != asked().input for prompt in prompts]

    assert noted(0, 1) == noted(0, 1)
    assert noted(0, 1) != noted(0, 2)
    assert noted(0, 1) != noted(1, 1)
    assert not any(noted(0, 1, share=0))
    mean = np.mean([noted(0, step) for step in range(20)])
    assert mean == pytest.approx(0.3, abs=0.06)
