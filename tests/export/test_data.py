import gzip
import json

import numpy as np
import pytest

from export.data import DataError, Question, read_questions, swap_histories
from export.examples import REQUESTS, leave_one_out, neutralise, opening, writing_prompt
from ppedge.history import Note

PROFILES = {
    1: {"title": "Parsing trees", "abstract": ""},
    2: {"description": "A ship sinks.", "tag": "true story"},
    3: {"text": "Dull.", "score": "2"},
    4: {"text": "A cat was found.", "title": "Cat Found"},
    5: {"title": "On Trees", "abstract": "We parse."},
    6: {"text": "It leaked.", "title": "fix leak"},
    7: {"text": "Go #Mets!"},
}
NOTES = {
    1: ("", "Parsing trees"),
    2: ("A ship sinks.", "true story"),
    3: ("Dull.", "2"),
    4: ("A cat was found.", "Cat Found"),
    5: ("We parse.", "On Trees"),
    6: ("It leaked.", "fix leak"),
    7: ("", "Go #Mets!"),
}


def question(history=(), task=6, user="ann", output="x y") -> Question:
    return Question("q", user, task, "Generate it", output, tuple(history))


@pytest.mark.parametrize("task", sorted(PROFILES))
@pytest.mark.parametrize("packed", [True, False])
def test_every_task_s_profile_becomes_notes(tmp_path, task, packed):
    questions = [{"id": "7", "user_id": 3, "input": "Do it", "profile": [PROFILES[task]]}]
    outputs = {"task": f"LaMP_{task}", "golds": [{"id": "7", "output": "done"}]}
    for kind, value in (("questions", questions), ("outputs", outputs)):
        opener = gzip.open if packed else open
        name = f"dev_{kind}.json" + (".gz" if packed else "")
        with opener(tmp_path / name, "wt") as file:
            json.dump(value, file)
    [read] = read_questions(tmp_path, "dev")
    assert (read.id, read.user, read.task, read.input, read.output) == (
        "7",
        "3",
        task,
        "Do it",
        "done",
    )
    assert [(note.input, note.output) for note in read.history] == [NOTES[task]]


def test_a_question_without_gold_is_an_error(tmp_path):
    (tmp_path / "dev_questions.json").write_text('[{"id": "1", "input": "a", "profile": []}]')
    (tmp_path / "dev_outputs.json").write_text('{"task": "LaMP_6", "golds": []}')
    with pytest.raises(DataError, match=r"question 1 \(id '1'\) has no gold output"):
        list(read_questions(tmp_path, "dev"))


def test_a_missing_file_names_both_forms_of_it(tmp_path):
    with pytest.raises(DataError, match=r"dev_outputs\.json nor dev_outputs\.json\.gz"):
        list(read_questions(tmp_path, "dev"))


def test_leave_one_out_asks_for_a_note_and_hides_it_from_the_history():
    notes = [
        Note("fix leak", "It leaked."),
        Note("add test", "No test."),
        Note("fix leak", "Again"),
    ]
    left = leave_one_out(question(notes), 0, general=False, rng=np.random.default_rng(0))
    assert left.output == "fix leak"
    assert left.input == "Generate a subject for the following commit message: It leaked."
    assert [note.output for note in left.history] == ["add test"]  # the twin is hidden too


def test_a_note_without_an_input_cannot_be_asked_for():
    rng = np.random.default_rng(0)
    assert leave_one_out(question([Note("fix leak")]), 0, general=False, rng=rng) is None


def test_a_tweet_is_asked_for_by_its_neutral_form():
    notes = [Note("Speaking to @BBPSchools High School today! #AmGov https://t.co/1")]
    rng = np.random.default_rng(0)
    left = leave_one_out(question(notes, task=7), 0, general=False, rng=rng)
    assert left.input.endswith(": speaking to bbpschools high school today am gov")


def test_neutral_tweets_lose_links_leading_mentions_case_and_marks():
    tweet = "@ann @bob Thank a Teacher, #ThankATeacher! http://x.y/z It's good."
    assert neutralise(tweet) == "thank a teacher thank ateacher it's good"


def test_a_writing_prompt_names_some_of_the_words_and_no_more():
    text = "Tomorrow Congress debates the transportation budget in Washington"
    prompt = writing_prompt(text, np.random.default_rng(1))
    request, _, about = prompt.rstrip(".").partition(" about ")
    assert request in REQUESTS
    words = about.split(", ")
    assert 2 <= len(words) <= 4
    assert set(words) <= set(text.lower().split())


def test_a_general_prompt_asks_for_the_running_text_and_has_running_texts_as_history():
    notes = [Note("fix leak", "The header leaked. Free it."), Note("add test", "No test so far.")]
    rng = np.random.default_rng(0)
    left = leave_one_out(question(notes), 0, general=True, rng=rng)
    assert left.output == "The header leaked. Free it."
    assert left.history == (Note("No test so far."),)


def test_an_opening_ends_with_a_sentence():
    assert opening("One. Two! Three?", 10) == "One. Two!"
    assert opening("A long first sentence. More.", 5) == "A long first sentence."
    assert opening("no end at all") == "no end at all"
    assert opening("v1.2 is out. Yes.", 12) == "v1.2 is out."


def test_swapped_histories_are_of_another_user_of_the_same_task():
    questions = [
        question([Note(f"note of {user} {task}")], task, user) for task in (4, 6) for user in "abc"
    ]
    for own, theirs in zip(questions, swap_histories(questions, 0), strict=True):
        [note] = theirs
        assert note.output.endswith(str(own.task))
        assert f"of {own.user} " not in note.output


def test_swapping_needs_a_second_user():
    with pytest.raises(ValueError, match="nobody to swap with"):
        swap_histories([question(), question()], 0)
