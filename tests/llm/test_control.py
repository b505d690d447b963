"""Control vectors: they steer from the soft tokens on, and nothing else that is asked."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ppedge.blend import PARTS, Blend
from ppedge.errors import ModelError, PlugError
from ppedge.llm.binding import context
from ppedge.llm.llm import LLM
from ppedge.llm.sampling import Sampling
from ppedge.llm.segments import Segment, Soft, Text
from ppedge.notes.reader import Note
from ppedge.personalizer import Personalizer
from ppedge.plug.plug import Plug
from tests import tiny_gguf, tiny_plug
from tests.command import Command

N_CONTROL = tiny_gguf.N_LAYER - 1
GREEDY = Sampling(max_tokens=12, temperature=0.0, dry_multiplier=0.0)
RNG = np.random.default_rng(5)
VECTORS = [RNG.normal(0, 1, (3, tiny_gguf.N_EMBD)).astype(np.float32) for _ in range(2)]
CONTROLS = [RNG.normal(0, 2, (N_CONTROL, tiny_gguf.N_EMBD)).astype(np.float32) for _ in range(2)]
ONE = [Text("abcd" * 3), Soft(VECTORS[0], CONTROLS[0]), Text("ca")]
BARE = [Text("abcd" * 3), Soft(VECTORS[0]), Text("ca")]


@pytest.fixture(scope="module", params=["llama", "gemma2", "gemma3"])
def llm(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LLM]:
    path = tmp_path_factory.mktemp("control") / "tiny.gguf"
    with LLM(tiny_gguf.write(path, request.param), n_ctx=96, n_threads=1) as model:
        yield model


def cold(llm: LLM, segments: list[Segment]) -> np.ndarray:
    llm.clear()
    return llm.logits(segments)


def log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits.astype(np.float64) - logits.max()
    return np.asarray(shifted - np.log(np.exp(shifted).sum()))


def test_a_control_vector_steers_and_zeros_do_not(llm: LLM) -> None:
    bare = cold(llm, BARE)
    assert np.abs(cold(llm, ONE) - bare).max() > 0.1
    zeros = Soft(VECTORS[0], np.zeros_like(CONTROLS[0]))
    np.testing.assert_allclose(cold(llm, [BARE[0], zeros, BARE[2]]), bare, atol=2e-5)


def test_what_stands_before_the_soft_tokens_is_not_steered(llm: LLM) -> None:
    """The same text on either side of the soft slot: only behind it does steering show."""
    before = cold(llm, [Text("abcd"), Soft(VECTORS[0])])
    llm.clear()
    llm.logits([Text("abcd"), Soft(VECTORS[1], CONTROLS[0])])
    # What was held of the other prompt, its text, is as if nothing had been steered.
    np.testing.assert_allclose(llm.logits([Text("abcd"), Soft(VECTORS[0])]), before, atol=2e-5)


PROMPTS: list[list[Segment]] = [
    [*head, Soft(vectors, control), *tail]
    for head in ([Text("abcd")], [Text("abca")], [])
    for vectors in VECTORS
    for control in (None, *CONTROLS)
    for tail in ([], [Text("dcb")])
] + [
    [Text("abcddcb")],
    [Text("abcd")],
    # Nothing is steered yet, but for what is still to be written.
    [Text("abcd"), Soft(VECTORS[0][:0], CONTROLS[0])],
]


def test_a_control_vector_behind_a_prompt_steers_what_follows(llm: LLM) -> None:
    bare, steered = [Text("abcd")], [Text("abcd"), Soft(VECTORS[0][:0], CONTROLS[0])]
    [wanted] = llm.score([*steered, Text("a")], ["b"])
    llm.logits(bare)
    both = llm.score(steered, ["ab"])[0].logprob
    first = float(log_softmax(cold(llm, bare))[llm.tokenize("a")[0]])
    assert both - first == pytest.approx(wanted.logprob, abs=1e-3)
    plain = llm.score(bare, ["ab"])[0].logprob
    assert abs(both - plain) > 0.01


@given(asked=st.lists(st.sampled_from(PROMPTS), min_size=2, max_size=6))
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_whatever_was_held_before_a_prompt_gives_what_a_cold_context_gives(
    llm: LLM, asked: list[list[Segment]]
) -> None:
    for segments in asked[:-1]:
        llm.prefill(segments)
    warm = llm.logits(asked[-1])
    # Keys and values are kept in float16, and batches of other sizes round otherwise.
    np.testing.assert_allclose(warm, cold(llm, asked[-1]), atol=2e-3)


def test_an_answer_a_beam_and_a_score_are_steered_alike(llm: LLM) -> None:
    text = llm.generate(ONE, GREEDY).read()
    beam = llm.beam_search(ONE, width=1, max_tokens=GREEDY.max_tokens)
    assert beam.text == text
    [score] = llm.score(ONE, ["db"])
    steps = (log_softmax(cold(llm, segments)) for segments in (ONE, [*ONE, Text("d")]))
    wanted = sum(float(step[token]) for step, token in zip(steps, llm.tokenize("db"), strict=True))
    assert score.logprob == pytest.approx(wanted, abs=1e-3)
    assert abs(score.logprob - llm.score(BARE, ["db"])[0].logprob) > 0.1
    # The plain prompt is what it was, after a steered one.
    assert llm.generate(BARE, GREEDY).read() == llm.beam_search(BARE, width=1, max_tokens=12).text


def test_guidance_is_pushed_from_a_prompt_that_is_not_steered(llm: LLM) -> None:
    plain = llm.generate([Text("abcdca")], GREEDY).read()
    processor = llm.guide([Text("abcdca")], 0.0)
    assert llm.generate(ONE, GREEDY, processor=processor).read() == plain
    processor = llm.guide(ONE, 0.0)
    assert (
        llm.generate([Text("abcdca")], GREEDY, processor=processor).read()
        == llm.generate(ONE, GREEDY).read()
    )


def test_two_texts_written_in_turns_keep_their_own_steering(llm: LLM) -> None:
    wanted = [llm.generate(segments, GREEDY).read() for segments in (ONE, BARE)]
    one, other = llm.generate(ONE, GREEDY), llm.generate(BARE, GREEDY)
    for _ in range(GREEDY.max_tokens):
        next(one, None)
        next(other, None)
    assert [one.read(), other.read()] == wanted


@pytest.mark.parametrize(
    ("control", "said"),
    [
        (
            np.zeros((N_CONTROL + 1, 64), np.float32),
            rf"must be \[{N_CONTROL}, 64\] .* not \[2, 64\]",
        ),
        (np.zeros((N_CONTROL, 32), np.float32), r"not \[1, 32\]"),
        (np.full((N_CONTROL, 64), np.nan, np.float32), "NaN or an infinity"),
        (np.full((N_CONTROL, 64), 1e300), "NaN or an infinity"),
    ],
)
def test_a_control_vector_that_does_not_fit_is_refused(
    llm: LLM, control: np.ndarray, said: str
) -> None:
    with pytest.raises(ModelError, match=f"segment 1: .*{said}"):
        llm.logits([Text("a"), Soft(VECTORS[0], control)])


def test_a_second_control_vector_is_refused(llm: LLM) -> None:
    with pytest.raises(ModelError, match="segment 2: a second control vector"):
        llm.logits([Soft(VECTORS[0], CONTROLS[0]), Text("a"), Soft(VECTORS[1], CONTROLS[1])])


def test_an_encoder_decoder_takes_none(tmp_path: Path) -> None:
    with LLM(tiny_gguf.write(tmp_path / "t5.gguf", "t5")) as llm:
        with pytest.raises(ModelError, match="encoder-decoder model takes no control vector"):
            llm.logits([Soft(VECTORS[0], CONTROLS[0])])
        with pytest.raises(ModelError, match=r"encoder-decoder .* takes no control vector"):
            llm.ensure_steerable(N_CONTROL)


# --- a plug that has one --------------------------------------------------------------------------


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return tiny_gguf.write(tmp_path / "tiny.gguf")


PLUG = Blend().without(*PARTS).with_parts("soft", "control")


def test_a_plug_s_control_vector_reaches_the_answer(tmp_path: Path, model: Path) -> None:
    folder = tiny_plug.write(tmp_path / "plug", model, n_control=N_CONTROL)
    with Personalizer.open(model, folder, n_ctx=128) as personalizer:
        with personalizer.persona(tmp_path / "anna") as anna:
            anna.add([Note("the bread is out"), Note("no rain")], personalizer.plug.encode_notes)
            heard = personalizer.condition("rain", anna)
            assert heard.control is not None
            assert heard.control.shape == (N_CONTROL, tiny_gguf.N_EMBD)
            text = personalizer.stream("rain", anna, GREEDY, blend=PLUG).read()
        llm = personalizer.llm
        steered = personalizer.segments("rain", heard.soft, heard.control)
        assert llm.generate(steered, GREEDY).read() == text
        assert llm.generate(personalizer.segments("rain", heard.soft), GREEDY).read() != text


def test_its_golden_vectors_hold_the_control_vector(tmp_path: Path, model: Path) -> None:
    folder = tiny_plug.write(tmp_path / "plug", model, n_control=N_CONTROL)
    tiny_plug.add_golden(folder, ["one", "another"])
    found = Plug(folder).golden_differences()
    assert found is not None
    assert found["control vector"] == 0
    tiny_plug.swap(folder, tiny_plug.GOLDEN, (folder / tiny_plug.GOLDEN).read_bytes()[:-4])
    with pytest.raises(PlugError, match="bytes, not 4 x 2 texts"):
        Plug(folder)


def test_a_model_whose_last_answer_was_cancelled_is_tried_all_the_same(llm: LLM) -> None:
    generation = llm.generate(BARE, GREEDY)
    generation.cancel()
    assert generation.read() == ""
    llm.ensure_steerable(N_CONTROL)


def test_a_plug_for_another_number_of_layers_is_refused(tmp_path: Path, model: Path) -> None:
    folder = tiny_plug.write(tmp_path / "plug", model, n_control=N_CONTROL + 4)
    with pytest.raises(ModelError, match=r"2 layers takes no control vector for 5"):
        Personalizer.open(model, folder)


def test_a_graph_without_the_promised_control_vector_is_refused(
    tmp_path: Path, model: Path
) -> None:
    folder = tiny_plug.write(tmp_path / "plug", model)
    tiny_plug.edit(folder, lambda raw: raw["projector"].update(n_control=1))
    with pytest.raises(PlugError, match="output control is missing"):
        Plug(folder)


def test_a_model_that_llama_cpp_does_not_steer_is_refused(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of an architecture whose graph in llama.cpp leaves control vectors out."""
    folder = tiny_plug.write(tmp_path / "plug", model, n_control=N_CONTROL)
    monkeypatch.setattr(context.C, "llama_set_adapter_cvec", lambda *_: 0)
    with (
        Personalizer.open(model, folder, n_ctx=128) as personalizer,
        personalizer.persona(tmp_path / "anna") as anna,
    ):
        control = np.zeros((N_CONTROL, tiny_gguf.N_EMBD), np.float32)
        said = "does not steer models of architecture 'llama'"
        with pytest.raises(ModelError, match=said):
            personalizer.stream("rain", anna, GREEDY, blend=PLUG)
        with pytest.raises(ModelError, match=said):
            personalizer.segments("rain", VECTORS[0], control)
        assert personalizer.stream("rain", anna, GREEDY).read()  # Nothing else needs steering.


def test_plug_show_and_doctor_tell_of_it(tmp_path: Path, model: Path) -> None:
    ppedge = Command(tmp_path / "home", {"PPEDGE_MODEL": str(model)})
    folder = tiny_plug.write(tmp_path / "plug", model, n_control=N_CONTROL)
    assert f"control:     a vector for {N_CONTROL} layers\n" in ppedge.good("plug", "show", folder)
    plain = tiny_plug.write(tmp_path / "plain", model)
    assert "control:" not in ppedge.good("plug", "show", plain)
    other = tiny_plug.write(tmp_path / "other", model, n_control=N_CONTROL + 4)
    assert "fits the plug" in ppedge.good("doctor", PPEDGE_PLUG=str(folder))
    refused = ppedge("doctor", PPEDGE_PLUG=str(other))
    assert refused.returncode == 1
    assert "takes no control vector for 5" in refused.stdout.decode()
