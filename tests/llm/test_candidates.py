"""Several answers side by side, and the choice among them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import pytest

from ppedge.errors import ModelError
from ppedge.llm.binding.ggml import Cancel
from ppedge.llm.candidates import Candidate
from ppedge.llm.llm import LLM
from ppedge.llm.prompt import Prompt
from ppedge.llm.sampling import Sampling
from ppedge.llm.scoring import log_softmax
from ppedge.llm.segments import Text
from ppedge.style.model import ShapeCounts, StyleModel
from ppedge.style.reranking import best, count_faults, has_loop, judge, word_overlap
from ppedge.style.rules import NoCopying
from ppedge.style.shapes import Shapes
from tests import tiny_gguf

PROMPT = [Text("write about rain")]
WARM = Sampling(temperature=1.0, max_tokens=20, seed=3)


@pytest.fixture(scope="module")
def llm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LLM]:
    path = tiny_gguf.write(tmp_path_factory.mktemp("candidates") / "tiny.gguf")
    with LLM(path, n_threads=1) as model:
        yield model


def spelling(folder: Path, text: str, *, loops: bool = False) -> LLM:
    pieces = [tiny_gguf.byte(value) for value in text.encode()]
    return LLM(tiny_gguf.script(folder / "script.gguf", pieces, loops=loops), n_threads=1)


# --- writing them ---


def test_as_many_answers_as_asked_for_are_written_and_they_differ(llm: LLM) -> None:
    found = llm.candidates(PROMPT, WARM, count=6).read()
    assert len(found) == 6
    assert len({each.text for each in found}) > 1


def test_the_same_seed_writes_the_same_answers(llm: LLM) -> None:
    first, again = (llm.candidates(PROMPT, WARM, count=4).read() for _ in range(2))
    assert [each.tokens for each in first] == [each.tokens for each in again]


def test_each_answer_is_what_the_model_gives_for_its_tokens(llm: LLM) -> None:
    for each in llm.candidates(PROMPT, WARM, count=4).read():
        rows, total = [*llm.tokens(PROMPT)], 0.0
        for token in [*each.tokens, *([] if each.end is None else [each.end])]:
            with llm._model.lock:
                llm._cache.sync(Prompt([], list(rows)), Cancel())
                total += float(log_softmax(llm._cache.logits(), token))
            rows.append(token)
        assert each.logprob == pytest.approx(total, abs=1e-3)


def test_greedy_answers_are_all_the_one_that_streaming_gives(llm: LLM) -> None:
    greedy = Sampling(temperature=0, max_tokens=12)
    wanted = llm.generate(PROMPT, greedy).read()
    assert {each.text for each in llm.candidates(PROMPT, greedy, count=3).read()} == {wanted}


def test_an_answer_that_ends_says_so_and_one_that_is_cut_too(tmp_path: Path) -> None:
    with spelling(tmp_path, "hi") as llm:
        [ended] = llm.candidates([Text("")], WARM, count=1).read()
        assert (ended.text, ended.finish, ended.end) == ("hi", "stop", tiny_gguf.EOS)
        [cut] = llm.candidates([Text("")], Sampling(max_tokens=1, seed=1), count=1).read()
        assert (cut.text, cut.finish, cut.end) == ("h", "length", None)


def test_a_stop_string_ends_an_answer(tmp_path: Path) -> None:
    with spelling(tmp_path, "abcdef") as llm:
        sampling = Sampling(max_tokens=20, seed=1, stop=("de",))
        [found] = llm.candidates([Text("")], sampling, count=1).read()
        assert (found.text, found.finish) == ("abc", "stop")


def test_a_processor_has_its_say_in_every_answer(llm: LLM) -> None:
    letter = tiny_gguf.byte(ord("x"))

    def only_x(logits, written):
        logits[:] = -math.inf
        logits[letter] = 0
        return logits

    found = llm.candidates(PROMPT, WARM, count=3, processor=only_x).read()
    assert {each.text for each in found} == {"x" * 20}


def test_a_prompt_is_still_held_afterwards(llm: LLM) -> None:
    llm.candidates(PROMPT, WARM, count=4).read()
    assert llm.holds(PROMPT)


def test_cancelled_before_they_begin_they_are_empty(llm: LLM) -> None:
    answers = llm.candidates([Text("something that was never read before")], WARM, count=3)
    answers.cancelling.set()
    assert [(each.text, each.finish) for each in answers.read()] == [("", "cancelled")] * 3


@pytest.mark.parametrize("count", [0, -1, 17])
def test_a_number_that_cannot_be_decoded_at_once_is_refused(llm: LLM, count: int) -> None:
    with pytest.raises(ModelError, match=r"best_of must be 1 to 16"):
        llm.candidates(PROMPT, WARM, count=count)


def test_answers_fill_the_context_and_no_more(tmp_path: Path) -> None:
    path = tiny_gguf.write(tmp_path / "small.gguf")
    with LLM(path, n_ctx=32, n_threads=1) as llm:
        found = llm.candidates(PROMPT, Sampling(max_tokens=500, seed=1), count=3).read()
        room = 32 - len(llm.tokens(PROMPT)) + 1
        assert all(len(each.tokens) <= room for each in found)


# --- the choice ---


class Letters:
    def piece(self, token: int) -> bytes:
        return chr(token).encode() if token else b""

    def is_end(self, token: int) -> bool:
        return token == 0


def candidate(text: str, *, logprob: float = -1.0, cut: bool = False) -> Candidate:
    tokens = [ord(char) for char in text]
    finish = "length" if cut else "stop"
    return Candidate(text, tokens, None if cut else 0, logprob * len(tokens), finish)


def style() -> StyleModel:
    shapes = Shapes(Letters())

    def ids(text: str) -> list[int]:
        return [*map(ord, text), 0]

    everybody = ShapeCounts([[shapes(t) for t in ids("a plain text. and more.")]])
    person = ShapeCounts([[shapes(t) for t in ids("so loud! and more!")]] * 3)
    return StyleModel(shapes, person, everybody, 1.0)


def given(*candidates: Candidate, notes: tuple[str, ...] = (), relevance=lambda text: 0.0) -> str:
    manner, copying = style(), NoCopying(notes)
    return candidates[best([judge(c, manner, copying, relevance) for c in candidates])].text


def test_the_answer_like_the_person_wins() -> None:
    assert given(candidate("this is quite plain."), candidate("this is quite loud!")).endswith("!")


def test_of_equals_the_first_wins() -> None:
    same = judge(candidate("one two three four"), style(), NoCopying([]), lambda _: 0)
    assert best([same] * 3) == 0


def test_the_answer_to_what_was_asked_wins() -> None:
    answers = candidate("the tea is in here!"), candidate("the dog is in here!")
    assert "dog" in given(*answers, relevance=lambda text: 1.0 if "dog" in text else 0.0)


def test_the_likelier_answer_wins() -> None:
    answers = candidate("one two three four", logprob=-3), candidate("one two three fuor")
    assert given(*answers).endswith("fuor")


def test_an_answer_that_ended_wins_over_one_that_was_cut() -> None:
    assert given(candidate("one two three four", cut=True), candidate("one two three fuor")) != (
        "one two three four"
    )


COPY = "we are all well here and hope you are"


@pytest.mark.parametrize("faulty", ["too short!", "a b c! a b c! a b c!", f"so, {COPY}!"])
def test_a_fault_costs_more_than_manner_can_gain(faulty: str) -> None:
    assert given(candidate(faulty), candidate("this is quite plain."), notes=(COPY,)) != faulty
    assert count_faults(faulty, NoCopying([COPY])) == 1


def test_loops_are_told_from_lists() -> None:
    assert has_loop("so good, so good, so good, so good, so good")
    assert has_loop("a line\nb\na line\nc\na line")
    assert not has_loop("tea, bread, milk, eggs\ntea, bread, milk\ncheese")


def test_without_an_encoder_relevance_is_the_share_of_the_prompt_s_words() -> None:
    relevance = word_overlap("Write about broken windows.")
    assert relevance("windows, broken ones, to write about") == 1
    assert relevance("a window") == 0.25
    assert word_overlap("of it")("anything") == 0
