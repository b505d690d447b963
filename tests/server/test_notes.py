"""Personas and notes over HTTP: the list, search, forgetting for good, marks, scopes and why."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ppedge.store.persona import Persona
from tests.command import Command
from tests.server.conftest import ANNA, BERT
from tests.server.running import Running, keep, running

SECRET = "the safe is behind the tomatoes"
NOTES = [
    {"id": "n1", "text": "first of all, rain", "time": "2024-01-01"},
    {"id": "n2", "text": "second, more rain", "time": "2025-01-01"},
    {"text": SECRET},
    {"id": "n4", "text": "GRÜSSE aus dem Garten"},
]
ASK = {"prompt": "rain?", "max_tokens": 4, "temperature": 0}


@pytest.fixture
def garden(tmp_path: Path, endless_model: list[str | Path]) -> Iterator[Running]:
    command = Command(tmp_path / "home")
    keep(command, "garden", NOTES, tmp_path, "--plug", "none")
    with running(command, *endless_model) as server:
        yield server


def names(server: Running, query: str = "") -> list[str]:
    found = server.get(f"/personas/garden/notes{query}")
    assert found.status_code == 200, found.text
    return [note["name"] for note in found.json()["notes"]]


def bytes_below(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())


def test_the_personas_are_listed_also_one_that_is_damaged(garden: Running) -> None:
    root = garden.home / "personas"
    (root / "empty").mkdir()
    (root / "broken").mkdir()
    (root / "broken" / "notes.db").write_bytes(b"no database" * 100)
    broken, empty, good = garden.get("/personas").json()["personas"]
    assert good == {"name": "garden", "model": "ppedge:garden", "notes": 4, "problem": None}
    assert (broken["name"], broken["notes"]) == ("broken", None)
    assert "damaged" in broken["problem"]
    assert (empty["name"], empty["notes"]) == ("empty", None)
    assert "has no notes yet" in empty["problem"]
    refused = garden.post("/v1/completions", {**ASK, "model": "ppedge:empty"})
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "no_notes")
    assert garden.post("/v1/completions", {**ASK, "model": "ppedge:broken"}).status_code == 409


def test_notes_are_found_by_text_and_by_the_page(garden: Running) -> None:
    every = names(garden)
    assert [name for name in every if not name.startswith("sha256:")] == ["n1", "n2", "n4"]
    assert names(garden, "?text=RAIN") == ["n1", "n2"]
    assert names(garden, "?text=gr%C3%BC%C3%9Fe") == ["n4"]
    assert names(garden, "?text=%25") == []
    assert names(garden, "?limit=2&offset=1") == every[1:3]
    first = garden.get("/personas/garden/notes?limit=3").json()
    last = garden.get("/personas/garden/notes?limit=3&offset=3").json()
    assert (first["more"], last["more"], first["total"]) == (True, False, 4)
    for query, line in (
        ("?limit=0", "limit must be 1 to 200"),
        ("?limit=x", "limit must be a whole number"),
        ("?offset=-1", "offset must be a whole number"),
        ("?what=1", "text, limit, offset once"),
        ("?text=a&text=b", "text, limit, offset once"),
    ):
        refused = garden.get(f"/personas/garden/notes{query}")
        assert refused.status_code == 400
        assert line in refused.json()["error"]["message"]


def test_a_note_that_another_program_adds_is_there_at_once(garden: Running, tmp_path: Path) -> None:
    assert len(names(garden)) == 4
    keep(Command(garden.home), "garden", [{"id": "n5", "text": "late"}], tmp_path, "--plug", "none")
    assert names(garden)[-1] == "n5"


def test_forgetting_is_for_good(garden: Running) -> None:
    folder = garden.home / "personas" / "garden"
    assert SECRET.encode() in bytes_below(folder)
    garden.said("/v1/completions", {**ASK, "model": "ppedge:garden"})
    [name] = [name for name in names(garden) if name.startswith("sha256:")]
    receipt = garden.said("/personas/garden/forget", {"ids": [name, "n1"]})
    assert sorted(receipt["ids"]) == sorted([name, "n1"])
    assert receipt["notes"] == 2
    assert receipt["store_before"] != receipt["store_after"]
    assert SECRET.encode() not in bytes_below(folder)
    assert names(garden) == ["n2", "n4"]
    found = garden.said("/why", {"model": "ppedge:garden", "prompt": "rain?"})
    assert {turn["name"] for turn in found["turns"]} == {"n2", "n4"}


def test_forgetting_is_all_or_nothing_and_never_by_chance(garden: Running) -> None:
    path = "/personas/garden/forget"
    for body, status in (
        ({"ids": ["n1", "nobody"]}, 404),
        ({"ids": []}, 400),
        ({"ids": [""]}, 400),
        ({}, 400),
        ({"everything": True}, 400),
        ({"ids": "n1"}, 400),
    ):
        assert garden.post(path, body).status_code == status, body
    assert garden.post("/personas/nobody/forget", {"ids": ["n1"]}).status_code == 404
    assert len(names(garden)) == 4


def test_a_store_that_somebody_is_changing_is_told_as_a_conflict(garden: Running) -> None:
    from ppedge.store.files import writer_lock

    with writer_lock(garden.home / "personas" / "garden" / "lock", 1.0):
        refused = garden.post("/personas/garden/forget", {"ids": ["n1"]})
    assert refused.status_code == 409
    assert "another process" in refused.json()["error"]["message"]
    garden.said("/personas/garden/forget", {"ids": ["n1"]})


def test_pinned_and_muted_notes_count_as_such(garden: Running) -> None:
    with Persona.open(garden.home / "personas" / "garden") as persona:
        persona.pin("n2")
        persona.mute("n1")
    found = garden.get("/personas/garden/notes").json()["notes"]
    marks = {note["name"]: note["mark"] for note in found if note["mark"]}
    assert marks == {"n1": "muted", "n2": "pinned"}
    turns = garden.said("/why", {"model": "ppedge:garden", "prompt": "rain?"})["turns"]
    assert "n1" not in {turn["name"] for turn in turns}
    assert ("n2", "pinned") in {(turn["name"], turn["mark"]) for turn in turns}


def test_a_scope_leaves_the_other_notes_out(garden: Running) -> None:
    ask = {"model": "ppedge:garden", "prompt": "rain?"}
    new_year = 1_735_689_600  # of 2025
    found = garden.said("/why", {**ask, "since": new_year})
    assert [turn["name"] for turn in found["turns"]] == ["n2"]
    every, few = (
        garden.said("/v1/completions", {**ASK, **ask, **scope})["usage"]["prompt_tokens"]
        for scope in ({}, {"since": new_year})
    )
    assert few < every
    for scope, status in (
        ({"only": ["tag:none-such"]}, 409),
        ({"only": ["colour:red"]}, 400),
        ({"since": 2, "until": 1}, 400),
    ):
        assert garden.post("/v1/completions", {**ASK, **ask, **scope}).status_code == status


def test_why_says_what_ppedge_why_says(served: Running) -> None:
    prompt = "How is the rain?"
    folder = served.home / "personas" / "anna"
    told = Command(served.home).json("why", "--persona", folder, "--top", "2", prompt)
    found = served.said("/why", {"model": "ppedge:anna", "prompt": prompt, "top": 2})
    for part in ("turns", "heaviest"):
        assert [(note["name"], note["weight"]) for note in found[part]] == [
            (note["name"], note["weight"]) for note in told[part]
        ]
    assert len(found["heaviest"]) == 2
    for field in ("null_weight", "bears", "notes", "manner_notes"):
        assert found[field] == told[field]
    assert {note["text"] for note in found["turns"]} <= {note["text"] for note in ANNA}
    other = served.said("/why", {"model": "ppedge:bert", "prompt": prompt})
    assert {note["text"] for note in other["turns"]} <= {note["text"] for note in BERT}


def test_the_bare_model_has_nothing_to_explain(served: Running) -> None:
    refused = served.post("/why", {"model": "ppedge", "prompt": "x"})
    assert refused.status_code == 400
    assert "no note bears on the bare model" in refused.json()["error"]["message"]
