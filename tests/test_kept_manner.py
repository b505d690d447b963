"""What was counted of a manner is kept beside the notes, and is as private as they are."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ppedge.blend import Blend
from ppedge.llm.sampling import Sampling
from ppedge.notes.reader import Note
from ppedge.personalizer import Personalizer
from ppedge.store.persona import Persona
from ppedge.style.ending import Ending
from ppedge.style.manner import Voices
from ppedge.style.model import ShapeCounts
from ppedge.style.rules import NoLoops
from tests import tiny_gguf
from tests.turns.test_turns import CHATML

PROMPT = "write about rain"
WARM = Sampling(temperature=0.8, max_tokens=24, seed=5)
NOTES = [
    Note(f"so, {thing} - {i} again!! soooooo wet\n-- m", id=f"n{i}")
    for i, thing in enumerate(("rain", "kettle", "garden", "bus", "river", "bread"))
]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    return tiny_gguf.write(folder / "tiny.gguf", n_ctx=2048, chat_template=CHATML)


@pytest.fixture
def persona(model: Path, tmp_path: Path) -> Iterator[Persona]:
    with (
        Personalizer.open(model, "none", n_threads=1) as personalizer,
        personalizer.persona(tmp_path / "me") as opened,
    ):
        opened.add(NOTES, personalizer.plug.encode_notes)
        yield opened


def answer(model: Path, persona: Persona, blend: Blend | None = None) -> str:
    with Personalizer.open(model, "none", n_threads=1) as personalizer:
        return personalizer.stream(PROMPT, persona, WARM, blend=blend).read()


def kept(persona: Persona) -> list[Path]:
    return sorted(persona.path.glob("manner.*"))


def count_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object, **__: object) -> list[int]:
        raise AssertionError("counted again")

    monkeypatch.setattr(Voices, "tokens", refused)
    # Other models' shapes of everybody are counted each time; that is not what is looked at.
    monkeypatch.setattr(Voices, "everybody", ShapeCounts([["a"]]))


def test_the_second_run_counts_nothing_and_says_the_same(
    model: Path, persona: Persona, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Voices, "everybody", ShapeCounts([["a"]]))
    first = answer(model, persona)
    [path] = kept(persona)
    assert path.stat().st_mode & 0o077 == 0
    count_nothing(monkeypatch)
    assert answer(model, persona) == first
    assert kept(persona) == [path]


@pytest.mark.parametrize("state", [b"", b"{}", b"[1]", b'{"shapes": 1}', b"\xff", b"[" * 9999])
def test_what_is_no_manner_is_counted_anew(model: Path, persona: Persona, state: bytes) -> None:
    first = answer(model, persona)
    [path] = kept(persona)
    good = path.read_bytes()
    key = good.split(b" ")[3].decode()
    assert persona.keep_prefix(key, persona.version(), state, "manner")
    assert path.read_bytes() != good
    assert answer(model, persona) == first
    assert path.read_bytes() == good


@pytest.mark.parametrize(
    ("part", "name", "value"),
    [
        ("ending", "limit", "x"),
        ("ending", "least", [1]),
        ("ending", "said", [7]),
        ("ending", "tail", 1e999),
        ("loops", "run", None),
        ("loops", "doubled", [[]]),
        ("loops", "limits", {"number": [["a", "b"]], "tag": []}),
        ("shapes", 0, [[[], {"a": "x"}]]),
        ("shapes", 0, [[[], "x"]]),
    ],
)
def test_values_of_another_kind_are_counted_anew(
    model: Path, persona: Persona, part: str, name: str | int, value: object
) -> None:
    first = answer(model, persona)
    [path] = kept(persona)
    head, _, good = path.read_bytes().partition(b"\n")
    told = json.loads(good)
    told[part][name] = value
    key = head.split(b" ")[3].decode()
    assert persona.keep_prefix(key, persona.version(), json.dumps(told).encode(), "manner")
    assert answer(model, persona) == first
    assert path.read_bytes().endswith(good)


def test_a_damaged_file_is_counted_anew(model: Path, persona: Persona) -> None:
    first = answer(model, persona)
    [path] = kept(persona)
    path.write_bytes(path.read_bytes()[:-1])
    assert answer(model, persona) == first


def test_other_notes_have_a_manner_of_their_own(model: Path, persona: Persona) -> None:
    answer(model, persona)
    before = kept(persona)
    with Personalizer.open(model, "none", n_threads=1) as personalizer:
        persona.add([Note("another", id="x")], personalizer.plug.encode_notes)
    answer(model, persona)
    assert kept(persona) != before


def test_it_goes_with_a_note_that_is_forgotten(model: Path, persona: Persona) -> None:
    answer(model, persona)
    assert kept(persona)
    persona.forget(ids=["n1"])
    assert kept(persona) == []
    answer(model, persona)
    assert all(b"kettle" not in path.read_bytes() for path in kept(persona))


def test_where_no_manner_is_asked_for_none_is_kept(model: Path, persona: Persona) -> None:
    answer(model, persona, Blend().without("style", "rules"))
    assert kept(persona) == []


# --- there and back ---

TEXTS = st.lists(st.text(alphabet="ab B1#!,.\n-— ", max_size=40), min_size=1, max_size=6)


@given(TEXTS, st.text(alphabet="ab B1#!,.\n-— ", max_size=40))
def test_rules_come_back_as_they_were(texts: list[str], text: str) -> None:
    loops, ending = NoLoops(texts), Ending(texts, list(map(len, texts)))
    other = NoLoops.of(loops.found())
    assert other.forbidden(text) == loops.forbidden(text)
    assert other.too_dense(text + " ") == loops.too_dense(text + " ")
    assert other.only_marks(text) == loops.only_marks(text)
    assert other.longest == loops.longest
    again = Ending.of(ending.found())
    assert again.is_over(text, 9) == ending.is_over(text, 9)
    assert again.is_last_word(text) == ending.is_last_word(text)
    assert (again.least_words, again.limit) == (ending.least_words, ending.limit)


@given(st.lists(st.lists(st.sampled_from("abc"), max_size=9), max_size=5))
def test_counts_come_back_as_they_were(texts: list[list[str]]) -> None:
    counts = ShapeCounts(texts)
    again = ShapeCounts.of_tables(counts.tables())
    assert again.tables() == counts.tables()
    assert again.shapes == counts.shapes
