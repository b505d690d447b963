"""The n-gram cache by its formula, and what it does to a model's scores and texts."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ppedge.blend import PARTS, Blend
from ppedge.errors import ModelError
from ppedge.llm.llm import LLM, Cancel, LogitsProcessor
from ppedge.llm.ngram_cache import MAX_TOKENS, Gate, NgramCache, NgramCacheBuilder, NgramCacheConfig
from ppedge.llm.sampling import Sampling
from ppedge.llm.segments import Soft, Text
from ppedge.notes.reader import Note
from ppedge.personalizer import Personalizer
from ppedge.store.persona import Persona
from tests import tiny_gguf, tiny_plug

N_VOCAB = 9
TRUSTING = [Gate(20.0, 0.0, 0.0, 0.0)] * 5
EASY = [Gate(-1.0, 0.3, -0.4, 0.5), Gate(-0.5, 0.8, -1.0, 0.2), Gate(0.5, 0.5, -0.5, -0.3)]


# --- the formula --------------------------------------------------------------------------------


def blended(
    texts: Sequence[Sequence[int]],
    weights: Sequence[float],
    gates: Sequence[Gate],
    logits: Sequence[float],
    written: Sequence[int],
) -> list[float]:
    """Probabilities by the module's formula, read off the notes token by token."""
    exps = [math.exp(logit - max(logits)) for logit in logits]
    p = [value / sum(exps) for value in exps]
    entropy = -sum(share * math.log(share) for share in p if share)
    mean = sum(weights) / len(weights) if weights else 1.0
    begin = ["<"] * len(gates)
    before = [*begin, *written]
    for order, gate in enumerate(gates):
        counts: dict[int, float] = {}
        for text, weight in zip(texts, weights, strict=True):
            tokens = [*begin, *text]
            for place in range(len(begin), len(tokens)):
                if tokens[place - order : place] == before[len(before) - order :]:
                    token = tokens[place]
                    counts[token] = counts.get(token, 0.0) + weight / mean
        if not counts:
            continue
        total = sum(counts.values())
        score = gate.bias + gate.total * math.log(total) + gate.kinds * math.log(len(counts))
        score += gate.entropy * math.log(entropy + 0.01)
        g = 1 / (1 + math.exp(-score))
        p = [(1 - g) * p[t] + g * counts.get(t, 0.0) / total for t in range(len(p))]
    return p


tokens = st.lists(st.integers(0, N_VOCAB - 1), max_size=12)
terms = st.floats(-3, 3)
all_gates = st.lists(st.builds(Gate, terms, terms, terms, terms), min_size=1, max_size=5)
all_logits = st.lists(st.floats(-8, 8, width=32), min_size=N_VOCAB, max_size=N_VOCAB)


@given(st.lists(st.tuples(tokens, st.floats(1e-3, 1.0)), max_size=5), all_gates, all_logits, tokens)
@settings(deadline=None, max_examples=300)
def test_a_memory_blends_by_the_formula(
    notes: list[tuple[list[int], float]],
    gates: list[Gate],
    logits: list[float],
    written: list[int],
) -> None:
    texts, weights = [text for text, _ in notes], [weight for _, weight in notes]
    memory = NgramCache(texts, weights, gates)
    found = memory.process(np.array(logits, np.float32), written)
    assert found.dtype == np.float32
    wanted = blended(texts, weights, gates, logits, written)
    np.testing.assert_allclose(found, np.log(wanted), rtol=1e-6, atol=2e-6)
    assert np.exp(found.astype(np.float64)).sum() == pytest.approx(1, abs=1e-6)
    share, added = memory.blend(written, entropy=1.5)
    assert share + added.sum() == pytest.approx(1, abs=1e-12)


def test_a_memory_blends_as_counted_by_hand() -> None:
    # "1 2 0" weighs thrice what "1 3 0" does: mean 2, so 1.5 and 0.5. Gates are all a half.
    gates = [Gate(0.0, 0.0, 0.0, 0.0)] * 2
    memory = NgramCache([[1, 2, 0], [1, 3, 0]], [3.0, 1.0], gates)
    uniform = np.zeros(4, np.float32)
    # Order 0: 0 and 1 twice (2 of 6 each), 2 as 1.5, 3 as 0.5. Order 1 after 1: 2 and 3.
    first = [1 / 2 * 1 / 4 + 1 / 2 * c / 6 for c in (2, 2, 1.5, 0.5)]
    after_1 = [p / 2 + q / 2 for p, q in zip(first, (0, 0, 0.75, 0.25), strict=True)]
    np.testing.assert_allclose(np.exp(memory.process(uniform, [1])), after_1, rtol=1e-6)
    at_start = [p / 2 + q / 2 for p, q in zip(first, (0, 1, 0, 0), strict=True)]
    np.testing.assert_allclose(np.exp(memory.process(uniform, [])), at_start, rtol=1e-6)
    # Nothing ever followed 0: order 1 has no say.
    np.testing.assert_allclose(np.exp(memory.process(uniform, [1, 2, 0])), first, rtol=1e-6)


@given(all_logits, tokens, st.sampled_from([([], []), ([[]], [1.0])]))
@settings(deadline=None, max_examples=40)
def test_an_empty_memory_leaves_the_distribution_as_it_is(
    logits: list[float], written: list[int], nothing: tuple[list[list[int]], list[float]]
) -> None:
    given_logits = np.array(logits, np.float32)
    found = NgramCache(*nothing, EASY).process(given_logits, written)
    exact = given_logits.astype(np.float64)
    wanted = exact - np.log(np.exp(exact).sum())
    np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=2e-6)


def test_the_scale_of_weights_does_not_count() -> None:
    texts, logits = [[1, 2, 0], [3, 1, 0]], np.zeros(N_VOCAB, np.float32)
    one = NgramCache(texts, [0.25, 0.5], EASY).process(logits, [1])
    np.testing.assert_allclose(NgramCache(texts, [1e-9, 2e-9], EASY).process(logits, [1]), one)


@pytest.mark.parametrize("bound", [100.0, -100.0])
def test_no_gate_however_wide_makes_a_token_impossible(bound: float) -> None:
    gates = [Gate(bound, bound, bound, bound)] * 8
    memory = NgramCache([[1, 2, 3, 4, 5, 6, 7, 0]] * 9, [1e-30, *[1.0] * 8], gates)
    logits = np.array([-300.0] + [0.0] * (N_VOCAB - 1), np.float32)
    for length in range(8):
        found = memory.process(logits, [1, 2, 3, 4, 5, 6, 7][:length])
        assert np.isfinite(found).all()


def test_a_token_that_the_model_rules_out_is_as_likely_as_the_notes_make_it() -> None:
    logits = np.zeros(4, np.float32)
    logits[1:3] = -np.inf
    found = np.exp(NgramCache([[1]], [1.0], [Gate(0.0, 0.0, 0.0, 0.0)]).process(logits, []))
    np.testing.assert_allclose(found, [0.25, 0.5, 0.0, 0.25], rtol=1e-6)


def test_a_memory_has_less_say_where_the_model_is_sure() -> None:
    memory = NgramCache([[1]], [1.0], [Gate(0.0, 0.0, 0.0, 1.0)])
    shares = []
    for gap in (0.0, 2.0, 5.0, 50.0, np.inf):
        logits = np.array([0.0, *[-gap] * 8], np.float32)
        shares.append(
            math.exp(memory.process(logits, [])[0]) / math.exp(-math.log1p(8 * math.exp(-gap)))
        )
    # Gates are H / (1 + H), with the hundredth added: 1 - g = 1 / (1 + H).
    assert shares[0] == pytest.approx(1 / (1 + math.log(9) + 0.01), rel=1e-5)
    assert shares == sorted(shares)
    assert shares[3] == shares[4] == pytest.approx(1 / 1.01, rel=1e-5)


def test_the_models_own_logits_are_not_changed() -> None:
    logits = np.arange(N_VOCAB, dtype=np.float32)
    NgramCache([[1, 2]], [1.0], EASY).process(logits, [])
    np.testing.assert_array_equal(logits, np.arange(N_VOCAB))


# --- the hook in the model ----------------------------------------------------------------------

LETTERS = "abcd"
SOFT = Soft(np.random.default_rng(1).normal(0, 1, (2, tiny_gguf.N_EMBD)).astype(np.float32))
PROMPT = [Text("abca"), SOFT]


@pytest.fixture(scope="module", params=["llama", "t5", "mamba"])
def llm(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LLM]:
    path = tmp_path_factory.mktemp("literal") / "tiny.gguf"
    tiny_gguf.write(path, request.param, letters=LETTERS, unigram=request.param == "t5")
    with LLM(path, n_threads=1) as model:
        yield model


def memory_of(llm: LLM, *texts: str, gates: Sequence[Gate] = EASY) -> NgramCache:
    memory = NgramCacheBuilder(llm, NgramCacheConfig(99, tuple(gates))).build(
        [(Note(t), 1.0) for t in texts]
    )
    assert memory is not None
    return memory


def unprocessed(logits: np.ndarray, written: Sequence[int]) -> np.ndarray:
    return logits


SAMPLINGS = [
    {"temperature": 0},
    {"temperature": 1.5},
    {"temperature": 1.0, "top_k": 0, "top_p": 0.6, "min_p": 0},
    {"temperature": 2.0, "top_k": 3, "top_p": 1.0, "min_p": 0.1, "repeat_penalty": 1.4},
]


@pytest.mark.parametrize("how", SAMPLINGS)
def test_a_mix_that_changes_nothing_changes_no_text(llm: LLM, how: dict[str, Any]) -> None:
    for seed in range(4):
        sampling = Sampling(max_tokens=24, seed=seed, **how)
        plain = llm.generate(PROMPT, sampling)
        assert llm.generate(PROMPT, sampling, processor=unprocessed).read() == plain.read()


def test_a_mix_that_changes_nothing_changes_no_score_and_no_beam(llm: LLM) -> None:
    options = ["ab", "d", "cabd"]
    plain = llm.score(PROMPT, options, end=True)
    assert llm.score(PROMPT, options, end=True, processor=unprocessed) == plain
    assert llm.beam_search(PROMPT, width=3, max_tokens=6, processor=unprocessed) == llm.beam_search(
        PROMPT, width=3, max_tokens=6
    )


def test_a_mix_is_told_the_answers_tokens_and_nothing_of_the_prompt(llm: LLM) -> None:
    seen: list[tuple[int, ...]] = []

    def spy(logits: np.ndarray, written: Sequence[int]) -> np.ndarray:
        seen.append(tuple(written))
        logits[:] = logits  # It is a copy of its own.
        return logits

    llm.score(PROMPT, ["abd", "ab"], end=True, processor=spy)
    both = [tuple(llm.tokenize(option)) for option in ("abd", "ab")]
    assert seen == [ids[:n] for ids in both for n in range(len(ids) + 1)]
    seen.clear()
    answer = llm.generate(PROMPT, Sampling(temperature=0, max_tokens=3), processor=spy)
    text = answer.read()
    assert [len(written) for written in seen[: answer.new_tokens]] == [*range(answer.new_tokens)]
    assert text.startswith(b"".join(map(llm._model.piece, seen[-1])).decode())
    seen.clear()
    llm.beam_search(PROMPT, width=2, max_tokens=2, processor=spy)
    assert seen[0] == ()
    assert len(seen) <= 3


def test_a_score_is_the_sum_of_mixed_logs_step_by_step(llm: LLM) -> None:
    processor = memory_of(llm, "abdab", "abca").process
    [found] = llm.score(PROMPT, ["abdc"], end=True, processor=processor)
    assert llm.end_token is not None
    ids = [*llm.tokenize("abdc"), llm.end_token]
    total = 0.0
    prompt = llm._prompt(PROMPT)
    for place, token in enumerate(ids):
        with llm._model.lock:
            llm._cache.sync(prompt, Cancel())
            logits = llm._cache.logits()
        total += float(processor(logits, ids[:place])[token])
        prompt.decoder.append(token)
    assert found.tokens == len(ids)
    assert found.logprob == pytest.approx(total, abs=1e-4)
    assert found.logprob != pytest.approx(llm.score(PROMPT, ["abdc"], end=True)[0].logprob, abs=0.1)


def test_scores_with_a_memory_are_those_of_a_distribution(llm: LLM) -> None:
    processor = memory_of(llm, "abdab", "abca").process
    texts = ["".join(letters) for n in range(3) for letters in itertools.product("abcd", repeat=n)]
    options = texts if not llm.has_encoder else ["", "a", "ab"]
    total = sum(
        math.exp(s.logprob) for s in llm.score(PROMPT, options, end=True, processor=processor)
    )
    assert 0 < total < 1 + 1e-6


def test_one_beam_writes_what_greedy_sampling_does(llm: LLM) -> None:
    for texts in (["abdab", "abca"], ["dd"], ["cab"] * 3):
        processor = memory_of(llm, *texts).process
        beam = llm.beam_search(PROMPT, width=1, max_tokens=12, processor=processor)
        greedy = llm.generate(
            PROMPT, Sampling(temperature=0, max_tokens=12, dry_multiplier=0), processor=processor
        )
        assert beam.text == greedy.read()


def test_a_beam_has_the_score_of_its_text(llm: LLM) -> None:
    processor = memory_of(llm, "abdab", "abca", gates=TRUSTING).process
    beam = llm.beam_search(PROMPT, width=3, max_tokens=12, processor=processor)
    assert beam.finish == "stop"
    [score] = llm.score(PROMPT, [beam.text], end=True, processor=processor)
    assert beam.logprob == pytest.approx(score.logprob, abs=5e-3)


def test_a_trusted_memory_of_one_text_writes_it(llm: LLM) -> None:
    text = "dabbcadcb"
    memory = memory_of(llm, text, text, gates=TRUSTING)
    for sampling in (Sampling(temperature=0), Sampling(temperature=1, seed=3)):
        answer = llm.generate(PROMPT, sampling, processor=memory.process)
        # T5's tokenizer begins every text with a space.
        assert (answer.read().lstrip(), answer.finish) == (text, "stop")
    assert llm.beam_search(PROMPT, max_tokens=30, processor=memory.process).text.lstrip() == text
    assert llm.score(PROMPT, [text], end=True, processor=memory.process)[0].logprob > -1e-3


def test_with_a_memory_seeds_and_temperature_0_write_the_same_again(llm: LLM) -> None:
    processor = memory_of(llm, "abdab", "abca").process

    def write(**how: Any) -> str:
        return llm.generate(PROMPT, Sampling(max_tokens=20, **how), processor=processor).read()

    assert len({write(temperature=0) for _ in range(3)}) == 1
    assert write(temperature=2, seed=7) == write(temperature=2, seed=7)
    assert len({write(temperature=2, seed=seed) for seed in range(5)}) > 1


def returning(value: Any) -> LogitsProcessor:
    return lambda logits, written: value


WRONG: list[tuple[Any, str]] = [
    (None, "float32 .*, not NoneType"),
    (np.zeros(3, np.float32), r"not float32 \[3\]"),
    (np.zeros(tiny_gguf.BYTES + len(LETTERS) + 1), "not float64"),
    ([0.0], "not list"),
    (np.full(8, np.nan, np.float32), "largest is nan"),
    (np.array([0.0] * 7 + [np.nan], np.float32), "largest is nan"),
    (np.full(8, -np.inf, np.float32), "largest is -inf"),
    (np.array([np.inf] + [0.0] * 7, np.float32), "largest is inf"),
]


@pytest.mark.parametrize(("value", "said"), WRONG)
def test_a_mix_that_returns_something_else_is_named(llm: LLM, value: Any, said: str) -> None:
    assert llm.n_vocab == 8
    processor = returning(value)
    before = llm.logits(PROMPT).tobytes()
    for ask in (
        lambda: llm.generate(PROMPT, Sampling(temperature=1), processor=processor).read(),
        lambda: llm.score(PROMPT, ["ab"], processor=processor),
        lambda: llm.beam_search(PROMPT, max_tokens=3, processor=processor),
    ):
        with pytest.raises(ModelError, match=f"processor .*{said}") as caught:
            ask()
        assert "\n" not in str(caught.value)
    assert llm.logits(PROMPT).tobytes() == before


def test_an_impossible_token_is_never_drawn(llm: LLM) -> None:
    [b] = llm.tokenize("b")[-1:]

    def only_b(logits: np.ndarray, written: Sequence[int]) -> np.ndarray:
        logits[np.arange(len(logits)) != b] = -np.inf
        return logits

    for how in SAMPLINGS:
        sampling = Sampling(max_tokens=5, seed=1, **how)
        assert llm.generate(PROMPT, sampling, processor=only_b).read() == "bbbbb"


# --- notes --------------------------------------------------------------------------------------


def test_notes_are_their_outputs_tokens_and_the_end_of_a_text(llm: LLM) -> None:
    memory = memory_of(llm, "ab", "cd")
    assert memory.types.tolist() == sorted({*llm.tokenize("ab"), *llm.tokenize("cd"), 2})


def test_notes_that_cannot_be_heard_or_are_too_many_do_not_count(llm: LLM) -> None:
    wording = NgramCacheBuilder(llm, NgramCacheConfig(2, tuple(EASY)))
    pairs = [(Note("ab"), 0.7), (Note("ba"), 0.2), (Note("cc"), 0.1)]
    logits = llm.logits(PROMPT)

    def says(notes: list[tuple[Note, float]]) -> bytes:
        memory = wording.build(notes)
        assert memory is not None
        return memory.process(logits, []).tobytes()

    assert says(pairs) == says(pairs[:2]) != says(pairs[:1])
    assert says([*pairs[:1], (Note("ba"), 0.0)]) == says(pairs[:1])
    assert wording.build([]) is None
    assert wording.build([(Note("ab"), 0.0)]) is None


def test_a_long_note_is_cut_and_has_no_end(llm: LLM) -> None:
    memory = memory_of(llm, "ab" * MAX_TOKENS)
    assert sum(memory._first) == MAX_TOKENS
    assert 2 not in memory.types
    whole = memory_of(llm, "a" * (MAX_TOKENS - 3))
    assert 2 in whole.types


def test_a_text_of_few_tokens_but_many_characters_is_cut_too() -> None:
    class Words:
        """Tokenizes by runs of letters, however long; a real vocabulary has few such tokens."""

        end_token = 2

        def tokenize(self, text: str) -> list[int]:
            assert len(text) <= 32 * MAX_TOKENS
            return [3] * len(text.split())

    wording = NgramCacheBuilder(Words(), NgramCacheConfig(1, tuple(EASY)))  # type: ignore[arg-type]
    for size, types in ((100, [2, 3]), (10**6, [3])):
        memory = wording.build([(Note("a" * size), 1.0)])
        assert memory is not None
        assert memory.types.tolist() == types


# --- a person's notes, from their store ---------------------------------------------------------

ASKED = "write about rain"
ANNA = [Note(f"{word}, said ann. #bread", id=word) for word in ("rain", "sun", "snow", "wind")]
SPEC = {"max_notes": 3, "gates": [{"bias": -1.0, "total": 0.5, "kinds": -0.5, "entropy": 0.4}] * 3}


@pytest.fixture(scope="module")
def personalizer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Personalizer]:
    folder = tmp_path_factory.mktemp("files")
    model = tiny_gguf.write(folder / "tiny.gguf")
    plug = tiny_plug.write(folder / "plug", model)
    tiny_plug.edit(plug, lambda raw: raw.update(literal=SPEC))
    with Personalizer.open(model, plug, n_threads=1) as opened:
        yield opened


def persona_of(personalizer: Personalizer, folder: Path, notes: Sequence[Note]) -> Persona:
    persona = personalizer.persona(folder)
    persona.add(notes, personalizer.plug.encode_notes)
    return persona


def said(personalizer: Personalizer, persona: Persona) -> list[bytes]:
    """What the memory makes of some logits, after some beginnings."""
    memory = personalizer.condition(ASKED, persona).memory
    assert memory is not None
    logits = np.zeros(personalizer.llm.n_vocab, np.float32)
    ids = personalizer.llm.tokenize("rain, said ann. #bread")
    return [memory.process(logits, ids[:n]).tobytes() for n in range(len(ids))]


def test_the_notes_that_weigh_most_are_remembered_with_their_weights(
    personalizer: Personalizer, tmp_path: Path
) -> None:
    with persona_of(personalizer, tmp_path / "anna", ANNA) as persona:
        heard = personalizer.condition(ASKED, persona, heaviest=4)
        assert len(heard.heaviest) == 4
        assert heard.seconds["ngrams"] > 0
        llm = personalizer.llm
        assert llm.end_token is not None
        texts = [[*llm.tokenize(note.output), llm.end_token] for note, _ in heard.heaviest[:3]]
        wanted = NgramCache(
            texts, [w for _, w in heard.heaviest[:3]], [Gate(-1.0, 0.5, -0.5, 0.4)] * 3
        )
        assert heard.memory is not None
        for written in ([], texts[0][:4], texts[2]):
            (share, added), (wanted_share, wanted_added) = (
                memory.blend(written, entropy=2.0) for memory in (heard.memory, wanted)
            )
            assert share == wanted_share
            assert added.tobytes() == wanted_added.tobytes()
        assert len(personalizer.condition(ASKED, persona, heaviest=1).heaviest) == 1


PLUG = Blend().without(*PARTS).with_parts("soft", "control", "ngrams")


def test_answers_are_written_with_the_memory(personalizer: Personalizer, tmp_path: Path) -> None:
    sampling = Sampling(temperature=0, max_tokens=30)
    with persona_of(personalizer, tmp_path / "anna", ANNA) as persona:
        answer = personalizer.stream(ASKED, persona, sampling, blend=PLUG)
        heard = answer.conditioning
        assert heard is not None
        assert heard.memory is not None
        segments = personalizer.segments(ASKED, heard.soft)
        by_hand = personalizer.llm.generate(
            segments, sampling, processor=heard.memory.process
        ).read()
        assert answer.read() == by_hand
        assert by_hand != personalizer.llm.generate(segments, sampling).read()


def test_what_is_forgotten_leaves_no_trace_in_the_memory(
    personalizer: Personalizer, tmp_path: Path
) -> None:
    with (
        persona_of(personalizer, tmp_path / "all", ANNA) as persona,
        persona_of(personalizer, tmp_path / "rest", [*ANNA[:1], *ANNA[2:]]) as rest,
    ):
        before = said(personalizer, persona)
        persona.forget(ids=["sun"])
        after = said(personalizer, persona)
        assert after == said(personalizer, rest)
        assert after != before


def test_muted_notes_are_not_remembered(personalizer: Personalizer, tmp_path: Path) -> None:
    with (
        persona_of(personalizer, tmp_path / "all", ANNA[:3]) as persona,
        persona_of(personalizer, tmp_path / "two", ANNA[1:3]) as two,
    ):
        with_rain = said(personalizer, persona)
        persona.mute("rain")
        for muted, without in zip(
            said(personalizer, persona), said(personalizer, two), strict=True
        ):
            found, wanted = np.frombuffer(muted, "f4"), np.frombuffer(without, "f4")
            np.testing.assert_allclose(found, wanted, rtol=1e-5)
        assert said(personalizer, persona) != with_rain
        persona.mute("sun")
        persona.mute("snow")
        assert personalizer.condition(ASKED, persona).memory is None


def test_without_notes_or_without_gates_there_is_no_memory(
    personalizer: Personalizer, tmp_path: Path
) -> None:
    with personalizer.persona(tmp_path / "nobody") as nobody:
        heard = personalizer.condition(ASKED, nobody)
        assert heard.memory is None
        assert "ngrams" in heard.seconds
        sampling = Sampling(temperature=0, max_tokens=8)
        bare = personalizer.llm.generate(personalizer.segments(ASKED, heard.soft), sampling)
        assert personalizer.stream(ASKED, nobody, sampling, blend=PLUG).read() == bare.read()
    plain = tiny_plug.write(tmp_path / "plain", personalizer.llm.path)
    with (
        Personalizer.open(personalizer.llm.path, plain, n_threads=1) as without,
        persona_of(without, tmp_path / "anna", ANNA) as persona,
    ):
        heard = without.condition(ASKED, persona)
        assert heard.memory is None
        assert "ngrams" not in heard.seconds
