import numpy as np
import pytest

from export.data.lamp import Question, read_questions
from export.data.leave_one_out import (
    FREE,
    REQUESTS,
    leave_one_out,
    neutralise,
    opening,
    writing_prompt,
)
from export.synthetic.style_transfer import in_words_of_task
from ppedge.notes.reader import Note
from tests.export import lamp


def rng(seed=0) -> np.random.Generator:
    return np.random.default_rng(seed)


def question(history=(), task=6, prompt="Generate it") -> Question:
    return Question("q", "ann", task, prompt, "x y", tuple(history))


@pytest.mark.parametrize("form", ["shared", "user", "time"])
@pytest.mark.parametrize("task", [2, 3, 4, 5, 6, 7])
def test_every_task_but_the_first_asks_for_every_note_in_its_own_words(tmp_path, task, form):
    asked = next(read_questions(lamp.write(tmp_path, task, form), "dev"))
    words, _ = lamp.asked(task, 0, 0)
    words = words[: -len(lamp.text(lamp.MATTERS[0], 0))] if task != 7 else words.split(":")[0]
    for index, note in enumerate(asked.history):
        left = leave_one_out(asked, index, general=False, rng=rng())
        assert left.input.startswith(words)
        assert left.input.endswith(note.input)
        assert left.output == note.output
        assert note not in left.history
        assert set(left.history) < set(asked.history)
        assert (left.id, left.user, left.task) == (f"{asked.id}/{index}", asked.user, task)


@pytest.mark.parametrize("general", [False, True])
def test_the_first_task_s_titles_cannot_be_asked_for(tmp_path, general):
    asked = next(read_questions(lamp.write(tmp_path, 1), "dev"))
    assert leave_one_out(asked, 0, general=general, rng=rng()) is None


@pytest.mark.parametrize(("task", "labels"), [(2, ("comedy", "comedy")), (3, ("4", "4"))])
def test_notes_with_the_same_label_stay_and_those_that_were_shown_the_same_go(task, labels):
    notes = [
        Note(labels[0], "A ship sinks."),
        Note(labels[1], "A dog talks."),
        Note("classic", "A ship sinks."),
    ]
    left = leave_one_out(question(notes, task), 0, general=False, rng=rng())
    assert left.output == labels[0]
    assert left.history == (notes[1],)


def test_leave_one_out_asks_for_a_note_and_hides_it_from_the_history():
    notes = [
        Note("fix leak", "It leaked."),
        Note("add test", "No test."),
        Note("fix leak", "Again"),
    ]
    left = leave_one_out(question(notes), 0, general=False, rng=rng())
    assert left.output == "fix leak"
    assert left.input == "Generate a subject for the following commit message: It leaked."
    assert [note.output for note in left.history] == ["add test"]  # the twin is hidden too


def test_a_mail_is_asked_for_as_a_mail():
    email = "Generate a subject for the following email: See you at noon."
    notes = [Note("Re: lunch", "Noon?"), Note("Re: tea", "Four?")]
    left = leave_one_out(question(notes, prompt=email), 0, general=False, rng=rng())
    assert left.input == "Generate a subject for the following email: Noon?"


def test_a_note_without_an_input_cannot_be_asked_for():
    assert leave_one_out(question([Note("fix leak")]), 0, general=False, rng=rng()) is None


def test_a_title_of_one_word_is_too_little_to_ask_for():
    assert leave_one_out(question([Note("fix", "It leaked.")]), 0, general=False, rng=rng()) is None


def test_a_tweet_is_asked_for_by_its_neutral_form():
    notes = [Note("Speaking to @BBPSchools High School today! #AmGov https://t.co/1")]
    left = leave_one_out(question(notes, task=7), 0, general=False, rng=rng())
    assert left.input.endswith(": speaking to bbpschools high school today am gov")


def test_neutral_tweets_lose_links_leading_mentions_case_and_marks():
    tweet = "@ann @bob Thank a Teacher, #ThankATeacher! http://x.y/z It's good."
    assert neutralise(tweet) == "thank a teacher thank ateacher it's good"


def test_a_writing_prompt_names_some_of_the_words_and_no_more():
    text = "Tomorrow Congress debates the transportation budget in Washington"
    prompt = writing_prompt(text, rng(1))
    request, _, about = prompt.rstrip(".").partition(" about ")
    assert request in REQUESTS
    words = about.split(", ")
    assert 2 <= len(words) <= 4
    assert set(words) <= set(text.lower().split())


def test_a_general_prompt_asks_for_the_running_text_and_has_running_texts_as_history():
    notes = [Note("fix leak", "The header leaked. Free it."), Note("add test", "No test so far.")]
    left = leave_one_out(question(notes), 0, general=True, rng=rng())
    assert left.output == "The header leaked. Free it."
    assert left.history == (Note("No test so far."),)


def test_an_opening_ends_with_a_sentence():
    assert opening("One. Two! Three?", 10) == "One. Two!"
    assert opening("A long first sentence. More.", 5) == "A long first sentence."
    assert opening("no end at all") == "no end at all"
    assert opening("v1.2 is out. Yes.", 12) == "v1.2 is out."


BODY = "The header of the file was read twice and so the second reader found nothing at all."


def test_a_general_question_is_known_as_one_whatever_its_words():
    notes = [Note("fix: the leak", f"note: {BODY}"), Note("add test", "No test so far.")]
    for seed in range(40):
        left = leave_one_out(question(notes), 0, general=True, rng=rng(seed))
        assert left.id.endswith(FREE)
        assert not in_words_of_task(left)
        assert left.history == (Note("No test so far."),)
