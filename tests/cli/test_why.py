"""`ppedge why`: which notes bear on an answer, for people and for programs."""

from __future__ import annotations

import json
import os
import re
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ppedge.blend import Blend
from ppedge.cli.why import _fitted
from ppedge.explanation import Explanation, without_note
from ppedge.llm.sampling import Sampling
from ppedge.notes.reader import Note
from ppedge.personalizer import Personalizer
from ppedge.store.persona import Persona, handle
from tests.command import Command

PROMPT = "write about rain"
NOTES: list[dict[str, Any]] = [
    {"text": "the bread is out. it is fine.", "id": "b1", "time": "2024-05-01"},
    {"input": "how is the bicycle?", "output": "the bicycle sulks."},
    {"text": "no rain today — we waited 🧀"},
    {"text": "a secret about the kettle", "id": "k1"},
]
HOSTILE = {
    "escapes": "\x1b[2J\x1b]0;owned\x07red",
    "newlines": "one\ntwo\r\nthree\u2028four\x85five",
    "very long": "word " * 20_000,
    "right to left": "שלום \u202egnorw\u202c مرحبا بالعالم",
    "wide": "面包" * 60,
    "marks": "a" + "\u0301" * 5_000,
    "joined emoji": "👩\u200d🍳" * 40,
}


@pytest.fixture
def history(tmp_path: Path) -> Path:
    return written(tmp_path / "notes.jsonl", NOTES)


def written(path: Path, notes: list[dict[str, Any]]) -> Path:
    text = "".join(json.dumps(note, ensure_ascii=False) + "\n" for note in notes)
    path.write_text(text, encoding="utf-8")
    return path


def columns(line: str) -> int:
    """By a rule of its own: what takes no room, what takes two, and one for the rest."""
    return sum(
        0 if unicodedata.combining(c) or c == "\u200d" else 2 if _is_wide(c) else 1 for c in line
    )


def _is_wide(char: str) -> bool:
    return unicodedata.east_asian_width(char) in ("W", "F")


# --- the table ---


def test_turns_come_first_in_order_then_the_heaviest_then_nobody(
    ppedge: Command, history: Path
) -> None:
    report = ppedge.json("why", "--history", history, PROMPT)
    rows = [
        line.split()
        for line in ppedge.good("why", "--history", history, PROMPT).splitlines()
        if line.startswith(("turn ", "note ", "null "))
    ]
    marks = [row[0] for row in rows]
    n_turns = len(report["turns"])
    assert marks == ["turn"] * n_turns + ["note"] * len(NOTES) + ["null"]
    expected = [*report["turns"], *report["heaviest"]]
    assert [row[1] for row in rows[:-1]] == [f"{note['weight']:.1%}" for note in expected]
    for row, note in zip(rows, expected, strict=False):
        assert note["name"].startswith(row[2].removesuffix("…"))
    assert rows[-1][1] == f"{report['null_weight']:.1%}"


def test_it_says_what_bears_on_the_answer(ppedge: Command, history: Path) -> None:
    usual = flat(ppedge.good("why", "--history", history, PROMPT))
    assert "earlier turns, and bear on the answer:" in usual
    assert "by the plug's attention. This bears on the answer:" in usual
    turns = flat(ppedge.good("why", "--history", history, "--without", "soft", PROMPT))
    assert "This does not bear on the answer, as it was asked for; by default it does" in turns
    none = flat(ppedge.good("why", "--history", history, "--without", "turns", PROMPT))
    assert "No note stands before the prompt" in none
    assert "turn  " not in none


def flat(text: str) -> str:
    return " ".join(text.split())


def test_no_more_than_so_many_are_named(ppedge: Command, history: Path) -> None:
    shown = ppedge.good("why", "--history", history, "--top", "2", PROMPT)
    assert sum(line.startswith("note ") for line in shown.splitlines()) == 2
    assert ppedge.json("why", "--history", history, "--top", "0", PROMPT)["heaviest"] == []


def test_without_a_plug_there_is_no_attention(ppedge: Command, history: Path) -> None:
    words = ("why", "--history", history, "--plug", "none", PROMPT)
    assert "Without a plug there is no attention" in flat(ppedge.good(*words))
    report = ppedge.json(*words)
    assert (report["heaviest"], report["null_weight"]) == ([], None)
    assert {note["weight"] for note in report["turns"]} == {None}
    assert report["bears"] == {"turns": True, "attention": False, "manner": True}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE.keys())
@pytest.mark.parametrize("width", [20, 80])
def test_no_note_commands_the_terminal_or_leaves_its_line(
    ppedge: Command, tmp_path: Path, text: str, width: int
) -> None:
    notes = [{"text": text}, {"text": "tame", "id": f"id {text[:400]}"}]
    history = written(tmp_path / "notes.jsonl", notes)
    shown = ppedge.good("why", "--history", history, PROMPT, COLUMNS=str(width))
    rows = re.findall(r"^(?:turn|note) +[\d.]+% ", shown, re.M)
    assert len(rows) in (3, 4)  # The long one may leave no room for the other turn.
    for line in shown.removesuffix("\n").split("\n"):
        assert columns(line) <= width, line
        assert all(c.isprintable() or c == "\u200d" for c in line), line


@pytest.mark.parametrize("width", ["20", "33", "80", "200"])
def test_no_line_is_wider_than_the_terminal(ppedge: Command, history: Path, width: str) -> None:
    shown = ppedge.good("why", "--history", history, PROMPT, COLUMNS=width)
    assert max(map(columns, shown.splitlines())) <= int(width)
    assert "the" in shown


def test_text_is_cut_where_the_line_ends() -> None:
    assert _fitted("twelve chars", 12) == "twelve chars"
    assert _fitted("twelve chars", 11) == "twelve cha…"
    assert _fitted("a\x1b[0mb\n", 20) == "a?[0mb?"
    assert _fitted("面包面包", 8) == "面包面包"
    assert _fitted("面包面包", 6) == "面包…"
    assert columns(_fitted("a" + "\u0301" * 9999, 10)) <= 10


# --- for programs ---


def test_json_is_one_object_with_all_of_it(ppedge: Command, history: Path) -> None:
    report = ppedge.json("why", "--history", history, PROMPT)
    assert list(report) == [
        *("prompt", "turns", "heaviest", "null_weight", "bears", "notes", "manner_notes"),
        *("answers", "model", "plug"),
    ]
    assert (report["prompt"], report["notes"], report["answers"]) == (PROMPT, len(NOTES), None)
    weights = [note["weight"] for note in report["heaviest"]]
    assert weights == sorted(weights, reverse=True)
    assert sum(weights) + report["null_weight"] == pytest.approx(1, abs=1e-5)
    by_name = {note["name"]: note["weight"] for note in report["heaviest"]}
    assert all(by_name[note["name"]] == note["weight"] for note in report["turns"])
    assert {note.get("id") for note in report["turns"]} <= {"b1", "k1", None}


def test_what_it_counts_is_what_personalize_counts(ppedge: Command, history: Path) -> None:
    words = ("--history", history, "--seed", "3", "--max-tokens", "4", PROMPT)
    answer, why = ppedge.json("personalize", *words), ppedge.json("why", *words)
    assert len(why["turns"]) == answer["turns"]
    assert why["null_weight"] == answer["null_weight"]
    heaviest = [(note["output"], note["weight"]) for note in answer["heaviest"]]
    assert [(n["output"], n["weight"]) for n in why["heaviest"]][: len(heaviest)] == heaviest


# --- whose notes ---


def test_an_empty_history_is_nobody(ppedge: Command, tmp_path: Path) -> None:
    history = written(tmp_path / "none.jsonl", [])
    shown = ppedge.good("why", "--history", history, PROMPT)
    assert "The history is empty: no note bears on the answer." in flat(shown)
    assert "null 100.0%" in shown
    report = ppedge.json("why", "--history", history, "--answers", "--max-tokens", "5", PROMPT)
    assert (report["turns"], report["heaviest"], report["null_weight"]) == ([], [], 1.0)
    assert report["answers"]["without_note"] is None


def test_a_muted_note_is_never_shown(
    ppedge: Command, files: tuple[Path, Path], history: Path
) -> None:
    ppedge.good("notes", "add", history)
    assert "kettle" in ppedge.good("why", "--top", "99", PROMPT)
    [folder] = (ppedge.home / "personas").iterdir()
    with Persona.open(folder) as persona:
        persona.mute("k1")
    for more in ((), ("--with", "soft", "--with", "ngrams")):
        words = ("why", "--top", "99", *more, PROMPT)
        assert "kettle" not in ppedge.good(*words, COLUMNS="300")
        report = json.dumps(ppedge.json(*words))
        assert "k1" not in report
        assert "sulks" in report


def test_without_any_notes_it_says_how_to_give_some(ppedge: Command) -> None:
    message = ppedge.error("why", PROMPT, code=2)
    assert message.endswith(
        "no notes: give --history FILE or keep some with `ppedge notes add FILE`"
    )


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (("--persona", "x", "--history", "y", PROMPT), "not both"),
        (("--history", "y", "  "), "the prompt is blank"),
        (("--history", "-", "-"), "cannot both come from stdin"),
        (("--history", "y", "--top", "-1", PROMPT), "--top"),
        (("--history", "y", "--with", "magic", PROMPT), "--with"),
    ],
)
def test_wrong_usage_is_one_line(ppedge: Command, words: tuple[str, ...], what: str) -> None:
    assert what in ppedge.error("why", *words, code=2)


def test_notes_from_stdin_leave_nothing_behind(
    ppedge: Command, history: Path, tmp_path: Path
) -> None:
    scratch = tmp_path / "tmp"
    scratch.mkdir()
    from_file = ppedge.json("why", "--history", history, PROMPT)
    words = ("why", "--history", "-", "--answers", "--max-tokens", "4", PROMPT)
    report = ppedge.json(*words, stdin=history.read_bytes(), TMPDIR=str(scratch))
    assert report["turns"] == from_file["turns"]
    assert list(scratch.iterdir()) == []


# --- answers with and without ---


def test_three_answers_by_one_seed(ppedge: Command, history: Path) -> None:
    short = ("--history", history, "--max-tokens", "12", "--seed", "3")
    report = ppedge.json("why", *short, "--answers", PROMPT)
    answers = report["answers"]
    assert answers["seed"] == 3
    assert answers["persona"] == ppedge.json("personalize", *short, PROMPT)["text"]
    bare = ppedge.json("personalize", *short, "--no-persona", PROMPT)
    assert answers["no_persona"] == bare["text"]
    heaviest = max(report["turns"], key=lambda note: note["weight"])
    assert answers["without_note"]["name"] == heaviest["name"]
    shown = ppedge.good("why", *short, "--answers", PROMPT, COLUMNS="20")
    for title in ("With the persona (seed 3):", "Without the persona (seed 3):", "Without note "):
        assert f"\n\n{title}" in shown
    assert shown.endswith(f"{answers['without_note']['text']}\n")


def test_the_left_out_note_is_left_out_as_if_it_had_never_been(
    ppedge: Command, history: Path, tmp_path: Path
) -> None:
    short = ("--max-tokens", "24", "--seed", "5")
    for more in ((), ("--with", "soft"), ("--plug", "none")):
        words = ("why", "--history", history, *short, *more, "--answers", PROMPT)
        left_out = ppedge.json(*words)["answers"]["without_note"]
        outputs = [note for note in NOTES if name_of(note) != left_out["name"]]
        assert len(outputs) == len(NOTES) - 1
        rest = written(tmp_path / "rest.jsonl", outputs)
        alone = ppedge.json("personalize", "--history", rest, *short, *more, PROMPT)
        assert left_out["text"] == alone["text"]
    assert ppedge.json("why", "--history", history, PROMPT)["notes"] == len(NOTES)


def name_of(note: dict[str, Any]) -> str:
    return handle(
        Note(note.get("output") or note["text"], note.get("input", ""), note.get("id", ""))
    )


def test_a_drawn_seed_is_told(ppedge: Command, history: Path) -> None:
    words = ("--history", history, "--max-tokens", "8", PROMPT)
    answers = ppedge.json("why", "--answers", *words)["answers"]
    again = ppedge.json("personalize", "--seed", str(answers["seed"]), *words)
    assert again["text"] == answers["persona"]


# --- from Python ---


@pytest.fixture(scope="module")
def personalizer(files: tuple[Path, Path]) -> Iterator[Personalizer]:
    with Personalizer.open(*files, n_threads=1) as opened:
        yield opened


@pytest.fixture
def anna(personalizer: Personalizer, tmp_path: Path) -> Iterator[Persona]:
    notes = [Note(f"note {i} about bread", id=f"a{i}") for i in range(12)]
    with personalizer.persona(tmp_path / "anna") as persona:
        persona.add(notes, personalizer.plug.encode_notes)
        yield persona


def test_turns_are_the_notes_that_the_model_is_given(
    personalizer: Personalizer, anna: Persona
) -> None:
    found = personalizer.explain(PROMPT, anna, heaviest=3)
    manner = personalizer._manner(anna, Blend())
    prefix = personalizer._prompting._prefix(anna, manner, Blend(), PROMPT)
    assert prefix
    assert [note.output for note, _ in found.turns] == [turn.answer for turn in prefix.turns]
    assert 0 < len(found.turns) < 12  # Some had to make way.
    assert len(found.heaviest) == 3
    assert found.n_manner == found.n_notes == 12


def test_which_note_bears_most(personalizer: Personalizer, anna: Persona) -> None:
    turned = personalizer.explain(PROMPT, anna, blend=Blend(soft=False))
    assert turned.foremost == max(turned.turns, key=lambda turn: turn[1] or 0)[0]
    usual = personalizer.explain(PROMPT, anna)
    assert usual.attention
    assert usual.foremost == usual.heaviest[0][0]
    neither = personalizer.explain(PROMPT, anna, blend=Blend(turns=0, style=0, rules=False))
    assert (neither.turns, neither.n_manner) == ([], 0)
    assert Explanation([], [], None, False, 0, 0).foremost is None


def test_pins_and_mutes_go_along_where_attention_bears(
    personalizer: Personalizer, anna: Persona
) -> None:
    anna.pin("a1")
    anna.mute("a2")
    anna.mute("a3")
    hash_before = anna.store_hash()
    plug = personalizer.plug
    with without_note(anna, anna.get("a3"), plug, attention=True) as other:
        assert len(other) == 11
        assert other.marks() == {"a1": 1, "a2": -1}
        blend = Blend(soft=True)
        text = personalizer.stream(PROMPT, other, Sampling(max_tokens=5, seed=1), blend=blend)
        assert text.read()
        folder = other.path
    with without_note(anna, anna.get("a1"), plug, attention=False) as other:
        assert [note.id for note in other.notes()] == ["a0", *(f"a{i}" for i in range(4, 12))]
    assert not os.path.lexists(folder)
    assert anna.store_hash() == hash_before
