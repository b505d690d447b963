"""Scopes, pinned and muted notes, and incognito, by the installed command."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from ppedge.blend import Blend
from ppedge.llm.sampling import Sampling
from ppedge.personalizer import Personalizer
from ppedge.store.persona import Persona, Scope
from tests.command import Command

PROMPT = "write about rain"
COLD = ("--temperature", "0", "--max-tokens", "8", "--seed", "1")
NOTES: list[dict[str, Any]] = [
    {
        "text": f"{word} {i} is what i say about it",
        "id": f"n{i}",
        "time": f"2025-0{1 + i % 6}-10",
        "tags": ["work" if i % 2 else "home"],
        "source": f"vault/{'Journal' if i % 3 else 'Mail'}/{i}.md",
    }
    for i, word in enumerate(["rain", "bread", "bikes", "kettles", "trains", "gardens"] * 3)
]


def written(path: Path, notes: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(note) + "\n" for note in notes))
    return path


@pytest.fixture
def kept(ppedge: Command, tmp_path: Path) -> Command:
    ppedge.good("notes", "add", written(tmp_path / "all.jsonl", NOTES))
    return ppedge


def ids(ppedge: Command, *arguments: str) -> list[str]:
    out = ppedge.good("notes", "list", "--json", *arguments)
    return [json.loads(line)["id"] for line in out.splitlines()]


# --- scopes ---


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        (("--only", "tag:work"), lambda n: n["tags"] == ["work"]),
        (("--only", "tag:#WORK", "--only", "tag:home"), lambda n: True),
        (("--only", "folder:journal"), lambda n: "Journal" in n["source"]),
        (
            ("--only", "folder:Mail", "--only", "tag:home"),
            lambda n: "Mail" in n["source"] and n["tags"] == ["home"],
        ),
        (("--since", "2025-03-10"), lambda n: n["time"] >= "2025-03-10"),
        (("--until", "2025-03-10"), lambda n: n["time"] <= "2025-03-10"),
        (
            ("--since", "2025-02-01", "--until", "2025-02-28T00:00:00Z"),
            lambda n: n["time"] == "2025-02-10",
        ),
    ],
)
def test_the_list_and_the_answer_are_those_of_the_scoped_notes(
    kept: Command, tmp_path: Path, options: tuple[str, ...], wanted: Any
) -> None:
    some = [note for note in NOTES if wanted(note)]
    assert ids(kept, *options) == [note["id"] for note in some]
    alone = written(tmp_path / "some.jsonl", some)
    ours = kept.json("personalize", *options, *COLD, PROMPT)
    theirs = kept.json("personalize", "--history", alone, *COLD, PROMPT)
    assert (ours["text"], ours["notes"], ours["turns"]) == (
        theirs["text"],
        len(some),
        theirs["turns"],
    )
    assert {each["id"] for each in ours["heaviest"]} <= {note["id"] for note in some}
    why = kept.json("why", *options, PROMPT)
    assert why["notes"] == len(some)
    shown = {each["id"] for each in [*why["turns"], *why["heaviest"]]}
    assert shown <= {note["id"] for note in some}


def test_a_history_takes_a_scope_too_and_chat_as_well(kept: Command, tmp_path: Path) -> None:
    options = ("--history", str(tmp_path / "all.jsonl"), "--only", "tag:work")
    asked = kept.json("personalize", *options, *COLD, PROMPT)
    assert asked["notes"] == 9
    said = kept.good("chat", *options, *COLD, stdin=f"{PROMPT}\n".encode())
    assert said == asked["text"] + "\n"


def test_a_scope_never_takes_what_was_kept_of_another(
    files: tuple[Path, Path], tmp_path: Path, kept: Command
) -> None:
    model, plug = files
    folder = kept.home / "personas" / "default"
    work, home = Scope(tags=("work",)), Scope(tags=("home",))

    def answers() -> list[str]:
        """Of one process, which finds what earlier ones kept."""
        with Personalizer.open(model, plug) as personalizer, personalizer.persona(folder) as whole:
            sampling, blend = Sampling(max_tokens=6, temperature=0), Blend(soft=True, ngrams=True)
            views = [whole, whole.scoped(work), whole.scoped(home), whole, whole.scoped(work)]
            for view in views[:3]:
                said = personalizer.explain(PROMPT, view)
                assert (
                    all(
                        ("work" if view is views[1] else "home") in note.tags
                        for note, _ in said.turns
                    )
                    or view is whole
                )
            return [
                personalizer.stream(PROMPT, view, sampling, blend=blend).read() for view in views
            ]

    first = answers()
    assert len(list(folder.glob("prefix.*"))) == 3
    assert first[0] == first[3]
    assert first[1] == first[4]
    assert answers() == first
    with Persona.open(folder) as store:
        assert store.verify() == []


def test_a_scope_without_notes_is_an_error_of_one_line(kept: Command) -> None:
    for command in ("personalize", "why"):
        said = kept.error(command, "--only", "tag:nothing", PROMPT)
        assert "none of 18 notes is in that scope; `ppedge notes list --json` shows" in said
    assert ids(kept, "--only", "tag:nothing") == []


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--only", "work"), '"work" is no scope; write tag:NAME or folder:NAME'),
        (("--only", "tag:"), "is no scope"),
        (("--since", "yesterday"), 'field "time" is "yesterday"'),
        (("--until", "2025-02-30"), 'field "time" is "2025-02-30"'),
        (("--until", "0000-12-31"), 'field "time" is "0000-12-31"'),
        (("--since", "2025-02-01", "--until", "2025-01-01"), "no time lies between"),
    ],
)
def test_a_bad_scope_is_wrong_usage(ppedge: Command, options: tuple[str, ...], said: str) -> None:
    assert said in ppedge.error("notes", "list", *options, code=2)


def test_a_bad_scope_is_wrong_usage_for_an_answer_too(ppedge: Command) -> None:
    options = ("--since", "2025-02-01", "--until", "2025-01-01")
    for words in (("personalize", PROMPT), ("why", PROMPT), ("chat",), ("notes", "pin")):
        assert "no time lies between" in ppedge.error(*words, *options, code=2)


def test_forget_takes_a_scope(kept: Command) -> None:
    done = kept.json("notes", "forget", "--only", "tag:work", "--since", "2025-04-01", "--yes")
    gone = [n["id"] for n in NOTES if n["tags"] == ["work"] and n["time"] >= "2025-04-01"]
    assert done["ids"] == gone
    assert not set(ids(kept)) & set(gone)
    assert kept.json("notes", "forget", "--only", "tag:nothing", "--yes")["ids"] == []


# --- pinned and muted ---


def marks(ppedge: Command) -> dict[str, str]:
    out = ppedge.good("notes", "list", "--json")
    notes = [json.loads(line) for line in out.splitlines()]
    return {note["id"]: note["mark"] for note in notes if note["mark"]}


def test_pins_and_mutes_are_set_shown_and_taken_back(kept: Command) -> None:
    assert kept.good("notes", "pin", "n1", "n2") == "pinned 2 of 2 notes\n"
    assert kept.json("notes", "mute", "--text", "KETTLES 3") == {"muted": ["n3"], "notes": 1}
    assert marks(kept) == {"n1": "pin", "n2": "pin", "n3": "mute"}
    assert "  pin  bread 1 is" in kept.good("notes", "list", "--text", "bread 1 ")
    assert kept.good("notes", "pin", "n1") == "pinned 0 of 1 notes\n"
    assert kept.good("notes", "mute", "n1") == "muted 1 of 1 notes\n"
    assert kept.good("notes", "unpin", "n1", "n2") == "unpinned 1 of 2 notes\n"
    assert marks(kept) == {"n1": "mute", "n3": "mute"}
    assert kept.good("notes", "unmute", "--only", "tag:work") == "unmuted 2 of 9 notes\n"
    assert marks(kept) == {}
    kept.good("notes", "pin", "n1")
    kept.good("notes", "forget", "n1", "--yes")
    assert marks(kept) == {}


def test_muted_notes_bear_on_nothing(kept: Command, tmp_path: Path) -> None:
    kept.good("notes", "mute", "--only", "tag:home")
    alone = written(tmp_path / "work.jsonl", [n for n in NOTES if n["tags"] == ["work"]])
    parts = ("--with", "soft", "--with", "ngrams")
    ours = kept.json("personalize", *parts, *COLD, PROMPT)
    theirs = kept.json("personalize", *parts, "--history", alone, *COLD, PROMPT)
    assert ours["text"] == theirs["text"]
    assert ours["notes"] == 18
    why = kept.json("why", "--top", "18", PROMPT)
    assert {n["tags"][0] for n in [*why["turns"], *why["heaviest"]]} == {"work"}


def test_pinned_notes_are_always_among_the_turns(kept: Command) -> None:
    before = {note["id"] for note in kept.json("why", PROMPT)["turns"]}
    others = sorted({note["id"] for note in NOTES} - before)[:1]
    kept.good("notes", "pin", *others)
    after = {note["id"] for note in kept.json("why", PROMPT)["turns"]}
    assert set(others) <= after
    scoped = {note["id"] for note in kept.json("why", "--since", "2025-06-01", PROMPT)["turns"]}
    assert scoped
    assert scoped <= {note["id"] for note in NOTES if note["time"] >= "2025-06-01"}


@pytest.mark.parametrize("command", ["pin", "unpin", "mute", "unmute"])
def test_marking_needs_to_know_which_and_an_unknown_id_is_told(kept: Command, command: str) -> None:
    said = "give ids, --text, --only or a time"
    assert said in kept.error("notes", command, code=2)
    assert 'no note has the id "absent"' in kept.error("notes", command, "n1", "absent")
    assert marks(kept) == {}


# --- incognito ---


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_incognito_leaves_nothing_of_a_history(ppedge: Command, tmp_path: Path) -> None:
    history = written(tmp_path / "all.jsonl", NOTES)
    temp = tmp_path / "temp"
    temp.mkdir()
    options = ("--history", str(history), *COLD)
    asked = ppedge.good("personalize", "--incognito", *options, PROMPT, TMPDIR=str(temp))
    ppedge.good("why", "--incognito", "--history", history, PROMPT, TMPDIR=str(temp))
    ppedge.good("chat", "--incognito", *options, stdin=b"hello\n", TMPDIR=str(temp))
    assert not ppedge.home.exists() or contents(ppedge.home) == {}
    assert list(temp.iterdir()) == []
    assert ppedge.good("personalize", *options, PROMPT) == asked


def test_incognito_changes_nothing_of_kept_notes(kept: Command, tmp_path: Path) -> None:
    before = contents(kept.home)
    kept.good("personalize", "--incognito", *COLD, PROMPT)
    kept.good("chat", "--incognito", *COLD, "--only", "tag:work", stdin=b"hello\n/why\n")
    kept.good("why", "--incognito", "--answers", "--max-tokens", "3", PROMPT)
    assert contents(kept.home) == before
    kept.good("personalize", *COLD, PROMPT)
    assert any("prefix." in name for name in contents(kept.home))


def test_what_a_kill_leaves_goes_at_the_next_start(ppedge: Command, tmp_path: Path) -> None:
    history = written(tmp_path / "all.jsonl", NOTES)
    temp = tmp_path / "temp"
    temp.mkdir()
    process = ppedge.start("chat", "--incognito", "--history", history, *COLD, TMPDIR=str(temp))
    assert process.stdin
    assert process.stdout
    process.stdin.write(f"{PROMPT}\n".encode())
    process.stdin.flush()
    assert process.stdout.readline()
    assert b"gardens" in b"".join(contents(temp).values())
    # While it lives, another start leaves it alone.
    ppedge.good("notes", "add", history)
    ppedge.good("personalize", *COLD, PROMPT, TMPDIR=str(temp))
    assert contents(temp)
    process.send_signal(signal.SIGKILL)
    process.wait()
    for stream in (process.stdin, process.stdout, process.stderr):
        assert stream
        stream.close()
    time.sleep(0)
    assert contents(temp)
    ppedge.good("personalize", *COLD, PROMPT, TMPDIR=str(temp))
    assert list(temp.iterdir()) == []
    assert os.path.isdir(temp)
