"""Beam search: its rules on logits given by hand, and what it finds on models of every kind."""

from __future__ import annotations

import itertools
import math
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from ppedge.errors import ModelError
from ppedge.llm.beam_search import Beam, Search
from ppedge.llm.branches import Branches
from ppedge.llm.llm import LLM, Cancel
from ppedge.llm.sampling import Sampling
from ppedge.llm.segments import Segment, Soft, Text
from tests import tiny_gguf
from tests.tiny_gguf import byte

ARCHITECTURES = ("llama", "gemma2", "gemma3", "qwen2vl", "t5", "mamba")
LETTERS = "abcd"

# --- the rules, on logits given by hand: token 0 ends the text ---------------------------------

END = 0


def logs(*probabilities: float) -> list[float]:
    return [math.log(p) for p in probabilities]


def search(width: int, max_tokens: int, length_penalty: float = 1.0, ends: set[int] | None = None):
    ends = {END} if ends is None else ends
    return Search(ends, width=width, max_tokens=max_tokens, length_penalty=length_penalty)


def step(found: Search, *rows: Sequence[float]) -> list[tuple[int, int]]:
    return found.step(np.array(rows, np.float32))


def test_a_second_beam_finds_what_the_greedy_one_walks_past() -> None:
    first, after_1, after_2 = logs(0.1, 0.5, 0.4), logs(0.2, 0.4, 0.4), logs(0.05, 0.9, 0.05)
    greedy = search(1, 2)
    assert step(greedy, first) == [(0, 1)]
    assert step(greedy, after_1) == []
    assert greedy.best.tokens == (1, 1)
    wider = search(2, 2)
    assert step(wider, first) == [(0, 1), (0, 2)]
    assert step(wider, after_1, after_2) == []
    assert wider.best.tokens == (2, 1)
    assert wider.best.logprob == pytest.approx(math.log(0.4 * 0.9), abs=1e-6)


def test_the_end_of_a_text_counts_as_a_token_of_it() -> None:
    found = search(1, 5)
    assert step(found, logs(0.2, 0.8)) == [(0, 1)]
    assert step(found, logs(0.6, 0.4)) == []
    assert found.best.ended
    assert found.best.tokens == (1, END)
    assert found.best.score(1.0) == pytest.approx(math.log(0.8 * 0.6) / 2, abs=1e-6)


def test_an_end_that_is_not_among_the_likeliest_finishes_nothing() -> None:
    found = search(2, 9)
    assert step(found, logs(0.1, 0.5, 0.4)) == [(0, 1), (0, 2)]
    assert not found.best.ended


def test_ends_take_no_beam_from_others() -> None:
    found = search(3, 9, ends={0, 1})
    assert step(found, logs(0.3, 0.25, 0.2, 0.15, 0.1)) == [(0, 2), (0, 3), (0, 4)]
    assert found.best.tokens == (0,)


@pytest.mark.parametrize(("penalty", "best"), [(0.0, (END,)), (1.0, (1, END))])
def test_the_length_penalty_decides_between_short_and_long(
    penalty: float, best: tuple[int, ...]
) -> None:
    found = search(2, 2, penalty)
    step(found, logs(0.4, 0.59, 0.01))
    step(found, logs(0.6, 0.2, 0.2), logs(0.3, 0.3, 0.4))
    assert found.best.tokens == best


def test_the_search_is_over_once_no_beam_beats_the_worst_finished_text() -> None:
    found = search(2, 100, 0.0)
    assert step(found, logs(0.5, 0.45, 0.05)) == [(0, 1), (0, 2)]
    # The second text to finish, of 0.45 x 0.9, is likelier than either beam that goes on.
    assert step(found, logs(0.9, 0.05, 0.05), logs(0.2, 0.4, 0.4)) == []
    assert found.best.tokens == (END,)


def test_the_search_goes_on_while_a_beam_may_still_win() -> None:
    found = search(2, 100, 0.0)
    step(found, logs(0.01, 0.5, 0.49))
    assert step(found, logs(0.51, 0.48, 0.01), logs(0.4, 0.59, 0.01)) == [(1, 1), (0, 1)]
    assert found.best.tokens == (1, END)


def test_of_equals_the_first_token_is_taken_as_greedy_decoding_does() -> None:
    found = search(1, 3)
    assert step(found, [0.0, 2.0, 1.0, 2.0, 2.0]) == [(0, 1)]


def test_a_token_of_no_probability_is_never_written() -> None:
    found = search(3, 9)
    assert step(found, [-math.inf, 1.0, -math.inf, -math.inf]) == [(0, 1)]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"width": 0}, "width must be at least 1, not 0"),
        ({"width": 256}, "width must be at most 255, not 256"),
        ({"max_tokens": 0}, "max_tokens must be at least 1, not 0"),
        ({"length_penalty": math.nan}, "length_penalty must be -10 to 10, not nan"),
        ({"length_penalty": 11.0}, "length_penalty must be -10 to 10, not 11"),
    ],
)
def test_a_value_out_of_range_is_named(tiny: LLM, wrong: dict[str, float], message: str) -> None:
    with pytest.raises(ModelError, match=f"beam search: {message}"):
        tiny.beam_search([Text("the")], **{"max_tokens": 5, **wrong})


# --- models of a few letters: every text can be tried -------------------------------------------


@pytest.fixture(scope="module", params=ARCHITECTURES)
def llm(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LLM]:
    path = tmp_path_factory.mktemp("beam") / f"{request.param}.gguf"
    with LLM(tiny_gguf.write(path, request.param, letters=LETTERS), n_threads=1) as model:
        yield model


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LLM]:
    path = tiny_gguf.write(tmp_path_factory.mktemp("beam") / "llama.gguf", n_ctx=128)
    with LLM(path, n_threads=1) as model:
        yield model


def with_soft_tokens(llm: LLM) -> list[Segment]:
    rng = np.random.default_rng(1)
    soft = rng.standard_normal((3, llm.n_embd)).astype(np.float32) / 8
    return [Text("abcd" * 3), Soft(soft), Text("ca")]


def every_text(llm: LLM, segments: list[Segment], length: int) -> dict[tuple[int, ...], float]:
    """Return the log-probability of each text of ``length`` tokens or ended before."""
    goes_on = [token for token in range(llm.n_vocab) if token != llm.end_token]
    texts = [
        (*body, last)
        for size in range(length)
        for body in itertools.product(goes_on, repeat=size)
        for last in (range(llm.n_vocab) if size == length - 1 else [llm.end_token])
    ]
    prompt = llm._prompt(segments)
    with llm._model.lock:
        return dict(zip(texts, llm._cache.logprobs(prompt, texts), strict=True))


@pytest.mark.parametrize("penalty", [0.0, 1.0])
def test_beams_for_all_find_the_likeliest_text_of_all(llm: LLM, penalty: float) -> None:
    segments = with_soft_tokens(llm)
    texts = every_text(llm, segments, 3)
    assert len(texts) == 1 + 7 + 7 * 7 * 8
    best = max(texts, key=lambda text: texts[text] / len(text) ** penalty)
    found = llm.beam_search(segments, width=llm.n_vocab**2, max_tokens=3, length_penalty=penalty)
    assert found.logprob == pytest.approx(texts[best], abs=1e-3)
    assert found.tokens == len(best)
    ended = best[-1] == llm.end_token
    assert found.finish == ("stop" if ended else "length")
    body = best[:-1] if ended else best
    assert found.text == b"".join(map(llm._model.piece, body)).decode()


def test_as_many_beams_as_tokens_are_exact_over_two(llm: LLM) -> None:
    segments = with_soft_tokens(llm)
    texts = every_text(llm, segments, 2)
    found = llm.beam_search(segments, width=llm.n_vocab, max_tokens=2, length_penalty=0.0)
    assert found.logprob == pytest.approx(max(texts.values()), abs=1e-3)


def test_one_beam_writes_the_greedy_text(llm: LLM) -> None:
    segments = with_soft_tokens(llm)
    answer = llm.generate(segments, Sampling(temperature=0, max_tokens=12, dry_multiplier=0))
    found = llm.beam_search(segments, width=1, max_tokens=12)
    assert found.text == answer.read()
    assert found.finish == answer.finish
    assert found.tokens == answer.new_tokens + (answer.finish == "stop")


def test_the_log_probability_is_that_of_the_text(llm: LLM) -> None:
    segments = with_soft_tokens(llm)
    prompt = llm._prompt(segments)
    for width in (1, 4):
        search = llm.beam_search(segments, width=width, max_tokens=12)
        with llm._model.lock:
            ids = [*llm.tokenize(search.text), *([llm.end_token] * (search.finish == "stop"))]
            if len(ids) == search.tokens:  # no control token was written among the letters
                (wanted,) = llm._cache.logprobs(prompt, [ids])
                assert search.logprob == pytest.approx(wanted, abs=2e-3)


def test_embedding_rows_stand_for_their_tokens(llm: LLM) -> None:
    soft = Soft(llm.embedding_rows(llm.tokenize("dbca")))
    found = llm.beam_search([Text("ab"), soft, Text("cd")], max_tokens=10)
    wanted = llm.beam_search([Text("abdbcacd")], max_tokens=10)
    assert found.text == wanted.text
    assert found.logprob == pytest.approx(wanted.logprob, abs=2e-3)


def test_a_search_leaves_the_context_as_it_was(llm: LLM) -> None:
    segments, other = with_soft_tokens(llm), [Text("dcba")]
    greedy = Sampling(temperature=0, max_tokens=6)

    def ask() -> tuple[object, ...]:
        llm.clear()
        first = llm.logits(segments).tobytes()
        texts = [llm.generate(prompt, greedy).read() for prompt in (segments, other)]
        return (
            first,
            texts,
            llm.score(segments, ["ab", "dd"], end=True),
            llm.logits(other).tobytes(),
        )

    wanted = ask()
    llm.beam_search(segments, max_tokens=6)
    assert ask() == wanted
    llm.clear()
    llm.logits(segments)
    found = llm.beam_search(segments, max_tokens=6)
    assert llm.logits(segments).tobytes() == wanted[0]
    assert llm.score(segments, ["ab", "dd"], end=True) == wanted[2]
    again = llm.beam_search(segments, max_tokens=6)
    assert again.text == found.text
    assert again.logprob == pytest.approx(found.logprob, abs=2e-3)


# --- texts, ends and errors --------------------------------------------------------------------


def spelling(folder: Path, text: str, *, loops: bool = False) -> LLM:
    pieces = [byte(value) for value in text.encode()]
    return LLM(tiny_gguf.script(folder / "script.gguf", pieces, loops=loops), n_threads=1)


def test_an_emoji_spread_over_four_tokens_comes_whole(tmp_path: Path) -> None:
    with spelling(tmp_path, "a🧀b") as llm:
        found = llm.beam_search([Text("")], width=3, max_tokens=20)
        assert (found.text, found.tokens, found.finish) == ("a🧀b", 7, "stop")
        assert found.logprob == llm.score([Text("")], ["a🧀b"], end=True)[0].logprob


def test_an_emoji_cut_off_by_the_token_limit_is_left_out(tmp_path: Path) -> None:
    with spelling(tmp_path, "a🧀b") as llm:
        found = llm.beam_search([Text("")], width=3, max_tokens=3)
        assert (found.text, found.tokens, found.finish) == ("a", 3, "length")


def test_a_full_context_ends_with_length(tmp_path: Path) -> None:
    pieces = [byte(value) for value in b"abc"]
    path = tiny_gguf.script(tmp_path / "loop.gguf", pieces, n_ctx=16, loops=True)
    with LLM(path, n_threads=1) as llm:
        found = llm.beam_search([Text("")], width=2, max_tokens=1000)
        assert (found.text, found.tokens, found.finish) == ("abc" * 5 + "a", 16, "length")


def test_a_prompt_that_just_fits_is_answered(tiny: LLM) -> None:
    found = tiny.beam_search([Text("b" * 127)], max_tokens=50)
    assert (found.tokens, found.finish) == (1, "length")


def test_a_prompt_that_does_not_fit_says_so(tiny: LLM) -> None:
    held = list(tiny._cache._held)
    with pytest.raises(ModelError, match=r"the prompt takes 201 tokens, and 128 fit"):
        tiny.beam_search([Text("b" * 200)], max_tokens=5)
    assert tiny._cache._held == held


def test_a_closed_model_says_so(tmp_path: Path) -> None:
    llm = LLM(tiny_gguf.write(tmp_path / "closed.gguf"), n_threads=1)
    llm.close()
    for ask in (lambda: llm.beam_search([Text("a")], max_tokens=2), llm.clear):
        with pytest.raises(ModelError, match=r"closed\.gguf: this model has been closed"):
            ask()


def test_a_search_that_was_cancelled_before_it_began_finds_nothing(llm: LLM) -> None:
    wanted = llm.beam_search([Text("abc")], max_tokens=5)
    cancel = Cancel()
    cancel.set()
    found = llm.beam_search([Text("abca")], max_tokens=5, cancel=cancel)
    assert found == Beam("", 0.0, 0, "cancelled")
    again = llm.beam_search([Text("abc")], max_tokens=5)
    assert again.text == wanted.text
    assert again.logprob == pytest.approx(wanted.logprob, abs=2e-3)


def test_the_widest_search_is_possible(tiny: LLM) -> None:
    found = tiny.beam_search([Text("the")], width=255, max_tokens=2, length_penalty=0.0)
    narrow = tiny.beam_search([Text("the")], width=1, max_tokens=2)
    assert found.logprob >= narrow.logprob


def test_a_cancelled_search_returns_the_best_text_so_far(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cancel, extend, steps = Cancel(), Branches.extend, itertools.count(1)

    def extend_and_cancel(branches: Branches, kept: Sequence[tuple[int, int]]) -> None:
        if next(steps) == 5:
            thread = threading.Thread(target=cancel.set)
            thread.start()
            thread.join()
        extend(branches, kept)

    monkeypatch.setattr(Branches, "extend", extend_and_cancel)
    with spelling(tmp_path, "abcdefgh") as llm:
        found = llm.beam_search([Text("")], width=2, max_tokens=20, cancel=cancel)
        assert (found.text, found.tokens, found.finish) == ("abcde", 5, "cancelled")
        monkeypatch.undo()
        again = llm.beam_search([Text("")], width=2, max_tokens=20)
        assert (again.text, again.finish) == ("abcdefgh", "stop")


def test_a_search_beside_an_unfinished_answer_disturbs_neither(tiny: LLM) -> None:
    greedy = Sampling(temperature=0, max_tokens=12)
    wanted = tiny.generate([Text("the")], greedy).read()
    alone = tiny.beam_search([Text("a he")], max_tokens=8)
    answer = tiny.generate([Text("the")], greedy)
    next(answer)
    assert tiny.beam_search([Text("a he")], max_tokens=8).text == alone.text
    assert answer.read() == wanted


# --- models that turn positions by other factors in long contexts (Phi-3's LongRoPE) -----------


@pytest.mark.parametrize("n_ctx", [256, 512])
def test_beams_keep_the_position_factors_of_their_prompt(tmp_path: Path, n_ctx: int) -> None:
    path = tiny_gguf.write(tmp_path / "long.gguf", n_ctx=1024, long_rope_beyond=256, letters="abcd")
    with LLM(path, n_ctx=n_ctx, n_threads=1) as llm:
        prompt = [Text("abcdab")]
        found = llm.beam_search(prompt, width=3, max_tokens=2)
        texts = every_text(llm, prompt, 2)
        # Values are rounded to bfloat16: last bits may fall either way. The other factors give a
        # text that is 3e-3 away, and the nearest other text is 4e-2 away.
        assert min(abs(value - found.logprob) for value in texts.values()) < 1e-4


def test_beams_that_would_need_other_position_factors_are_refused(tmp_path: Path) -> None:
    path = tiny_gguf.write(tmp_path / "long.gguf", n_ctx=1024, long_rope_beyond=256)
    with (
        LLM(path, n_ctx=256, n_threads=1) as llm,
        pytest.raises(ModelError, match=r"take 351 positions together, .* only 256 fit"),
    ):
        llm.beam_search([Text("b" * 200)], width=30, max_tokens=6)
