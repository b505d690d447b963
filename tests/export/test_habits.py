"""Made-up habits on real examples, people who choose, and notes put into training prompts."""

import re

import numpy as np
import pytest

from export.data.lamp import Question
from export.synthetic.choices import draw_choice
from export.synthetic.corpus import Plain
from export.synthetic.dataset import TASK, Voiced
from export.synthetic.personas import WORDS, Voice
from export.synthetic.style_transfer import MAX_NOTES, WORN, in_words_of_task, wear
from export.training.retrieval_prompts import put_notes
from export.training.sampler import Batch, Sampler
from ppedge.notes.reader import Note

COMMIT = "Generate a subject for the following commit message: "
TWEET = "Paraphrase the following text into tweet without any explanation before or after it: "
LOUD = Voice(case="upper", prefix="re: ", closer="-Ann", emoji=("🌧",), end="!!", sentences=1)


def asked(task=6, prompt=COMMIT + "The parser leaks.", output="parser: plug a leak", notes=3):
    history = tuple(Note(f"part {i}: mend it", f"The part {i} broke.") for i in range(notes))
    return Question("q", "ann", task, prompt, output, history)


@pytest.fixture(scope="module")
def texts():
    return [Plain(f"Say {i}.", f"thing {i}", f"It is {i} o'clock.") for i in range(240)]


# --- habits ---------------------------------------------------------------------------------------


def test_a_title_and_the_titles_of_all_notes_wear_the_same_habits():
    worn = wear(asked(), LOUD, np.random.default_rng(0))
    assert worn.output == "RE: PARSER: PLUG A LEAK!! -Ann 🌧"
    assert sorted(note.output for note in worn.history) == [
        f"RE: PART {i}: MEND IT!! -Ann 🌧" for i in range(3)
    ]
    assert worn.input == asked().input
    assert {note.input for note in worn.history} == {note.input for note in asked().history}


@pytest.mark.parametrize(
    ("task", "prompt"), [(7, TWEET + "rain. wind."), (6, "Write a short post.")]
)
def test_running_text_keeps_all_its_sentences(task, prompt):
    question = asked(task, prompt, "Rain today. Wind too. So it goes.")
    worn = wear(question, Voice(end="!", sentences=1), np.random.default_rng(0))
    assert worn.output == "Rain today! Wind too! So it goes!"


def test_a_plain_voice_changes_no_text_and_a_history_is_cut():
    worn = wear(asked(notes=40), Voice(), np.random.default_rng(0))
    assert worn.output == asked().output
    assert len(worn.history) == MAX_NOTES
    assert set(worn.history) <= set(asked(notes=40).history)


def test_a_general_prompt_is_not_in_the_task_s_words():
    assert in_words_of_task(asked())
    assert not in_words_of_task(asked(prompt="Write a short post about rain, wind."))


def test_worn_examples_come_as_often_as_asked_for_and_keep_a_note():
    people = [asked(notes=4)]
    sampler = Sampler(people, 16, 0, habits=0.5)
    worn = kept = 0
    for step in range(30):
        batch = sampler.step(step)
        for question, history in zip(batch.questions, batch.histories, strict=True):
            is_worn = question.id.endswith(WORN)
            worn += is_worn
            kept += is_worn and bool(history)
    assert 480 * 0.4 < worn < 480 * 0.6
    assert kept == worn
    assert not any(q.id.endswith(WORN) for q in Sampler(people, 16, 0).step(0).questions)


def test_labels_and_ratings_are_left_as_they_are():
    prompt = "What is the score of the following review on a scale of 1 to 5? review: fine"
    sampler = Sampler([asked(3, prompt, "4")], 4, 0, habits=1.0)
    assert not any(q.id.endswith(WORN) for q in sampler.step(0).questions)


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


def test_choosers_take_their_share_of_the_made_up_people(texts):
    def of(share):
        sampler = Sampler([], 16, 0, shares={TASK: 1.0}, voiced=Voiced(texts), choosers=share)
        users = [q.user for step in range(20) for q in sampler.step(step).questions]
        return sum(user.startswith("chooser") for user in users) / len(users)

    assert of(0) == 0
    assert of(1) == 1
    assert of(0.3) == pytest.approx(0.3, abs=0.07)


@pytest.fixture(scope="module")
def by_topic():
    return [
        Plain(f"Say {i}.", f"thing {i % 12}", f"Thing {i % 12} is here. It is {i} o'clock.")
        for i in range(240)
    ]


def varied(texts, count=400):
    return [draw_choice(texts, np.random.default_rng(seed), varied=True) for seed in range(count)]


def topic(text):
    return re.search(r"Thing \d+", text)[0]


def test_varied_choosers_pick_or_label_and_their_notes_hold_no_copy(by_topic):
    picks = 0
    for question in varied(by_topic):
        labels = [note.output for note in question.history]
        assert question.history
        if all(note.input for note in question.history):
            assert all(label in question.input for label in [question.output, *labels])
            assert all(note.input not in question.input for note in question.history)
        else:
            picks += 1
            assert not any(note.input for note in question.history)
    assert picks == pytest.approx(100, abs=35)


def test_who_picks_takes_the_text_that_is_about_what_they_write_about(by_topic):
    answers = set()
    for question in varied(by_topic):
        if any(note.input for note in question.history):
            continue
        [own] = {topic(note.output) for note in question.history}
        options = re.findall(r'([^\s"]+ ?\d?[^\s"]*) "([^"]+)"', question.input)
        right = [text for mark, text in options if f"{own} " in text]
        assert len(right) == 1
        number = 1 + [text for _, text in options].index(right[0])
        assert str(number) in question.output
        assert question.output in question.input
        answers.add(number)
    assert answers == {1, 2, 3}


def test_some_label_by_topic_so_that_like_notes_tell(by_topic):
    told = by_liking = 0
    for question in varied(by_topic):
        alike = {n.output for n in question.history if n.input and topic(n.input) in question.input}
        told += alike == {question.output} and len({n.output for n in question.history}) > 1
        by_liking += len(alike) > 1
    assert told > 400 * 0.2
    assert by_liking > 0


def test_who_gives_scores_has_a_usual_one(by_topic):
    near = strays = 0
    for question in varied(by_topic, 1500):
        labels = [note.output for note in question.history if note.input]
        if len(labels) > 5 and all(label.isdigit() for label in labels):
            scores = np.array([int(label) for label in labels])
            near += abs(int(question.output) - np.median(scores)) <= 2
            strays += abs(int(question.output) - np.median(scores)) > 2
    assert near > 5 * strays


def test_where_no_two_texts_are_of_a_topic_varied_choosers_go_by_liking(texts):
    for question in varied(texts, 40):
        assert all(note.input for note in question.history)


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
    voice = asked(TASK, "Write about rain")
    general = asked(prompt="Write a short post about rain.")
    alone = asked(notes=0)
    batch = batch_of(voice, general, alone)
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
