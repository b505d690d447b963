"""The walk from notes to an answer, on a tiny model and a tiny plug, against numpy."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ppedge.blend import Blend
from ppedge.errors import ModelError, PlugError, StoreError
from ppedge.llm.llm import LLM
from ppedge.llm.opened_file import OpenedFile
from ppedge.llm.sampling import Sampling
from ppedge.llm.segments import Text
from ppedge.notes.reader import Note
from ppedge.personalizer import Personalizer
from ppedge.plug.conditioning import Conditioning
from ppedge.plug.template import Part
from ppedge.store.persona import Persona
from tests import tiny_gguf, tiny_plug
from tests.tiny_plug import N_SOFT, PROJECTOR, SCALE

PROMPT = "write about rain"
GREEDY = Sampling(temperature=0, max_tokens=24)
ANNA = [Note(f"anna's note {i} about bread", id=f"a{i}", time=1.7e9 + i) for i in range(30)]
BEN = [Note(f"BEN'S NOTE {i}!", input=f"question {i}?") for i in range(30)]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("files")
    model = tiny_gguf.write(folder / "tiny.gguf")
    return model, tiny_plug.write(folder / "plug", model)


@pytest.fixture(scope="module")
def personalizer(files: tuple[Path, Path]) -> Iterator[Personalizer]:
    with Personalizer.open(*files, n_threads=1) as opened:
        yield opened


def persona_of(personalizer: Personalizer, folder: Path, notes: list[Note]) -> Persona:
    persona = personalizer.persona(folder)
    persona.add(notes, personalizer.plug.encode_notes)
    return persona


@pytest.fixture
def anna(personalizer: Personalizer, tmp_path: Path) -> Iterator[Persona]:
    with persona_of(personalizer, tmp_path / "anna", ANNA) as persona:
        yield persona


@pytest.fixture
def nobody(personalizer: Personalizer, tmp_path: Path) -> Iterator[Persona]:
    with personalizer.persona(tmp_path / "nobody") as persona:
        yield persona


def rows(personalizer: Personalizer, notes: list[Note]) -> tuple[np.ndarray, np.ndarray]:
    """Keys and values in float64, the null note first, rounded as the store keeps them."""
    pairs = list(personalizer.plug.encode_notes(notes))
    space = personalizer.plug.space
    keys = np.stack([space.null_key, *(key.astype(np.float16) for key, _ in pairs)])
    values = np.stack([space.null_value, *(value.astype(np.float16) for _, value in pairs)])
    return keys.astype(np.float64), values.astype(np.float64)


def softmax(scores: np.ndarray) -> np.ndarray:
    exps = np.exp(scores - scores.max())
    return exps / exps.sum()


def expected(
    personalizer: Personalizer, notes: list[Note], bias: np.ndarray | float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """Weights [n+1] and soft tokens [n_soft, n_embd] by the formula, in float64."""
    keys, values = rows(personalizer, notes)
    query = personalizer.plug.encode_prompt(PROMPT).astype(np.float64)
    weights = softmax(SCALE * keys @ query + bias)
    graph = tiny_plug.weights_of((personalizer.plug.path / PROJECTOR).read_bytes())
    soft = weights @ values @ graph["matrix"].astype(np.float64) + graph["offset"]
    return weights, soft.reshape(N_SOFT, -1)


# --- what the persona says ---


def test_weights_are_the_softmax_of_scaled_scores(
    personalizer: Personalizer, anna: Persona
) -> None:
    weights, _ = expected(personalizer, ANNA)
    found = personalizer.condition(PROMPT, anna, heaviest=len(ANNA))
    assert found.null_weight == pytest.approx(weights[0], rel=1e-4)
    assert len(found.heaviest) == len(ANNA)
    by_id = {note.id: weight for note, weight in found.heaviest}
    for note, weight in zip(ANNA, weights[1:], strict=True):
        assert by_id[note.id] == pytest.approx(weight, rel=1e-4, abs=1e-12)


def test_soft_tokens_are_the_projection_of_the_weighted_values(
    personalizer: Personalizer, anna: Persona
) -> None:
    _, soft = expected(personalizer, ANNA)
    found = personalizer.condition(PROMPT, anna).soft
    np.testing.assert_allclose(found, soft, rtol=1e-4, atol=1e-4)


def test_the_heaviest_notes_come_first_and_are_the_heaviest(
    personalizer: Personalizer, anna: Persona
) -> None:
    weights, _ = expected(personalizer, ANNA)
    found = personalizer.condition(PROMPT, anna, heaviest=5).heaviest
    order = np.argsort(-weights[1:])[:5]
    assert [note for note, _ in found] == [ANNA[i] for i in order]
    assert [weight for _, weight in found] == sorted((w for _, w in found), reverse=True)


def test_an_empty_persona_is_the_null_note_alone(
    personalizer: Personalizer, nobody: Persona
) -> None:
    found = personalizer.condition(PROMPT, nobody)
    assert found.null_weight == 1.0
    assert found.heaviest == []
    _, soft = expected(personalizer, [])
    np.testing.assert_allclose(found.soft, soft, rtol=1e-4, atol=1e-4)


def test_for_an_empty_persona_the_prompt_does_not_change_the_soft_tokens(
    personalizer: Personalizer, nobody: Persona
) -> None:
    one, other = (personalizer.condition(prompt, nobody).soft for prompt in ("a", "quite b"))
    np.testing.assert_array_equal(one, other)


def test_another_person_gives_other_soft_tokens(
    personalizer: Personalizer, anna: Persona, tmp_path: Path
) -> None:
    with persona_of(personalizer, tmp_path / "ben", BEN) as ben:
        ours, theirs = (personalizer.condition(PROMPT, who).soft for who in (anna, ben))
    assert np.abs(ours - theirs).max() > 0.1


def test_another_prompt_gives_other_weights(personalizer: Personalizer, anna: Persona) -> None:
    one, other = (personalizer.condition(prompt, anna) for prompt in ("rain", "tax return"))
    assert one.null_weight != other.null_weight
    assert not np.array_equal(one.soft, other.soft)


def test_the_same_person_gives_the_same_bits_in_another_store(
    personalizer: Personalizer, anna: Persona, tmp_path: Path
) -> None:
    first = personalizer.condition(PROMPT, anna).soft
    with persona_of(personalizer, tmp_path / "again", ANNA[:7]) as again:
        again.sync(ANNA, personalizer.plug.encode_notes)
        np.testing.assert_array_equal(personalizer.condition(PROMPT, again).soft, first)


def test_notes_that_change_between_pooling_and_naming_are_pooled_again(
    personalizer: Personalizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "anna"
    with persona_of(personalizer, folder, ANNA) as persona:
        pool = persona.pool
        late = Note("written while others were pooled", id="late")

        def pool_and_write(*args: object, **kwargs: object) -> object:
            pooled = pool(*args, **kwargs)  # type: ignore[arg-type]
            with personalizer.persona(folder) as other:
                other.add([late], personalizer.plug.encode_notes)
            return pooled

        monkeypatch.setattr(persona, "pool", pool_and_write)
        heard = personalizer.condition(PROMPT, persona, heaviest=99)
    assert late in [note for note, _ in heard.heaviest]
    assert len(heard.heaviest) == len(ANNA) + 1


def test_each_stage_is_timed(personalizer: Personalizer, anna: Persona) -> None:
    seconds = personalizer.condition(PROMPT, anna).seconds
    assert set(seconds) == {"encode", "pool", "project"}
    assert all(value > 0 for value in seconds.values())


# --- what a plug may ask for beside ---

OPTIONS: dict[str, dict[str, Any]] = {
    "no null note": {"null_note_competes": False},
    "recency": {"recency": 0.7},
    "both": {"null_note_competes": False, "recency": 0.7},
    "query file": {"query_file": True},
    "both fields": {"key_fields": ("both",), "value_fields": ("both",)},
    "soft tokens first": {"template": (Part(slot="soft"), Part(slot="prompt"), Part("\n"))},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
@pytest.mark.parametrize("n_notes", [0, 1, 30])
def test_soft_tokens_are_by_the_formula_with_each_option(
    files: tuple[Path, Path], tmp_path: Path, options: dict[str, Any], n_notes: int
) -> None:
    tiny_plug.write(tmp_path / "plug", files[0], **options)
    bias = np.zeros(n_notes + 1)
    bias[1:] = -options.get("recency", 0.0) * np.log(1 + np.arange(n_notes)[::-1])
    if n_notes and not options.get("null_note_competes", True):
        bias[0] = -np.inf
    with (
        Personalizer.open(files[0], tmp_path / "plug", n_threads=1) as opened,
        persona_of(opened, tmp_path / "ben", BEN[:n_notes]) as ben,
    ):
        weights, soft = expected(opened, BEN[:n_notes], bias)
        found = opened.condition(PROMPT, ben, heaviest=n_notes)
        assert found.null_weight == pytest.approx(weights[0], rel=1e-4)
        by_note = dict(found.heaviest)
        assert [by_note[note] for note in BEN[:n_notes]] == pytest.approx(weights[1:], rel=1e-4)
        np.testing.assert_allclose(found.soft, soft, rtol=1e-4, atol=1e-4)


def test_soft_tokens_first_stand_before_the_prompt(
    files: tuple[Path, Path], tmp_path: Path
) -> None:
    tiny_plug.write(tmp_path / "plug", files[0], **OPTIONS["soft tokens first"])
    with Personalizer.open(files[0], tmp_path / "plug", n_threads=1) as opened:
        soft = np.zeros((N_SOFT, opened.llm.n_embd), np.float32)
        tokens = opened.llm.tokens(opened.segments(PROMPT, soft))
        bare = opened.llm.tokens(opened.segments(PROMPT, None))
        # A BOS token, where the model has one, stays the first.
        at = tokens.index(-1)
        assert at <= 1
        assert tokens == [*bare[:at], *[-1] * N_SOFT, *bare[at:]]


# --- what the model makes of it ---


def logits(personalizer: Personalizer, heard: Conditioning | None) -> np.ndarray:
    segments = personalizer.segments(PROMPT, heard.soft if heard else None)
    return personalizer.llm.logits(segments)


def test_a_persona_changes_what_the_model_would_write(
    personalizer: Personalizer, anna: Persona, nobody: Persona, tmp_path: Path
) -> None:
    with persona_of(personalizer, tmp_path / "ben", BEN) as ben:
        voices = [personalizer.condition(PROMPT, who) for who in (anna, ben, nobody)]
    found = [logits(personalizer, heard) for heard in (*voices, None)]
    for i, one in enumerate(found):
        for other in found[:i]:
            assert np.abs(one - other).max() > 0.01


def test_without_a_persona_the_model_sees_the_bare_template(
    personalizer: Personalizer, files: tuple[Path, Path]
) -> None:
    answer = personalizer.stream(PROMPT, None, GREEDY)
    assert answer.conditioning is None
    with LLM(files[0], n_threads=1) as bare:
        bare_segments = [Text("Q: ", True), Text(PROMPT), Text("\nA: ", True)]
        assert answer.read() == bare.generate(bare_segments, GREEDY).read() != ""
        np.testing.assert_array_equal(logits(personalizer, None), bare.logits(bare_segments))


def test_soft_tokens_stand_where_the_template_has_them(
    personalizer: Personalizer, anna: Persona
) -> None:
    soft = personalizer.condition(PROMPT, anna).soft
    tokens = personalizer.llm.tokens(personalizer.segments(PROMPT, soft))
    assert tokens == personalizer.llm.tokens(personalizer.segments(PROMPT, None)) + [-1] * N_SOFT


def test_an_answer_is_what_the_model_writes_on_from_prompt_and_soft_tokens(
    personalizer: Personalizer, anna: Persona
) -> None:
    plain = Blend(turns=0, ngrams=False, style=0, rules=False, soft=True)
    answer = personalizer.stream(PROMPT, anna, GREEDY, blend=plain)
    heard = answer.conditioning
    assert heard is not None
    segments = personalizer.segments(PROMPT, heard.soft)
    assert answer.read() == personalizer.llm.generate(segments, GREEDY).read()
    assert answer.generation.prompt_tokens == len(personalizer.llm.tokens(segments))
    assert answer.generation.text != personalizer.stream(PROMPT, None, GREEDY).read()


def test_an_answer_comes_in_pieces_that_add_up(personalizer: Personalizer, anna: Persona) -> None:
    answer = personalizer.stream(PROMPT, anna, GREEDY)
    assert "".join(answer) == answer.generation.text
    assert answer.generation.finish in ("stop", "length")
    assert answer.conditioning is not None


def test_the_same_seed_writes_the_same_answer(personalizer: Personalizer, anna: Persona) -> None:
    def write(seed: int) -> str:
        sampling = Sampling(temperature=1.5, max_tokens=40, seed=seed)
        return personalizer.stream(PROMPT, anna, sampling).read()

    assert write(7) == write(7)
    assert len({write(seed) for seed in range(5)}) > 1


def test_an_answer_cancelled_from_another_thread_ends(
    personalizer: Personalizer, anna: Persona
) -> None:
    answer = personalizer.stream(PROMPT, anna, Sampling(max_tokens=400, seed=1))
    pieces = iter(answer)
    next(pieces)
    thread = threading.Thread(target=answer.cancel)
    thread.start()
    thread.join()
    assert len(list(pieces)) < 100
    assert answer.generation.finish == "cancelled"


# --- what does not fit ---


def test_another_model_is_refused_with_both_named(files: tuple[Path, Path], tmp_path: Path) -> None:
    other = tiny_gguf.write(tmp_path / "other.gguf", "gemma", seed=3)
    with pytest.raises(PlugError) as caught:
        Personalizer.open(other, files[1])
    message = str(caught.value)
    assert "wanted llama, found gemma" in message
    assert str(other) in message
    assert "tiny-0" in message


def test_after_a_refusal_the_model_is_free(files: tuple[Path, Path], tmp_path: Path) -> None:
    other = tiny_gguf.write(tmp_path / "other.gguf", seed=3)
    for _ in range(30):
        with pytest.raises(PlugError):
            Personalizer.open(other, files[1])
    with LLM(other) as llm:
        assert llm.n_vocab == tiny_gguf.N_VOCAB


def test_a_store_of_another_plug_is_refused(
    personalizer: Personalizer, files: tuple[Path, Path], anna: Persona, tmp_path: Path
) -> None:
    tiny_plug.write(tmp_path / "other", files[0], seed=9)
    with (
        Personalizer.open(files[0], tmp_path / "other") as other,
        pytest.raises(StoreError, match="made for plug"),
    ):
        other.persona(anna.path)


def test_a_store_moved_elsewhere_still_answers(
    personalizer: Personalizer, anna: Persona, tmp_path: Path
) -> None:
    before = personalizer.condition(PROMPT, anna).soft
    anna.close()
    shutil.move(tmp_path / "anna", tmp_path / "moved")
    with personalizer.persona(tmp_path / "moved", read_only=True) as moved:
        np.testing.assert_array_equal(personalizer.condition(PROMPT, moved).soft, before)


def test_a_prompt_over_the_context_says_how_long_it_is(
    personalizer: Personalizer, anna: Persona
) -> None:
    with pytest.raises(ModelError, match=r"the prompt takes \d+ tokens, and 512 fit"):
        personalizer.stream("word " * 1000, anna)


@pytest.mark.parametrize("prompt", ["", " ", "🧀" * 20, "a\0b"])
def test_an_odd_prompt_is_answered(personalizer: Personalizer, anna: Persona, prompt: str) -> None:
    answer = personalizer.stream(prompt, anna, Sampling(temperature=0, max_tokens=3))
    answer.read()
    assert answer.generation.finish is not None


def test_half_a_surrogate_pair_in_a_prompt_is_refused(
    personalizer: Personalizer, anna: Persona
) -> None:
    with pytest.raises(ModelError):
        personalizer.stream("a\ud800b", anna).read()


def test_it_may_be_closed_twice(files: tuple[Path, Path]) -> None:
    opened = Personalizer.open(*files)
    opened.close()
    opened.close()


def test_closed_it_says_so(files: tuple[Path, Path]) -> None:
    with Personalizer.open(*files) as opened:
        pass
    with pytest.raises(ModelError, match="closed"):
        opened.stream(PROMPT)


# --- opening ---


@pytest.mark.parametrize("model", ["here", "gone"])
def test_what_is_wrong_with_the_plug_is_told_first(
    files: tuple[Path, Path], tmp_path: Path, model: str
) -> None:
    path = files[0] if model == "here" else tmp_path / "none.gguf"
    with pytest.raises(PlugError, match="no such plug"):
        Personalizer.open(path, tmp_path / "none", n_threads=1)


@pytest.mark.parametrize(
    ("plug", "n_ctx", "error"), [("none at all", 64, PlugError), ("none", 0, ModelError)]
)
def test_a_file_that_was_read_in_vain_is_closed(
    files: tuple[Path, Path], plug: str, n_ctx: int, error: type[Exception]
) -> None:
    file = Future[OpenedFile]()
    opened = OpenedFile(files[0], n_threads=1)
    file.set_result(opened)
    with pytest.raises(error):
        Personalizer.joined(file, plug, n_ctx=n_ctx)
    assert opened.weights.pointer is None


def test_a_model_that_is_missing_is_told_of(files: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"none\.gguf"):
        Personalizer.open(tmp_path / "none.gguf", files[1], n_threads=1)
