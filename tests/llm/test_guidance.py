"""Guidance: the formula by hand, and its two ends against the models that they stand for."""

import json

import numpy as np
import pytest

from ppedge.blend import PARTS, Blend
from ppedge.errors import ModelError
from ppedge.llm.guidance import MAX_STRENGTH, guided
from ppedge.llm.llm import LLM, Sampling
from ppedge.llm.segments import Soft, Text
from ppedge.notes.reader import Note
from ppedge.personalizer import Personalizer
from tests import tiny_gguf, tiny_plug
from tests.command import Command

GREEDY = Sampling(max_tokens=12, temperature=0.0)
PLUG = Blend().without(*PARTS).with_parts("soft", "control", "ngrams")


def log_softmax(x):
    x = np.asarray(x, np.float64)
    return x - x.max() - np.log(np.exp(x - x.max()).sum())


CAUSAL = ("llama", "gemma2", "mamba")


@pytest.fixture(scope="module", params=[*CAUSAL, "t5"])
def llm(tmp_path_factory, request):
    path = tiny_gguf.write(tmp_path_factory.mktemp("guided") / "tiny.gguf", request.param)
    with LLM(path, n_ctx=64) as llm:
        yield llm


@pytest.fixture(scope="module")
def prompts(llm):
    return prompts_of(llm)


def prompts_of(llm):
    """A prompt with soft tokens, and the same without."""
    rng = np.random.default_rng(0)
    soft = Soft(rng.normal(0, 1, (3, llm.n_embd)).astype(np.float32))
    return [Text("ab"), soft], [Text("ab")]


# --- the formula ----------------------------------------------------------------------------------


def test_the_formula_by_hand():
    p, b = np.float32([2.0, 1.0, 0.5]), np.float32([1.0, 1.5, 0.0])
    for strength in (0.0, 0.5, 1.0, 2.0):
        wanted = log_softmax(b) + strength * (log_softmax(p) - log_softmax(b))
        np.testing.assert_allclose(guided(p, b, strength), wanted, atol=1e-6)


def test_its_ends_are_the_two_distributions():
    rng = np.random.default_rng(1)
    p, b = (rng.normal(0, 4, 500).astype(np.float32) for _ in range(2))
    np.testing.assert_allclose(guided(p, b, 0.0), log_softmax(b), atol=1e-5)
    np.testing.assert_allclose(guided(p, b, 1.0), log_softmax(p), atol=1e-5)


def test_what_is_hardly_possible_gains_nothing_and_what_is_likely_does():
    p = np.float32([0.0, -1.0, -9.0, -9.0])
    b = np.float32([0.0, -3.0, -30.0, 0.0])
    pushed, plain = guided(p, b, 3.0), log_softmax(p)
    assert pushed[1] > plain[1] + 1
    assert pushed[2] == pytest.approx(plain[2], abs=1e-5)
    assert pushed[3] < plain[3] - 1


def test_what_is_ruled_out_stays_ruled_out():
    p, b = np.float32([0.0, -np.inf, 1.0]), np.float32([0.0, 5.0, 1.0])
    for strength in (0.0, 0.5, 2.0):
        found = guided(p, b, strength)
        assert found[1] == -np.inf
        assert np.isfinite(found[[0, 2]]).all()


# --- the language model ---------------------------------------------------------------------------


def test_strength_0_writes_as_after_the_other_prompt_and_1_as_without(llm, prompts):
    with_soft, without = prompts
    bare = llm.generate(without, GREEDY).read()
    persona = llm.generate(with_soft, GREEDY).read()
    assert bare != persona
    assert llm.generate(with_soft, GREEDY, processor=llm.guide(without, 0.0)).read() == bare
    assert llm.generate(with_soft, GREEDY, processor=llm.guide(without, 1.0)).read() == persona


@pytest.mark.parametrize("strength", [0.5, 2.0])
@pytest.mark.parametrize("llm", CAUSAL, indirect=True)
def test_scores_are_those_of_the_formula_token_by_token(llm, strength):
    with_soft, without = prompts_of(llm)
    ids = llm.tokenize("cab")
    [found] = llm.score(with_soft, ["cab"], processor=llm.guide(without, strength))
    wanted = 0.0
    for place, token in enumerate(ids):
        written = "cab"[:place]
        p = llm.logits([*with_soft, Text(written)] if written else with_soft)
        b = llm.logits([*without, Text(written)] if written else without)
        wanted += log_softmax(guided(p, b, strength))[token]
    assert found.logprob == pytest.approx(wanted, abs=1e-4)


def test_a_mix_has_its_say_before(llm, prompts):
    with_soft, without = prompts
    token = llm.tokenize("d")[0]

    def only(logits, written):
        found = np.full_like(logits, -np.inf)
        found[token] = 0
        return found

    sampling = Sampling(max_tokens=3, temperature=0.0)
    assert (
        llm.generate(with_soft, sampling, processor=llm.guide(without, 2.0, only)).read() == "ddd"
    )


def test_what_the_first_context_holds_is_left_alone(llm, prompts):
    with_soft, without = prompts
    held, logits = llm.prefill(with_soft), llm.logits(with_soft)
    moved = llm.guide(without, 2.0)(logits.copy(), [])
    assert not np.allclose(moved, logits)
    assert llm.prefill(with_soft) == held
    np.testing.assert_array_equal(llm.logits(with_soft), logits)


def test_a_closed_model_guides_no_more(tmp_path):
    llm = LLM(tiny_gguf.write(tmp_path / "tiny.gguf"), n_ctx=64)
    processor = llm.guide([Text("ab")], 2.0)
    llm.generate([Text("cd")], GREEDY, processor=processor).read()
    llm.close()
    with pytest.raises(ModelError, match="closed"):
        processor(np.zeros(llm.n_vocab, np.float32), [])


@pytest.mark.parametrize("strength", [-0.1, MAX_STRENGTH + 0.1, float("nan")])
def test_a_strength_out_of_range_is_refused(llm, prompts, strength):
    with pytest.raises(ModelError, match="strength must be 0 to 5, not"):
        llm.guide(prompts[1], strength)


# --- personas -------------------------------------------------------------------------------------


def test_a_persona_s_strength_runs_from_the_bare_model_to_itself(tmp_path):
    model = tiny_gguf.write(tmp_path / "tiny.gguf")
    plug = tiny_plug.write(tmp_path / "plug", model)
    with (
        Personalizer.open(model, plug, n_ctx=128) as personalizer,
        personalizer.persona(tmp_path / "me") as persona,
    ):
        persona.add([Note("abab"), Note("cdcd")], personalizer.plug.encode_notes)

        def say(who, **more):
            return personalizer.stream("ab", who, GREEDY, blend=PLUG, **more).read()

        assert say(persona, strength=0.0) == say(None)
        assert say(persona, strength=1.0) == say(persona)
        assert say(None, strength=3.0) == say(None)
        with pytest.raises(ModelError, match="strength must be"):
            say(None, strength=9.0)


def test_the_command_takes_a_strength(tmp_path):
    notes = tmp_path / "notes.jsonl"
    notes.write_text(json.dumps({"text": "ab"}) + "\n")
    model = tiny_gguf.write(tmp_path / "tiny.gguf")
    plug = tiny_plug.write(tmp_path / "plug", model)
    ppedge = Command(tmp_path / "home")
    words = ["personalize", "ab", "--model", model, "--plug", plug, "--seed", "1"]
    words += ["--temperature", "0", "--max-tokens", "8"]
    own = [*words, "--history", notes]
    bare = ppedge.good(*words, "--no-persona")
    assert ppedge.good(*own, "--strength", "0") == bare != ppedge.good(*own)
    assert ppedge.good(*own, "--strength", "1") == ppedge.good(*own)
    refused = ppedge(*own, "--strength", "6")
    assert refused.returncode == 2
    assert b"--strength" in refused.stderr
