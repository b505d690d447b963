"""Everyday prompts: the measures on texts small enough to reckon by hand, and the command."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from export.evaluation.free_measures import (
    Manners,
    Voices,
    copies,
    is_short,
    loops,
    manner,
    nearest_among,
    words_of,
)
from export.evaluation.free_methods import split, with_notes
from export.evaluation.free_people import DEV, read_folder, read_real
from export.evaluation.free_scores import MEASURES, summary, table
from export.experiments.side_by_side import PROMPTS as PAIRED
from export.free_prompts import PROMPTS, main, prompts_of
from export.tools.echo import echo
from ppedge import Note

PEOPLE = {
    "loud": ["WHAT a day!! We won!!", "I LOVE this cake!! So good!!", "Come over NOW!! Please!!"],
    "low": ["we won i think...", "cake was nice...", "come over if you like... no rush"],
    "plain": ["We won the game today.", "The cake was good.", "Please come over on Sunday."],
}
SAID = {"loud": "That is GREAT news!!", "low": "the bus was late...", "plain": "The bus was late."}


# --- whose hand -------------------------------------------------------------------------------


def test_the_nearest_of_a_random_group_is_reckoned_exactly():
    scores = np.arange(18.0)
    assert nearest_among(scores, 17) == 1
    assert nearest_among(scores, 16) == pytest.approx(math.comb(16, 7) / math.comb(17, 7))
    assert nearest_among(scores, 6) == 0  # six are below, and seven others are wanted
    everybody = np.mean([nearest_among(scores, own) for own in range(18)])
    assert everybody == pytest.approx(1 / 8)


def test_the_nearest_of_a_group_is_what_drawing_groups_says():
    rng = np.random.default_rng(0)
    scores = rng.random(12)
    own = int(np.argsort(scores)[-3])
    others = [i for i in range(12) if i != own]
    drawn = [scores[rng.choice(others, 7, replace=False)].max() < scores[own] for _ in range(4000)]
    assert nearest_among(scores, own) == pytest.approx(np.mean(drawn), abs=0.03)


def test_equals_are_rivals_and_few_people_are_one_group():
    assert nearest_among(np.zeros(9), 0) == 0
    assert nearest_among(np.array([1.0, 0.5, 0.2]), 0) == 1
    assert nearest_among(np.array([1.0, 0.5, 2.0]), 0) == 0


@pytest.mark.parametrize("kind", [Voices, Manners])
def test_people_are_known_by_their_voice(kind):
    judge = kind(PEOPLE)
    for name, text in SAID.items():
        scores = judge.scores(text)
        assert judge.names[int(np.argmax(scores))] == name
        assert nearest_among(judge.scores(""), judge.place(name)) == 0


@pytest.mark.parametrize("kind", [Voices, Manners])
def test_a_note_held_out_is_judged_as_if_it_had_never_been_there(kind):
    note = PEOPLE["low"][1]
    without = kind(PEOPLE | {"low": [PEOPLE["low"][0], PEOPLE["low"][2]]})
    judge = kind(PEOPLE)
    own = judge.place("low")
    held_out, known = judge.held_out("low", note)[own], judge.scores(note)[own]
    assert held_out < known
    # What is rare, and how features are standardised, is still reckoned with the note.
    assert held_out == pytest.approx(without.scores(note)[own], rel=0.25)


def test_a_cosine_is_reckoned_as_documented():
    judge = Voices({"a": ["ab"], "b": ["b"]})
    # Each between line breaks. An n-gram of both is worth 1, of one ln(3/2) + 1; "\n" comes twice.
    rare, twice = math.log(3 / 2) + 1, 1 + math.log(2)
    b = {"\n": twice, "b": 1.0, "b\n": 1.0, "\nb": rare, "\nb\n": rare}
    a = {"\n": twice, "b": 1.0, "b\n": 1.0}
    a |= dict.fromkeys(("a", "ab", "\na", "ab\n", "\nab", "\nab\n"), rare)
    lengths = [math.sqrt(sum(w * w for w in profile.values())) for profile in (a, b)]
    cosine = sum(a.get(gram, 0) * weight for gram, weight in b.items()) / lengths[0] / lengths[1]
    assert judge.scores("b") == pytest.approx([cosine, 1])
    assert judge.scores("") == pytest.approx([0, 0])


def test_a_manner_is_finite_for_any_text():
    lengths = {len(manner(text)) for text in ("a", "...", "😀", "\n", "Ünï. ok", "1 2 3", "a\nb")}
    assert len(lengths) == 1
    assert all(math.isfinite(value) for value in manner("?!"))


# --- what should not be there -----------------------------------------------------------------


def test_eight_words_of_a_note_are_a_copy_whatever_their_case():
    note = "We drove up on the Friday night, and got there late."
    assert copies("he said WE DROVE UP on the friday night and slept", [note])
    assert not copies("we drove up on the friday night", [note])  # seven


def test_what_is_said_in_many_notes_is_no_copy():
    habit = "with lots of love from your old aunt Mary"
    answer = f"Come soon, {habit}"
    others = [f"Number {i}." for i in range(12)]
    assert copies(answer, [f"A. {habit}", f"B. {habit}", *others])
    assert not copies(answer, [f"A. {habit}", f"B. {habit}", f"C. {habit}", *others])
    assert not copies(answer, [f"A. {habit}", f"B. {habit}", *others[:7]])  # a fifth of nine
    assert copies(answer, [f"A. {habit}"])


@pytest.mark.parametrize(
    "text",
    [
        "I like it. I like it. Oh, I like it!",
        "Not a word\nshe said\nNot a\nNot A!\nthen\nnot a",
        "no no no no",
        "The best meals: 1, 2, 3, 4, 5.",
    ],
)
def test_loops_are_found(text):
    assert loops(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "I like it. I like it a lot.",
        "- eggs\n- milk\n- eggs\n- eggs",
        "no no no, not again",
        "1. eggs\n2. milk\n3. tea\n4. call 555 01 23",
    ],
)
def test_what_comes_seldom_is_no_loop(text):
    assert not loops(text)


def test_short_is_under_four_words():
    assert is_short("")
    assert is_short("Yes, I do.")
    assert not is_short("Yes, I do so.")


# --- people, prompts, means -------------------------------------------------------------------


def test_the_packaged_people_can_be_read_and_have_notes_enough():
    people = read_folder(DEV)
    assert len(people) >= 18
    for person in people:
        assert 14 <= len(person.notes) <= 26, person.name
        assert all(8 <= len(text.split()) <= 70 for text in person.texts), person.name
    assert sum(any(note.input for note in person.notes) for person in people) >= 7


@pytest.mark.parametrize("folder", ["heldout", "later"])
def test_held_out_people_are_nobody_of_the_dev_people(folder):
    held_out, dev = read_folder(DEV.parent / folder), read_folder(DEV)
    assert len(held_out) == 8
    assert all(len(person.notes) >= 12 for person in held_out)
    assert not {person.name for person in held_out} & {person.name for person in dev}
    assert not {text for one in held_out for text in one.texts} & {
        text for one in dev for text in one.texts
    }


def test_a_folder_without_people_is_told(tmp_path):
    with pytest.raises(ValueError, match=r"holds no NAME\.jsonl"):
        read_folder(tmp_path)


def test_real_people_without_notes_enough_are_told(lamp_folder, tmp_path):
    (tmp_path / "LaMP_7_style").symlink_to(lamp_folder / "LaMP_6_style")
    with pytest.raises(ValueError, match="0 people have 12 notes; ask for fewer"):
        read_real(tmp_path, 1, 0)


def test_prompts_are_many_and_not_those_of_the_pairs():
    assert len(set(PROMPTS)) == len(PROMPTS) == 30
    assert not set(PROMPTS) & set(PAIRED)
    person = read_folder(DEV)[0]
    assert prompts_of(person, 12, 0)[:5] == prompts_of(person, 5, 0)
    assert prompts_of(person, 12, 0) != prompts_of(person, 12, 1)


def test_an_echo_is_what_the_prompt_has_in_three_words_or_more():
    asked = words_of("Leave a note for the person who delivers the parcels.")
    assert echo(asked, words_of("Do leave a note for the person. I think")) == pytest.approx(6 / 9)
    assert echo(asked, words_of("A note on the parcels, please")) == 0
    assert echo(asked, asked) == 1
    assert echo(asked, []) == echo(["a"], ["a"]) == 0


def test_each_person_weighs_the_same_in_a_mean():
    people = read_folder(DEV)[:2]
    row = {"method": "bare", "kind": "written", "first": 1.0, "total": 2.0}
    row |= dict.fromkeys(MEASURES, 0.0)
    scored = [row | {"person": people[0].name, "voice": 1.0, "nats": None} for _ in range(3)]
    scored.append(row | {"person": people[1].name, "nats": 2.0})
    bare, own = summary(scored, people, seed=0)
    assert bare["voice"]["value"] == 0.5
    assert (bare["voice"]["low"], bare["voice"]["high"]) == (0, 1)
    assert bare["nats"]["value"] == 2  # of the person whose answers have one
    assert own["answers"] == sum(len(person.notes) for person in people)
    shown = table([bare, own])
    assert "| bare | 0.500 (0.000–1.000) |" in shown
    assert "2 people, 4 answers a method" in shown


def test_notes_stand_before_what_is_asked():
    prompt = with_notes("Why?", [Note("One."), Note("Two.")])
    assert prompt == 'Texts that I wrote:\n- "One."\n- "Two."\n\nAnswer as I would write it. Why?'


def test_a_temperature_may_follow_a_row_s_name():
    assert split("bare@0.2") == ("bare", 0.2)
    assert split("soft") == ("soft", None)


@pytest.mark.parametrize("name", ["bear", "bare@", "bare@hot", "bare@-1", "bare@nan"])
def test_other_names_are_usage_errors(name, tmp_path, capsys):
    with pytest.raises(SystemExit) as error:
        main(["--json", str(tmp_path / "free.json"), "--methods", name])
    assert error.value.code == 2
    assert "--methods: " in capsys.readouterr().err


# --- the command ------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path) -> Path:
    people = tmp_path / "people"
    people.mkdir()
    for name in ("loud", "plain"):
        lines = [json.dumps({"text": text}) for text in PEOPLE[name]]
        (people / f"{name}.jsonl").write_text("\n".join(lines))
    return people


def test_the_command_asks_measures_goes_on_and_scores_again(folder, tmp_path, capsys):
    out = tmp_path / "free.json"
    words = ["--json", str(out), "--people", str(folder), "--prompts", "1", "--threads", "1"]
    main([*words, "--methods", "bare@0.2,soft", "--tokens", "6"])
    first = capsys.readouterr()
    assert "4/4 answers, 4 now" in first.err
    assert [line.split(" | ")[0] for line in first.out.splitlines()[4:]] == [
        "| bare@0.2",
        "| soft",
        "| own notes, held out",
    ]
    told = json.loads(out.read_text())
    assert len(told["answers"]) == 4
    for answer in told["answers"]:
        assert answer["nats"] > 0
        assert 0 < answer["first"] <= answer["total"]
        assert -1 <= answer["sense"] <= 1
    assert [path.name for path in tmp_path.iterdir() if "partial" in path.name] == []

    # As if it had been stopped after three answers, in the midst of a line.
    kept = [json.dumps(told["settings"]), *map(json.dumps, told["answers"][:3]), '{"method": "so']
    (tmp_path / "free.json.partial").write_text("\n".join(kept))
    main([*words, "--methods", "bare@0.2,soft", "--tokens", "6"])
    assert "4/4 answers, 1 now" in capsys.readouterr().err
    again = json.loads(out.read_text())["answers"]
    assert [each["text"] for each in again] == [each["text"] for each in told["answers"]]

    (tmp_path / "free.json.partial").write_text("\n".join(kept))
    with pytest.raises(SystemExit, match="other settings; remove it to begin"):
        main([*words, "--methods", "soft", "--tokens", "7"])

    main(["--json", str(tmp_path / "b.json"), "--people", str(folder), "--scored", str(out)])
    assert capsys.readouterr().out.splitlines()[2:4] == first.out.splitlines()[2:4]
    assert json.loads((tmp_path / "b.json").read_text())["answers"] == again


def test_answers_of_strangers_and_other_files_are_told(folder, tmp_path):
    words = ["--json", str(tmp_path / "b.json"), "--people", str(folder), "--scored"]
    stranger = dict.fromkeys(("method", "prompt", "text"), "a") | {"person": "nobody"}
    stranger |= {"seed": 0, "first": 0, "total": 0}
    for answers, said in (([stranger], "nobody is called 'nobody'"), ([{}], "not a file of")):
        (tmp_path / "a.json").write_text(json.dumps({"answers": answers}))
        with pytest.raises(SystemExit, match=said):
            main([*words, str(tmp_path / "a.json")])
