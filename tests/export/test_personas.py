"""Synthetic personas, the plain texts they are made of, and the examples drawn from them."""

import json
import re
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest

from export.corpus import clean
from export.data.lamp import open_questions, swap_histories
from export.free_prompts import PROMPTS
from export.synthetic import dataset
from export.synthetic.corpus import MOST, REPEATS, CorpusText, prompts, read_corpus
from export.synthetic.dataset import TASK, SyntheticPersonas, dev_questions
from export.synthetic.personas import WORDS, SyntheticPersona, draw_persona, sentences
from export.tools.json_files import DataError
from export.training.sampler import Sampler

PLAIN = "I love the rain, and it is good for the garden. It's quiet. Do you like it?"


@pytest.fixture(scope="module")
def texts() -> list[CorpusText]:
    return [
        CorpusText(
            f"Write about thing {i}.", f"thing {i}", f"Thing number {i} is here, and it is good."
        )
        for i in range(240)
    ]


def say(text=PLAIN, seed=0, **habits):
    return SyntheticPersona(**habits).say(text, np.random.default_rng(seed))


def test_a_plain_voice_says_what_it_is_given():
    assert say() == PLAIN


@pytest.mark.parametrize(
    ("habits", "said"),
    [
        ({"case": "lower"}, PLAIN.lower()),
        ({"case": "upper", "sentences": 1}, "I LOVE THE RAIN, AND IT IS GOOD FOR THE GARDEN."),
        ({"case": "title", "sentences": 1}, "I Love The Rain, And It Is Good For The Garden."),
        (
            {"end": "!", "sentences": 3},
            "I love the rain, and it is good for the garden! It's quiet! Do you like it?",
        ),
        (
            {"comma": " —", "conjunction": "&", "sentences": 1},
            "I love the rain — & it is good for the garden.",
        ),
        (
            {"opener": "Honestly,", "closer": "— Ann", "closer_line": True, "sentences": 1},
            "Honestly, I love the rain, and it is good for the garden.\n— Ann",
        ),
        (
            {"end": "", "join": "\n", "closer": "Peace.", "bullet": "- ", "sentences": 2},
            "- I love the rain, and it is good for the garden\n- It's quiet\nPeace.",
        ),
        (
            {"words": {"it is": "it's"}, "sentences": 1},
            "I love the rain, and it's good for the garden.",
        ),
        ({"clipped": True, "sentences": 2}, "Love the rain, and it is good for the garden. Quiet."),
        ({"filler": "you know", "emoji": ("🌧",), "sentences": 1, "prefix": "Re: "}, None),
    ],
)
def test_each_habit_changes_how_and_not_what(habits, said):
    found = say(**habits)
    if said is not None:
        assert found == said
    else:
        assert found.startswith("Re: ")
        assert found.endswith(" 🌧")


def test_an_opener_is_followed_in_lower_case_unless_it_ends_a_sentence():
    assert say("The sea is near.", opener="Well,") == "Well, the sea is near."
    assert say("The sea is near.", opener="PSA:") == "PSA: The sea is near."
    assert say("I'm near.", opener="Well,") == "Well, I'm near."


def test_a_title_takes_case_prefix_and_loud_ends():
    persona = SyntheticPersona(case="lower", prefix="Re: ", end="!")
    assert persona.title("The garden", np.random.default_rng(0)) == "re: the garden!"
    assert SyntheticPersona().title("mb/x: mend", np.random.default_rng(0)) == "mb/x: mend"


def test_drawn_voices_are_reproducible_and_differ():
    personas = [draw_persona(np.random.default_rng(seed)) for seed in range(200)]
    assert personas == [draw_persona(np.random.default_rng(seed)) for seed in range(200)]
    said = {persona.say(PLAIN, np.random.default_rng(0)) for persona in personas}
    assert len(said) > 150
    assert sum(persona.case == "as it is" and persona.end == "." for persona in personas) >= 5
    assert all("{" not in persona.opener + persona.closer + persona.prefix for persona in personas)


def test_sentences_are_split_at_their_ends_and_nowhere_else():
    assert sentences(" One, two.  Three!\nFour? ") == ["One, two.", "Three!", "Four?"]
    assert sentences("No end") == ["No end"]


def test_a_made_up_person_s_notes_share_a_voice_and_not_the_answer(texts):
    synthetic = SyntheticPersonas(texts)
    for seed in range(60):
        question = synthetic.draw(np.random.default_rng(seed))
        assert question.task == TASK
        assert question.output not in [note.output for note in question.history]
        assert question == synthetic.draw(np.random.default_rng(seed))


def test_with_no_notes_the_model_s_own_words_are_asked_for(texts):
    synthetic = SyntheticPersonas(texts)
    drawn = [synthetic.draw(np.random.default_rng(seed)) for seed in range(300)]
    alone = [q for q in drawn if not q.history]
    assert 5 <= len(alone) <= 40
    own = {text.text for text in texts} | {text.topic.capitalize() for text in texts}
    assert all(q.output in own for q in alone)


def test_dev_voices_and_texts_are_never_trained_on(texts):
    dev = dev_questions(texts, 12, seed=0)
    assert dev == dev_questions(texts, 12, seed=0)
    trained, held = SyntheticPersonas(texts).texts, SyntheticPersonas(texts, dev=True).texts
    assert not set(trained) & set(held)
    assert len(trained) + len(held) == len(texts)
    assert all(own != other for own, other in zip(dev, swap_histories(dev, 0), strict=True))


def test_the_sampler_mixes_voices_in_and_keeps_a_note_of_each(texts):
    sampler = Sampler([], 16, 0, shares={TASK: 1.0}, synthetic=SyntheticPersonas(texts))
    for step in range(12):
        batch = sampler.step(step)
        assert {q.task for q in batch.questions} == {TASK}
        for question, kept in zip(batch.questions, batch.histories, strict=True):
            assert bool(kept) == bool(question.history)


def test_prompts_are_forms_with_a_topic_once_and_requests_several_times():
    asked = prompts(MOST, seed=1)
    requests = {prompt for prompt, _ in WORDS["requests"]}
    assert len(requests) == len(WORDS["requests"]) > 100
    times = Counter(prompt for prompt, _ in asked)
    assert all(count == (REPEATS if p in requests else 1) for p, count in times.items())
    assert all(topic in prompt for prompt, topic in asked if prompt not in requests)
    assert asked[:500] == prompts(500, seed=1) != prompts(500, seed=2)


def test_no_prompt_that_answers_are_measured_on_is_trained_on():
    """Nor one that says the same in nearly the same words."""

    def content(prompt):
        return {w for w in re.findall(r"[a-z]+", prompt.lower()) if len(w) > 3}

    for trained, _ in set(prompts(MOST, seed=0)):
        for measured in PROMPTS:
            both = content(trained) & content(measured)
            assert len(both) < 0.75 * max(len(content(measured)), 2), (trained, measured)
    with pytest.raises(ValueError, match=f"{MOST + 1} prompts cannot be made, only 1 to {MOST}"):
        prompts(MOST + 1, seed=0)


@pytest.mark.parametrize(
    ("answer", "kept"),
    [
        (' "The rain is here. It will stay for a', "The rain is here."),
        ("**Title**: The rain", None),
        ("Dear [Name], I write to you.", None),
        ("As an AI language model, I have none.", None),
        ("Too short.", None),
        ("There is no end to this", None),
        ("One line of words.\nAnother line of words.", "One line of words. Another line of words."),
    ],
)
def test_what_is_kept_of_an_answer_is_running_text(answer, kept):
    assert clean(answer) == kept


def test_a_file_of_too_few_or_no_texts_is_refused_in_one_line(tmp_path, texts):
    path = tmp_path / "corpus.json"
    path.write_text(json.dumps({"texts": [vars(text) for text in texts]}))
    assert read_corpus(path) == texts
    path.write_text(json.dumps({"texts": [vars(text) for text in texts[:9]]}))
    with pytest.raises(DataError, match="9 texts are too few"):
        read_corpus(path)
    path.write_text("[1]")
    with pytest.raises(DataError, match=r"corpus\.json: not a file of export\.corpus"):
        read_corpus(path)


def test_the_command_asks_the_model_and_writes_what_it_said(tmp_path):
    from ppedge.defaults import find_model

    out = tmp_path / "corpus.json"
    words = [sys.executable, "-m", "export.corpus", "--llm", str(find_model()), "--out", str(out)]
    done = subprocess.run([*words, "--count", "4"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert f"of 4 prompts have an answer in plain text: {out}" in done.stdout
    found = [CorpusText(**each) for each in json.loads(out.read_text())["texts"]]
    assert {text.prompt for text in found} <= {prompt for prompt, _ in prompts(4, seed=0)}
    done = subprocess.run([*words, "--count", "0"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.strip().endswith(f"--count must be from 1 to {MOST}, not 0")


def test_dev_voices_are_written_as_questions_that_evaluation_reads(tmp_path, texts, capsys):
    path, out = tmp_path / "corpus.json", tmp_path / "personas"
    path.write_text(json.dumps({"texts": [vars(text) for text in texts]}))
    dataset.main(["--corpus", str(path), "--out", str(out), "--count", "6"])
    assert "6 questions" in capsys.readouterr().out
    read = list(open_questions(out / "dev_questions.json", out / "dev_outputs.json"))
    drawn = dev_questions(texts, 6, seed=0)
    assert [(q.user, q.input, q.output) for q in read] == [
        (q.user, q.input, q.output) for q in drawn
    ]
    assert [[note.output for note in q.history] for q in read] == [
        [note.output for note in q.history] for q in drawn
    ]
    assert {q.task for q in read} == {7}
