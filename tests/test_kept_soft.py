"""Soft tokens that are kept with a person's turns: made once, and then not computed any more."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from ppedge.blend import Blend
from ppedge.errors import PlugError
from ppedge.llm.sampling import Sampling
from ppedge.llm.segments import Segment, Soft, Text
from ppedge.notes.reader import Note
from ppedge.personalizer import Personalizer
from ppedge.plug.conditioning import mean_query
from ppedge.plug.plug import Plug
from ppedge.store.persona import Persona
from ppedge.turns.form import Turn
from tests import tiny_gguf, tiny_plug

PROMPT = "write about rain"
WARM = Sampling(temperature=0.8, max_tokens=12, seed=5)
N_KEPT = 2
THINGS = ("rain", "kettle", "garden", "bus", "dentist", "river", "letter", "bread")
NOTES = [Note(f"note {i} is about the {thing} again", id=f"n{i}") for i, thing in enumerate(THINGS)]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_gguf.write(tmp_path_factory.mktemp("model") / "tiny.gguf", n_ctx=2048)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, model: Path) -> Path:
    n_control = tiny_gguf.N_LAYER - 1
    path = tmp_path_factory.mktemp("plugs") / "plug"
    return tiny_plug.write(path, model, n_control=n_control, n_kept=N_KEPT)


@pytest.fixture
def personalizer(model: Path, folder: Path) -> Iterator[Personalizer]:
    with Personalizer.open(model, folder, n_threads=1) as opened:
        yield opened


@pytest.fixture
def persona(personalizer: Personalizer, tmp_path: Path) -> Iterator[Persona]:
    with personalizer.persona(tmp_path / "me") as opened:
        opened.add(NOTES, personalizer.plug.encode_notes)
        yield opened


def given(
    personalizer: Personalizer, persona: Persona, blend: Blend, said: tuple[Turn, ...] = ()
) -> list[Segment]:
    """What the model is given for the prompt."""
    manner = personalizer._manner(persona, blend)
    found = personalizer._prompting.say(PROMPT, persona, manner, blend, 3)
    return personalizer._prompting.given(found.prefix, said, PROMPT, found.soft)


def places(segments: list[Segment]) -> tuple[list[int], int]:
    """Where soft tokens stand, and where the prompt does."""
    soft = [i for i, segment in enumerate(segments) if isinstance(segment, Soft)]
    return soft, segments.index(Text(PROMPT))


def test_they_stand_behind_the_turns_and_before_the_prompt(
    personalizer: Personalizer, persona: Persona
) -> None:
    segments = given(personalizer, persona, Blend())
    [soft], prompt = places(segments)
    answers = {note.output for note in NOTES}
    told = [i for i, s in enumerate(segments) if isinstance(s, Text) and s.text in answers]
    assert len(told) == len(NOTES)
    assert max(told) < soft < prompt
    vectors = segments[soft].vectors  # type: ignore[union-attr]
    assert vectors.shape == (N_KEPT, tiny_gguf.N_EMBD)


def test_what_was_said_stands_behind_them(personalizer: Personalizer, persona: Persona) -> None:
    said = (Turn("and then?", "then it rained"),)
    alone, longer = (given(personalizer, persona, Blend(), each) for each in ((), said))
    at = alone.index(Text(PROMPT))
    # So what was read of the turns goes on being of use.
    before = personalizer.llm.tokens(alone[:at])
    assert personalizer.llm.tokens(longer)[: len(before)] == before
    assert longer.index(Text("then it rained")) > places(longer)[0][0]


def test_they_are_pooled_for_what_the_turns_ask(
    personalizer: Personalizer, persona: Persona
) -> None:
    plug = personalizer.plug
    assert isinstance(plug, Plug)
    manner = personalizer._manner(persona, Blend())
    prefix = personalizer._prompting.say(PROMPT, persona, manner, Blend(), 3).prefix
    assert prefix is not None
    assert prefix.kept is not None
    queries = np.stack([plug.encode_prompt(turn.ask) for turn in prefix.turns])
    mean = queries.mean(0)
    query = mean * np.linalg.norm(queries, axis=1).mean() / np.linalg.norm(mean)
    pooled = persona.pool(query.astype(np.float32), scale=plug.manifest.attention_scale)
    np.testing.assert_allclose(prefix.kept.vectors, plug.project_kept(pooled.value), rtol=1e-4)
    answer = personalizer.stream(PROMPT, persona, WARM)
    assert answer.conditioning is not None
    np.testing.assert_array_equal(answer.conditioning.soft, prefix.kept.vectors)
    assert answer.conditioning.turns == len(prefix.turns)
    assert len(answer.conditioning.heaviest) == 3


def test_the_mean_of_one_query_is_that_query() -> None:
    query = np.array([3, 4, 0], np.float32)
    np.testing.assert_allclose(mean_query([query]), query, rtol=1e-6)
    assert np.isfinite(mean_query([query, -query])).all()


def test_an_answer_is_the_same_made_held_and_restored(
    personalizer: Personalizer, persona: Persona, model: Path, folder: Path
) -> None:
    made = personalizer.stream(PROMPT, persona, WARM).read()
    held = personalizer.stream(PROMPT, persona, WARM).read()
    with Personalizer.open(model, folder, n_threads=1) as other:
        restored = other.stream(PROMPT, persona, WARM).read()
        assert isinstance(other.plug, Plug)
        # Nothing was encoded, pooled or projected: what was kept is all that it takes.
        assert other.plug._opened is None
    assert made == held == restored
    assert made != personalizer.stream(PROMPT, persona, WARM, blend=Blend(soft=False)).read()


@pytest.mark.parametrize("part", ["control", "ngrams"])
def test_beside_a_control_vector_or_n_grams_soft_tokens_are_the_prompts_own(
    personalizer: Personalizer, persona: Persona, part: str
) -> None:
    [soft], prompt = places(given(personalizer, persona, Blend().with_parts(part)))
    assert soft > prompt


def test_without_turns_soft_tokens_are_the_prompts_own(
    personalizer: Personalizer, persona: Persona, tmp_path: Path
) -> None:
    [soft], prompt = places(given(personalizer, persona, Blend(turns=0)))
    assert soft > prompt
    with personalizer.persona(tmp_path / "nobody") as nobody:
        [soft], prompt = places(given(personalizer, nobody, Blend()))
        assert soft > prompt


def test_a_change_of_notes_changes_them(personalizer: Personalizer, persona: Persona) -> None:
    def kept() -> bytes:
        segments = given(personalizer, persona, Blend())
        [soft], _ = places(segments)
        return segments[soft].vectors.tobytes()  # type: ignore[union-attr]

    before = kept()
    persona.mute("n1")
    muted = kept()
    persona.unmark("n1")
    assert kept() == before != muted


def test_another_plug_makes_its_own(
    personalizer: Personalizer, persona: Persona, model: Path, folder: Path, tmp_path: Path
) -> None:
    personalizer.stream(PROMPT, persona, WARM).read()
    # It has the first one's space, and other kept soft tokens.
    other = tmp_path / "other"
    other.mkdir()
    for path in folder.iterdir():
        (other / path.name).write_bytes(path.read_bytes())
    rng = np.random.default_rng(9)
    graph = tiny_plug.projector_graph(rng, tiny_gguf.N_EMBD, n_soft=N_KEPT)
    tiny_plug.swap(other, tiny_plug.KEPT, graph)
    with Personalizer.open(model, other, n_threads=1) as opened:
        opened.stream(PROMPT, persona, WARM).read()
        assert isinstance(opened.plug, Plug)
        assert opened.plug._opened is not None
    assert len(list(persona.path.glob("prefix.*"))) == 2


def test_a_kept_state_that_was_cut_is_made_again(
    personalizer: Personalizer, persona: Persona, model: Path, folder: Path
) -> None:
    made = personalizer.stream(PROMPT, persona, WARM).read()
    [path] = persona.path.glob("prefix.*")
    path.write_bytes(path.read_bytes()[:-100])
    with Personalizer.open(model, folder, n_threads=1) as other:
        assert other.stream(PROMPT, persona, WARM).read() == made
        assert other.plug._opened is not None  # type: ignore[union-attr]


def test_best_of_several_stands_behind_them_too(
    personalizer: Personalizer, persona: Persona
) -> None:
    answer = personalizer.stream(PROMPT, persona, WARM, best_of=2)
    assert answer.read() == personalizer.stream(PROMPT, persona, WARM, best_of=2).read()


def test_what_is_wrong_with_a_graph_is_said_when_it_is_needed(
    model: Path, folder: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "plug"
    broken.mkdir()
    for path in folder.iterdir():
        (broken / path.name).write_bytes(path.read_bytes())
    (broken / tiny_plug.KEPT).write_bytes(b"x")
    with pytest.raises(PlugError, match=r"kept\.onnx is not the file"):
        Plug(broken)
    with (
        Personalizer.open(model, broken, n_threads=1) as opened,
        opened.persona(tmp_path / "me") as persona,
    ):
        with pytest.raises(PlugError, match=r"kept\.onnx is not the file"):
            persona.add(NOTES, opened.plug.encode_notes)
        assert len(persona) == 0
