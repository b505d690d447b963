"""Each architecture feeds soft tokens its own way; embedding rows must stand for their tokens."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from ppedge.blend import Blend
from ppedge.errors import ModelError
from ppedge.llm.llm import LLM
from ppedge.llm.sampling import Sampling
from ppedge.llm.segments import Soft, Text
from ppedge.notes.reader import Note
from ppedge.personalizer import Personalizer
from ppedge.plug.template import Part
from tests import tiny_gguf, tiny_plug

SCALES = {"llama": 1, "gemma": 1, "gemma2": 1, "gemma3": 8, "qwen2vl": 1, "t5": 1, "mamba": 1}
# Longer than gemma's window of 16, with a line of text on each side of the soft tokens.
BEFORE, MIDDLE, AFTER = "bcdfgh" * 3, "jklmn", "pqrs" * 3


@pytest.fixture(scope="module", params=SCALES)
def llm(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LLM]:
    path = tmp_path_factory.mktemp("arch") / f"{request.param}.gguf"
    with LLM(tiny_gguf.write(path, request.param), n_threads=1) as model:
        yield model


def soft(llm: LLM, text: str) -> Soft:
    return Soft(llm.embedding_rows(llm.tokenize(text)))


def close(found: np.ndarray, wanted: np.ndarray) -> None:
    """Batches of other sizes sum float32 in another order; a wrong scale is off by 0.1 and more."""
    np.testing.assert_allclose(found, wanted, atol=2e-5)


def test_the_scale_is_found(llm: LLM) -> None:
    assert llm.embedding_scale == SCALES[llm.architecture]


def test_rows_stand_for_their_tokens(llm: LLM) -> None:
    wanted = llm.logits([Text(BEFORE + MIDDLE + AFTER)])
    assert llm.tokenize(BEFORE + MIDDLE) == llm.tokenize(BEFORE) + llm.tokenize(MIDDLE)
    close(llm.logits([soft(llm, BEFORE + MIDDLE + AFTER)]), wanted)
    close(llm.logits([Text(BEFORE), soft(llm, MIDDLE), Text(AFTER)]), wanted)
    close(llm.logits([soft(llm, BEFORE), Text(MIDDLE), soft(llm, AFTER)]), wanted)


def test_what_is_held_outlives_that_the_scale_is_found(llm: LLM) -> None:
    with LLM(llm.path, n_threads=1) as fresh:
        writing = fresh.generate([Text(BEFORE)], Sampling(temperature=0, max_tokens=8))
        begun = next(writing)
        found = fresh.logits([Text(BEFORE), soft(fresh, MIDDLE)])
        assert (
            begun + "".join(writing)
            == llm.generate([Text(BEFORE)], Sampling(temperature=0, max_tokens=8)).read()
        )
        close(found, llm.logits([Text(BEFORE + MIDDLE)]))


def test_rows_that_no_scale_leaves_finite_are_refused(llm: LLM) -> None:
    rows = soft(llm, MIDDLE).vectors.copy()
    rows[2] = 1e38
    with pytest.raises(ModelError, match="segment 1: soft token 2 holds a NaN or an infinity"):
        llm.logits([Text(BEFORE), Soft(rows)])


def test_another_scale_would_show(llm: LLM) -> None:
    wanted = llm.logits([Text(BEFORE + MIDDLE)])
    rows = soft(llm, MIDDLE).vectors
    for wrong in (8, 1 / 8):
        found = llm.logits([Text(BEFORE), Soft(rows * np.float32(wrong))])
        assert np.abs(found - wanted).max() > 0.1


def test_small_batches_change_nothing(llm: LLM) -> None:
    with LLM(llm.path, n_threads=1, n_batch=5) as small:
        segments = [Text(BEFORE), soft(llm, MIDDLE * 4), Text(AFTER)]
        close(small.logits(segments), llm.logits(segments))


def test_a_kept_beginning_changes_nothing(llm: LLM) -> None:
    wanted = llm.logits([Text(BEFORE), soft(llm, MIDDLE), Text(AFTER)])
    llm.logits([Text(BEFORE), soft(llm, MIDDLE), Text("x" * 30)])
    close(llm.logits([Text(BEFORE), soft(llm, MIDDLE), Text(AFTER)]), wanted)


def test_generation_follows_the_likeliest_tokens(llm: LLM) -> None:
    prompt, likeliest = llm._prompt([Text(BEFORE), soft(llm, MIDDLE)]), []
    greedy = Sampling(temperature=0, max_tokens=6, dry_multiplier=0)
    answer = llm.generate([Text(BEFORE), soft(llm, MIDDLE)], greedy)
    answer.read()
    for _ in range(answer.new_tokens):
        with llm._model.lock:
            llm._model.context.clear()
            llm._cache._held, llm._cache._encoded = [], []
            llm._cache.sync(prompt, answer._cancel)
            likeliest.append(int(llm._cache.logits().argmax()))
        prompt.decoder.append(likeliest[-1])
    assert answer._prompt.decoder[-answer.new_tokens :] == likeliest


def test_scores_add_up(llm: LLM) -> None:
    prompt = [Text(BEFORE), soft(llm, MIDDLE)]
    whole, first, other = llm.score(prompt, ["bcd", "b", "bcf"])
    assert whole.tokens == 3
    assert whole.logprob < first.logprob < 0
    assert llm.score(prompt, ["bcf"])[0].logprob == pytest.approx(other.logprob, abs=1e-4)
    if not llm.has_encoder:
        (rest,) = llm.score([*prompt, Text("b")], ["cd"])
        assert first.logprob + rest.logprob == pytest.approx(whole.logprob, abs=1e-3)


def test_scores_and_texts_are_those_of_the_tokens(llm: LLM) -> None:
    plain, mixed = [Text(BEFORE + MIDDLE)], [Text(BEFORE), soft(llm, MIDDLE)]
    options = ["bcd", "q", ""]
    wanted = llm.score(plain, options, end=True)
    for found, score in zip(llm.score(mixed, options, end=True), wanted, strict=True):
        assert found.logprob == pytest.approx(score.logprob, abs=1e-3)
    greedy = Sampling(temperature=0, max_tokens=8)
    assert llm.generate(mixed, greedy).read() == llm.generate(plain, greedy).read()


def test_a_cleared_context_answers_the_same(llm: LLM) -> None:
    segments = [Text(BEFORE), soft(llm, MIDDLE), Text(AFTER)]
    llm.clear()
    wanted = llm.logits(segments)
    llm.clear()
    np.testing.assert_array_equal(llm.logits(segments), wanted)


def test_an_encoder_closes_its_input_and_takes_no_bos(tmp_path: Path) -> None:
    with LLM(tiny_gguf.write(tmp_path / "t5.gguf", "t5"), n_threads=1) as llm:
        body = llm.tokenize("bcd")
        assert llm.has_encoder
        assert llm.tokens([Text("bcd")]) == [*body, tiny_gguf.EOS]
        assert llm.tokens([Text("bcd</s>", special=True)]) == [*body, tiny_gguf.EOS]


def test_an_encoder_reads_the_whole_prompt_again_when_it_changes(tmp_path: Path) -> None:
    with LLM(tiny_gguf.write(tmp_path / "t5.gguf", "t5"), n_threads=1) as llm:
        first = llm.logits([Text("bcdf")])
        assert np.abs(llm.logits([Text("bcdg")]) - first).max() > 0.01
        np.testing.assert_array_equal(llm.logits([Text("bcdf")]), first)
        assert llm.prefill([Text("bcdf")]) == 5


def test_an_encoder_that_overflows_says_how_many_tokens_fit(tmp_path: Path) -> None:
    path = tiny_gguf.write(tmp_path / "t5.gguf", "t5", n_ctx=64)
    with (
        LLM(path, n_threads=1) as llm,
        pytest.raises(ModelError, match="takes 81 tokens, and 64 fit"),
    ):
        llm.logits([Text("b" * 80)])


@pytest.mark.parametrize("architecture", ["bert", "gemma-embedding"])
def test_a_model_that_only_embeds_is_refused(tmp_path: Path, architecture: str) -> None:
    path = tiny_gguf.write(tmp_path / "model.gguf", architecture)
    with pytest.raises(ModelError, match=r"embeds? text; (they|it) cannot write any"):
        LLM(path)


def test_a_model_that_reads_soft_tokens_unlike_tokens_takes_none(tmp_path: Path) -> None:
    """Gemma 3n adds per-layer inputs by token id, which a soft token has none of."""
    path = tiny_gguf.write(tmp_path / "model.gguf", "gemma3n")
    refused = pytest.raises(ModelError, match="architecture 'gemma3n' cannot take soft tokens")
    with LLM(path, n_threads=1) as llm:
        before = llm.logits([Text(BEFORE)])
        for _ in range(2):
            with refused:
                llm.logits([Text(BEFORE), soft(llm, MIDDLE)])
        with refused:
            llm.ensure_steerable(llm.n_layer - 1)
        with refused:
            assert llm.embedding_scale
        np.testing.assert_array_equal(llm.logits([Text(BEFORE)]), before)


def test_such_a_model_writes_from_notes_without_a_plug(tmp_path: Path) -> None:
    path = tiny_gguf.write(tmp_path / "model.gguf", "gemma3n")
    with (
        Personalizer.open(path, "none", n_threads=1) as opened,
        opened.persona(tmp_path / "anna") as anna,
    ):
        anna.add([Note(f"a note {i} on bread") for i in range(8)], opened.plug.encode_notes)
        answer = opened.stream("rain", anna, Sampling(temperature=0, max_tokens=8))
        assert answer.read()


# --- an encoder-decoder model with a plug: Flan-T5 is the paper's own ----------------------------


@pytest.fixture
def t5(tmp_path: Path) -> Iterator[Personalizer]:
    model = tiny_gguf.write(tmp_path / "t5.gguf", "t5")
    template = (Part(slot="soft"), Part("say: "), Part(slot="prompt"))
    plug = tiny_plug.write(tmp_path / "plug", model, template=template)
    with Personalizer.open(model, plug, n_threads=1) as opened:
        yield opened


def test_an_encoder_reads_a_persona_and_a_prompt_as_one(t5: Personalizer, tmp_path: Path) -> None:
    notes = [Note(f"a note {i} on bread", id=str(i)) for i in range(8)]
    greedy = Sampling(temperature=0, max_tokens=8)
    soft_alone = Blend(turns=0, soft=True, style=0, rules=False, topic=0)
    with t5.persona(tmp_path / "anna") as anna, t5.persona(tmp_path / "nobody") as nobody:
        anna.add(notes, t5.plug.encode_notes)
        soft = t5.condition("rain", anna).soft
        segments = t5.segments("rain", soft)
        body = t5.llm.tokenize("say: ") + t5.llm.tokenize("rain")
        assert t5.llm.tokens(segments) == [*[-1] * len(soft), *body, tiny_gguf.EOS]
        answer = t5.stream("rain", anna, greedy, blend=soft_alone)
        assert answer.read() == t5.llm.generate(segments, greedy).read()
        assert answer.generation.prompt_tokens == len(t5.llm.tokens(segments))
        assert t5.llm.beam_search(segments, width=1, max_tokens=8).text == answer.generation.text
        with_notes = t5.llm.logits(segments)
        without = t5.llm.logits(t5.segments("rain", t5.condition("rain", nobody).soft))
        assert np.abs(with_notes - without).max() > 1e-3


def test_an_encoder_decoder_with_its_own_tokenizer_reads_soft_tokens(tmp_path: Path) -> None:
    """T5 cuts text into unigrams: a space before each segment, no space doubled, EOS behind."""
    path = tiny_gguf.write(tmp_path / "t5.gguf", "t5", letters="abcdefgh", unigram=True)
    with LLM(path, n_threads=1) as llm:
        a, space = tiny_gguf.BYTES, tiny_gguf.BYTES + 8
        assert llm.tokens([Text("ab  c")]) == [space, a, a + 1, space, a + 2, tiny_gguf.EOS]
        rows = Soft(llm.embedding_rows([space, a + 3, a + 4]))
        plain, mixed = [Text("ab"), Text("de"), Text("c")], [Text("ab"), rows, Text("c")]
        close(llm.logits(mixed), llm.logits(plain))
        greedy = Sampling(temperature=0, max_tokens=8)
        text = llm.generate(mixed, greedy).read()
        assert text == llm.generate(plain, greedy).read()
        assert text == llm.beam_search(mixed, width=1, max_tokens=8).text
        assert llm.score(mixed, ["gab"], end=True) == llm.score(plain, ["gab"], end=True)


def test_an_encoder_searches_with_soft_tokens_as_with_their_text(tmp_path: Path) -> None:
    with LLM(tiny_gguf.write(tmp_path / "t5.gguf", "t5"), n_threads=1) as llm:
        plain, mixed = [Text(BEFORE + MIDDLE)], [Text(BEFORE), soft(llm, MIDDLE)]
        for width in (1, 3):
            found, wanted = (
                llm.beam_search(segments, width=width, max_tokens=6) for segments in (mixed, plain)
            )
            assert found.text == wanted.text
            assert found.logprob == pytest.approx(wanted.logprob, abs=1e-4)
