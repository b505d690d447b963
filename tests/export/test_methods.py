"""Methods: the soft tokens and prompts that each one makes, on the real default model and plug."""

import copy
import dataclasses
import re

import numpy as np
import pytest

from export.baselines.retrieval import rank_bm25
from export.data.lamp import Question
from export.evaluation.answers import answer
from export.evaluation.instruction import check_instruction
from export.evaluation.methods import (
    KNOWN,
    RENAMED,
    Asked,
    Bench,
    Method,
    check_plug,
    parse_method,
)
from export.evaluation.persona_methods import attend, project, shuffled
from export.models.note_vectors import NoteVectors, Rows
from ppedge.blend import PARTS, Blend
from ppedge.defaults import find_model, find_plug
from ppedge.llm.llm import LLM
from ppedge.llm.sampling import Sampling
from ppedge.llm.segments import Soft
from ppedge.notes.reader import Note
from ppedge.personalizer import Personalizer
from ppedge.plug.plug import Plug
from tests import tiny_gguf, tiny_plug

ANN = tuple(
    Note(f"core: fix the {word}", input=f"This change is about the {word} and no other.", id=word)
    for word in ("leak", "parser", "clock", "driver", "cache", "header", "table")
)
# Without inputs, as tweets are; one says what another says.
BOB = tuple(
    Note(text, id=str(i))
    for i, text in enumerate(("What a day!!", "rain again", "What a day!!", "so it goes"))
)
PROMPT = "Generate a subject for the following commit message: the parser reads the header twice"
QUESTION = Question("q", "ann", 6, PROMPT, "core: read the header once", ANN)
ASKED = Asked(QUESTION, BOB)


@pytest.fixture(scope="module")
def default():
    with Personalizer.open(find_model(), find_plug(), n_ctx=1024, n_threads=1) as opened:
        yield opened


@pytest.fixture(scope="module")
def bench(default):
    return Bench(default.llm, default.plug, instruction=Soft(INSTRUCTION), seed=0)


INSTRUCTION = np.random.default_rng(0).normal(0, 0.1, (3, 576)).astype(np.float32)


def composed(bench, name, asked=ASKED):
    bench.warm(parse_method(name), asked)
    return bench.compose(parse_method(name), asked)


def soft_of(bench, name, asked=ASKED):
    [soft] = [s.vectors for s in composed(bench, name, asked).segments if isinstance(s, Soft)]
    return soft


def prompt_of(bench, name, asked=ASKED):
    """What stands in the prompt's slot."""
    return max((s for s in composed(bench, name, asked).segments if not isinstance(s, Soft)),
               key=lambda s: len(s.text)).text  # fmt: skip


# --- names ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "method"),
    [
        ("none", Method("none")),
        ("instruction", Method("instruction", soft="instruction")),
        ("bm25-4", Method("bm25-4", ranker="bm25", k=4)),
        ("dense-12", Method("dense-12", ranker="dense", k=12)),
        (
            "instruction+recency-1",
            Method("instruction+recency-1", soft="instruction", ranker="recency", k=1),
        ),
        ("persona+bm25-1", Method("persona+bm25-1", soft="persona", ranker="bm25", k=1)),
        ("instruction+usertuned", Method("instruction+usertuned", soft="instruction+usertuned")),
        ("persona-top4", Method("persona-top4", soft="persona-top4")),
        ("swapped@8", Method("swapped@8", soft="swapped", latest=8)),
        ("lora", Method("lora")),
    ],
)
def test_a_name_says_what_goes_in(name, method):
    assert parse_method(name) == method


@pytest.mark.parametrize(
    "name",
    ["", "bm25", "bm25-0", "bm25-x", "swapped+bm25-1", "personas", "persona*5.1", "none*2",
     "persona@0", "shuffled@8"],
)  # fmt: skip
def test_an_unknown_name_is_answered_with_all_known_ones(name):
    with pytest.raises(ValueError, match=re.escape(f"no method '{name}'")) as caught:
        parse_method(name)
    assert all(known in str(caught.value) for known in KNOWN)
    assert "\n" not in str(caught.value)


def test_methods_know_what_they_need():
    methods = {n: parse_method(n.replace("K", "2").replace("S", "2")) for n in KNOWN}
    needing = {n for n, method in methods.items() if method.needs_instruction}
    assert needing == {n for n in KNOWN if n.startswith("instruction")}
    tuned = {n for n, method in methods.items() if method.tuned}
    assert tuned == {"usertuned", "instruction+usertuned", "lora"}


# --- soft tokens ----------------------------------------------------------------------------------


def stored_soft(personalizer, folder, notes, prompt=PROMPT):
    """The soft tokens of the run time, from a store on disk."""
    with personalizer.persona(folder) as persona:
        persona.add(notes, personalizer.plug.encode_notes)
        return personalizer.condition(prompt, persona).soft


@pytest.mark.parametrize("notes", [ANN, BOB, ANN + BOB[:1], ()], ids=["ann", "bob", "both", "none"])
def test_soft_tokens_are_bit_for_bit_those_of_a_store(default, bench, tmp_path, notes):
    asked = Asked(dataclasses.replace(QUESTION, history=notes))
    wanted = stored_soft(default, tmp_path / "store", notes)
    assert soft_of(bench, "persona", asked).tobytes() == wanted.tobytes()


@pytest.mark.parametrize(
    "options",
    [
        {"recency": 0.7},
        {"null_note_competes": False},
        {"recency": 0.3, "null_note_competes": False, "query_file": True},
        {"value_fields": ("both",), "key_fields": ("both",), "max_bytes": 32},
    ],
)
def test_so_they_are_for_plugs_with_other_options(tmp_path, options):
    model = tiny_gguf.write(tmp_path / "tiny.gguf")
    plug = tiny_plug.write(tmp_path / "plug", model, **options)
    with Personalizer.open(model, plug, n_threads=1) as tiny:
        bench = Bench(tiny.llm, tiny.plug)
        for notes in (ANN, BOB, ()):
            wanted = stored_soft(tiny, tmp_path / str(len(notes)), notes, "rain")
            question = dataclasses.replace(QUESTION, input="rain", history=notes)
            assert soft_of(bench, "persona", Asked(question)).tobytes() == wanted.tobytes()


def test_swapped_is_the_persona_of_the_other_user(bench):
    swapped = soft_of(bench, "swapped")
    other = Asked(dataclasses.replace(QUESTION, user="bob", history=BOB))
    assert swapped.tobytes() == soft_of(bench, "persona", other).tobytes()
    assert not np.array_equal(swapped, soft_of(bench, "persona"))


def test_shuffled_keeps_inputs_and_deals_every_output_to_another_note():
    mixed = shuffled(ANN, "ann", seed=0)
    assert [(n.input, n.id) for n in mixed] == [(n.input, n.id) for n in ANN]
    assert sorted(n.output for n in mixed) == sorted(n.output for n in ANN)
    assert all(new.output != old.output for new, old in zip(mixed, ANN, strict=True))
    assert mixed == shuffled(ANN, "ann", seed=0)
    assert mixed not in (shuffled(ANN, "ann", seed=1), shuffled(ANN, "bob", seed=0))


def test_every_derangement_of_three_that_is_a_cycle_comes_up_and_nothing_else():
    found = {tuple(n.output for n in shuffled(ANN[:3], "ann", seed)) for seed in range(40)}
    a, b, c = (note.output for note in ANN[:3])
    assert found == {(b, c, a), (c, a, b)}


def test_one_note_or_none_cannot_be_shuffled():
    assert shuffled(ANN[:1], "ann", seed=0) == ANN[:1]
    assert shuffled((), "ann", seed=0) == ()


def test_shuffled_goes_in_as_that_history_would(bench, default):
    fresh = Bench(default.llm, default.plug, seed=0)
    mixed = dataclasses.replace(QUESTION, history=shuffled(ANN, "ann", 0))
    got = soft_of(bench, "shuffled")
    assert got.tobytes() == soft_of(fresh, "persona", Asked(mixed)).tobytes()
    assert not np.array_equal(got, soft_of(bench, "persona"))


def test_mean_pooling_weighs_every_row_alike_whatever_is_asked(bench, default):
    rows = NoteVectors(default.plug).rows(ANN)
    mean = rows.values.astype(np.float64).mean(0).astype(np.float32)
    soft = soft_of(bench, "persona-mean")
    np.testing.assert_allclose(soft, default.plug.project(mean).vectors, atol=1e-5)
    other = Asked(dataclasses.replace(QUESTION, input="something else"))
    assert soft.tobytes() == soft_of(bench, "persona-mean", other).tobytes()


def test_top4_pools_the_four_best_notes_and_no_other(bench, default):
    plug = default.plug
    rows = NoteVectors(plug).rows(ANN)
    scores = rows.keys.astype(np.float64) @ plug.encode_prompt(PROMPT)
    best = np.sort(1 + np.argsort(-scores[1:])[:4])
    few = Rows(rows.keys[[0, *best]], rows.values[[0, *best]])
    wanted = project(plug, attend(plug, PROMPT, few)).vectors
    np.testing.assert_allclose(soft_of(bench, "persona-top4"), wanted, atol=1e-5)
    assert not np.allclose(wanted, soft_of(bench, "persona"), atol=1e-4)


def test_top4_of_few_notes_is_the_persona(bench):
    asked = Asked(dataclasses.replace(QUESTION, history=ANN[:4]))
    assert np.array_equal(soft_of(bench, "persona-top4", asked), soft_of(bench, "persona", asked))


def test_noinstruction_leaves_out_the_rows_that_are_the_same_for_everybody(bench, default):
    n_instruction = default.plug.manifest.projector.n_instruction
    assert n_instruction > 0
    own, others = soft_of(bench, "persona"), soft_of(bench, "swapped")
    assert np.array_equal(own[:n_instruction], others[:n_instruction])
    assert np.array_equal(soft_of(bench, "persona-noinstruction"), own[n_instruction:])


def test_the_instruction_goes_in_as_it_was_trained_and_none_has_nothing(bench):
    assert np.array_equal(soft_of(bench, "instruction"), INSTRUCTION)
    assert not any(isinstance(s, Soft) for s in composed(bench, "none").segments)


# --- n-gram cache -------------------------------------------------------------------------------

GATES = [{"bias": -1.0, "total": 0.5, "kinds": -0.5, "entropy": 0.3}] * 3


@pytest.fixture(scope="module")
def literal(tmp_path_factory):
    """A tiny model and a plug that remembers five notes; whatever it attends to, unevenly."""
    folder = tmp_path_factory.mktemp("ngrams")
    model = tiny_gguf.write(folder / "tiny.gguf", n_ctx=2048)
    plug = tiny_plug.write(folder / "plug", model)
    tiny_plug.edit(plug, lambda raw: raw.update(literal={"max_notes": 5, "gates": GATES}))
    with Personalizer.open(model, plug, n_threads=1) as opened:
        yield opened


def told(memory, llm):
    """What a memory makes of even logits at the beginning and after some words, as bytes."""
    logits = np.zeros(llm.n_vocab, np.float32)
    beginnings = ("", "core: ", "core: fix the p", "What a day", "rain")
    return [memory.process(logits, llm.tokenize(begun)).tobytes() for begun in beginnings]


@pytest.mark.parametrize("notes", [ANN, BOB, ANN + BOB[:1]], ids=["ann", "bob", "both"])
def test_a_memory_is_bit_for_bit_that_of_a_store(literal, tmp_path, notes):
    bench = Bench(literal.llm, literal.plug)
    found = composed(bench, "persona", Asked(dataclasses.replace(QUESTION, history=notes)))
    with literal.persona(tmp_path / "store") as persona:
        persona.add(notes, literal.plug.encode_notes)
        wanted = literal.condition(PROMPT, persona)
        assert told(found.memory, literal.llm) == told(wanted.memory, literal.llm)
        sampling = Sampling(temperature=0, max_tokens=20)
        ours = literal.llm.generate(found.segments, sampling, processor=found.processor).read()
        plug = Blend().without(*PARTS).with_parts("soft", "control", "ngrams")
        assert ours == literal.stream(PROMPT, persona, sampling, blend=plug).read()


def test_each_method_remembers_the_history_that_goes_into_it(literal):
    bench = Bench(literal.llm, literal.plug, seed=0)

    def of(name, history=ANN):
        asked = Asked(dataclasses.replace(QUESTION, history=history), BOB)
        return told(composed(bench, name, asked).memory, literal.llm)

    own = of("persona")
    assert of("swapped") == of("persona", BOB) != own
    assert of("shuffled") == of("persona", shuffled(ANN, "ann", 0)) != own
    assert of("persona-noinstruction") == of("persona+bm25-1") == of("ngrams") == own
    for name in ("persona-mean", "persona-top4"):
        assert of(name) != own


def test_without_weights_of_attention_all_notes_count_alike(literal):
    bench = Bench(literal.llm, literal.plug)
    for name, alike in (("persona-mean", True), ("persona", False)):
        anywhere, at_start, _ = composed(bench, name).memory.counts([])
        assert at_start.sum() == pytest.approx(5)
        assert np.allclose(anywhere, anywhere.round()) == alike


def test_literal_is_the_memory_alone_and_noliteral_the_soft_tokens_alone(literal):
    bench = Bench(literal.llm, literal.plug)
    persona, alone = composed(bench, "persona"), composed(bench, "ngrams")
    assert alone.segments == composed(bench, "none").segments
    assert (composed(bench, "none").memory, composed(bench, "none").processor) == (None, None)
    without = composed(bench, "persona-nongrams")
    assert without.memory is None
    assert soft_of(bench, "persona-nongrams").tobytes() == soft_of(bench, "persona").tobytes()
    assert len(without.segments) == len(persona.segments)


def test_an_empty_history_leaves_nothing_to_remember(literal):
    nobody = Asked(dataclasses.replace(QUESTION, history=()))
    assert composed(Bench(literal.llm, literal.plug), "persona", nobody).memory is None


@pytest.mark.parametrize("name", ["ngrams", "persona-nongrams"])
def test_a_plug_without_a_memory_cannot_be_asked_about_it(bench, name):
    plain = dataclasses.replace(bench.plug.manifest, ngram_cache=None)
    plug = copy.copy(bench.plug)
    plug.manifest = plain
    with pytest.raises(ValueError, match=f"{name}: plug .* has no n-gram cache"):
        check_plug(parse_method(name), plug)


@pytest.mark.parametrize("task", [2, 6])
def test_answers_and_likelihoods_are_the_memory_s_too(literal, task):
    labels = dict(zip(range(7), ["sci-fi", "action"] * 4, strict=False))
    notes = ANN if task == 6 else tuple(
        dataclasses.replace(note, output=labels[i]) for i, note in enumerate(ANN)
    )  # fmt: skip
    gold = QUESTION.output if task == 6 else "action"
    asked = Asked(dataclasses.replace(QUESTION, task=task, history=notes, output=gold))
    bench = Bench(literal.llm, literal.plug)
    found = {}
    for name in ("persona", "persona-nongrams"):
        method = parse_method(name)
        record, _ = answer(bench, method, asked, "both")
        given = bench.compose(method, asked)
        [score] = literal.llm.score(given.segments, [gold], end=True, processor=given.processor)
        assert record.nats == pytest.approx(-score.logprob, rel=1e-4)
        found[name] = record
        if task == 6:
            sampling = Sampling(temperature=0, max_tokens=48)
            ours = (
                literal.llm.generate(given.segments, sampling, processor=given.processor)
                .read()
                .strip()
            )
            beam = literal.llm.beam_search(given.segments, max_tokens=48, processor=given.processor)
            assert (record.prediction, record.beam) == (ours, beam.text.strip())
    # What the notes are full of is likelier by them.
    assert found["persona"].nats < found["persona-nongrams"].nats


# --- note vectors ---------------------------------------------------------------------------------


def test_notes_are_encoded_once_and_a_full_cache_changes_nothing(default, monkeypatch):
    plug = default.plug
    wanted = NoteVectors(plug).rows(ANN)
    encoded = []
    encode = Plug.encode_notes
    monkeypatch.setattr(
        Plug, "encode_notes", lambda self, notes: encoded.extend(notes) or encode(self, notes)
    )
    vectors = NoteVectors(plug)
    vectors.rows(ANN)
    vectors.rows(shuffled(ANN, "ann", 0))
    assert len(encoded) == len(ANN)
    small = NoteVectors(plug, keep=3)
    for _ in range(2):
        rows = small.rows(ANN)
        assert np.array_equal(rows.keys, wanted.keys)
        assert np.array_equal(rows.values, wanted.values)


# --- prompts --------------------------------------------------------------------------------------


def test_retrieved_notes_stand_in_the_prompt_and_soft_tokens_stay_what_they_were(bench):
    [best] = rank_bm25(QUESTION, 1)
    prompt = prompt_of(bench, "bm25-1")
    assert best.output in prompt
    assert prompt.endswith(PROMPT)
    assert prompt_of(bench, "persona+bm25-1") == prompt == prompt_of(bench, "instruction+bm25-1")
    # The persona is asked by the question, not by the notes beside it.
    assert np.array_equal(soft_of(bench, "persona+bm25-1"), soft_of(bench, "persona"))
    assert np.array_equal(soft_of(bench, "instruction+bm25-1"), INSTRUCTION)


def test_recency_takes_the_last_note(bench):
    assert ANN[-1].output in prompt_of(bench, "recency-1")
    assert ANN[0].output not in prompt_of(bench, "recency-1")


def test_dense_finds_the_note_that_means_the_same(bench):
    asked = Asked(dataclasses.replace(
        QUESTION, input=PROMPT.replace("the parser reads the header twice", "a watch runs late")
    ))  # fmt: skip
    assert "core: fix the clock" in prompt_of(bench, "dense-1", asked)


@pytest.fixture(scope="module")
def narrow(default):
    with LLM(find_model(), n_ctx=256, n_threads=1) as llm:
        yield Bench(llm, default.plug, instruction=Soft(INSTRUCTION))


LONG = Asked(dataclasses.replace(QUESTION, input=PROMPT + " and again" * 200), BOB)


@pytest.mark.parametrize("name", ["none", "persona", "bm25-4", "instruction+recency-1"])
def test_a_prompt_that_does_not_fit_is_cut_at_its_end(narrow, name):
    given = composed(narrow, name, LONG)
    assert given.shortened
    assert narrow.shortens(parse_method(name), LONG)
    taken = len(narrow.llm.tokens(given.segments))
    # 48 tokens are for the answer; a prompt is cut by words, each of which has one here.
    assert 256 - 48 - 2 <= taken <= 256 - 48
    text = prompt_of(narrow, name, LONG)
    assert LONG.question.input.startswith(text)


def test_history_items_give_way_before_the_prompt_does(narrow):
    wordy = tuple(dataclasses.replace(n, input=n.input * 12) for n in ANN)
    asked = Asked(dataclasses.replace(QUESTION, history=wordy))
    given = composed(narrow, "persona+recency-4", asked)
    assert given.shortened
    prompt = prompt_of(narrow, "persona+recency-4", asked)
    assert prompt.endswith(PROMPT)
    assert wordy[-1].output in prompt
    assert len(narrow.llm.tokens(given.segments)) <= 256 - 48


def test_a_prompt_that_fits_is_left_alone(narrow):
    assert not composed(narrow, "persona").shortened
    assert not narrow.shortens(parse_method("bm25-1"), ASKED)
    assert prompt_of(narrow, "persona") == PROMPT


# --- the instruction's file -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (np.zeros((2, 575), np.float32), r"float32 \[n, 576\], not float32 \[2, 575\]"),
        (np.zeros((2, 576)), r"not float64 \[2, 576\]"),
        (np.zeros((0, 576), np.float32), r"not float32 \[0, 576\]"),
        (np.zeros(576, np.float32), r"not float32 \[576\]"),
        (np.full((1, 576), np.nan, np.float32), "not finite"),
    ],
)
def test_an_instruction_for_another_model_is_refused(rows, said):
    with pytest.raises(ValueError, match=f"i.npy: .*{said}"):
        check_instruction(Soft(rows), 576, 30, "i.npy")


# --- guidance -------------------------------------------------------------------------------------


def test_a_strength_of_0_is_the_bare_model_and_1_the_persona(bench):
    for one, other in (("persona*0", "none"), ("persona*1", "persona"), ("swapped*0", "none")):
        found, wanted = (answer(bench, parse_method(m), ASKED, "greedy")[0] for m in (one, other))
        assert found.prediction == wanted.prediction
        # The bare prompt beside is read token by token, which rounds otherwise than a batch.
        bound = 1e-4 if one == "persona*1" else 0.05
        assert found.nats == pytest.approx(wanted.nats, rel=bound)


def test_a_strength_in_between_moves_the_likelihood(bench):
    nats = {m: answer(bench, parse_method(m), ASKED, "greedy")[0].nats
            for m in ("none", "persona*0.5", "persona")}  # fmt: skip
    assert len(set(nats.values())) == 3
    assert parse_method("persona*1.25").strength == 1.25


# --- part of a history ----------------------------------------------------------------------------


def test_of_a_long_history_the_latest_notes_are_taken(bench):
    in_full, some = (bench.history(parse_method(m), ASKED) for m in ("persona", "persona@2"))
    assert some == in_full[-2:] != in_full
    assert bench.history(parse_method("swapped@1"), ASKED) == ASKED.swap[-1:]
    assert bench.history(parse_method("persona@1000"), ASKED) == in_full
    undone = Asked(dataclasses.replace(QUESTION, history=some))
    assert np.array_equal(soft_of(bench, "persona@2"), soft_of(bench, "persona", undone))


def test_the_latest_are_so_by_time_where_all_notes_have_one(bench):
    notes = tuple(Note(text, time=time) for text, time in (("b", 2.0), ("c", 3.0), ("a", 1.0)))
    asked = Asked(dataclasses.replace(QUESTION, history=notes))
    assert bench.history(parse_method("persona@2"), asked) == notes[:2]


@pytest.mark.parametrize(("old", "new"), RENAMED.items())
def test_a_method_by_its_old_name_is_taken_with_a_note(old, new, capsys):
    assert parse_method(old) == parse_method(new)
    assert f"method {old} is now called {new}" in capsys.readouterr().err
