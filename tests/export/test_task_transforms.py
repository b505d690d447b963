"""Dev users' questions in forms that nobody was trained on."""

import pytest

from export.data.lamp import Question, open_questions, read_questions
from export.experiments.task_transforms import FORMS, WORDS, main, recast
from ppedge.notes.reader import Note
from tests.export import lamp

TWEET = "Thank you to every teacher in Ohio, you make us better #ThankATeacher https://t.co/1"


def question(task, prompt, output, *history):
    return Question("q", "ann", task, prompt, output, history)


def only(form, asked):
    [found] = recast(form, [asked])
    return found


def test_an_article_s_description_is_asked_for_by_its_headline_and_so_are_the_notes():
    asked = question(
        4,
        "Generate a headline for the following article: A ship sank. All are safe.",
        "Ship Sinks",
        Note("Dog Talks", "A dog talked."),
        Note("No Article"),
    )
    found = only("summary", asked)
    assert found.input == "Write a short summary of the article with this headline: Ship Sinks"
    assert found.output == "A ship sank. All are safe."
    assert found.history == (Note("A dog talked.", "Dog Talks"),)


def test_a_long_text_is_cut():
    body = " ".join(map(str, range(100)))
    asked = question(6, f"Generate a subject for the following commit message: {body}", "count")
    assert only("body", asked).output == " ".join(map(str, range(WORDS)))


def test_a_tweet_is_given_by_its_half_and_its_notes_stay():
    asked = question(7, "Paraphrase: x", TWEET, Note("Good morning"))
    found = only("rest", asked)
    given = found.input.removeprefix("Continue: ")
    assert f"{given} {found.output}" == TWEET
    assert abs(len(given.split()) - len(found.output.split())) <= 1
    assert found.history == asked.history


def test_a_tweet_is_given_by_three_of_its_words():
    found = only("mention", question(7, "Paraphrase: x", TWEET))
    words = found.input.partition("mention: ")[2].split(", ")
    assert len(words) == 3
    assert set(words) < {"thank", "every", "teacher", "better", "ateacher"}
    assert found.output == TWEET


@pytest.mark.parametrize("form", ["rest", "mention"])
def test_a_tweet_that_is_too_short_is_not_asked_for(form):
    assert list(recast(form, [question(7, "Paraphrase: x", "So it goes on.")])) == []


def test_the_command_writes_what_the_evaluation_reads(tmp_path, capsys):
    for task in (4, 6, 7):
        lamp.write(tmp_path, task)
    out = tmp_path / "out"
    main(["--data", str(tmp_path), "--out", str(out), "--count", "5"])
    printed = capsys.readouterr().out
    for form, (task, kept_as, _) in FORMS.items():
        folder = out / form
        found = list(open_questions(folder / "dev_questions.json", folder / "dev_outputs.json"))
        asked = {q.id: q for q in read_questions(tmp_path / f"LaMP_{task}_style", "dev")}
        assert f"{len(found)} questions: {folder}" in printed
        assert {q.id for q in found} <= set(asked)
        for q in found:
            assert q.task == kept_as
            [same] = recast(form, [asked[q.id]])
            assert (q.user, q.input, q.output) == (same.user, same.input, same.output)
            assert [(n.input, n.output) for n in q.history] == [
                (n.input, n.output) for n in same.history
            ]


@pytest.mark.parametrize(
    ("words", "said", "code"),
    [
        (["--data", "nowhere", "--out", "x"], "nowhere", 1),
        (["--data", ".", "--out", "x", "--count", "0"], "--count", 2),
        (["--data", ".", "--out", "x", "--seed", "-1"], "--seed", 2),
    ],
)
def test_what_is_wrong_is_said_in_a_line(tmp_path, monkeypatch, capsys, words, said, code):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as found:
        main(words)
    lines = str(found.value) if code == 1 else capsys.readouterr().err
    assert (1 if isinstance(found.value.code, str) else found.value.code) == code
    assert said in lines.strip().splitlines()[-1]
    assert not (tmp_path / "x").exists()
