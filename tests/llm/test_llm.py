"""What a caller sees of ``LLM``: streams, stops, seeds, cancelling, errors; on tiny models."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ppedge.errors import ModelError
from ppedge.llm.binding import importing
from ppedge.llm.llm import LLM, Cancel
from ppedge.llm.opened_file import OpenedFile
from ppedge.llm.sampling import Sampling
from ppedge.llm.segments import Soft, Text
from tests import tiny_gguf
from tests.tiny_gguf import byte

GREEDY = Sampling(temperature=0, max_tokens=100, dry_multiplier=0)


@pytest.fixture(scope="module")
def llm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LLM]:
    path = tiny_gguf.write(tmp_path_factory.mktemp("llm") / "llama.gguf", n_ctx=128)
    with LLM(path, n_threads=1) as model:
        yield model


def spelling(folder: Path, text: str, *, loops: bool = False) -> LLM:
    """Return a model that writes ``text``, each byte of it a token of its own."""
    pieces = [byte(value) for value in text.encode()]
    return LLM(tiny_gguf.script(folder / "script.gguf", pieces, loops=loops), n_threads=1)


def test_a_file_that_is_open_already_is_the_models_from_then_on(llm: LLM) -> None:
    file = OpenedFile(llm.path, n_threads=1)
    with LLM(file, n_ctx=64) as other:
        np.testing.assert_array_equal(other.logits([Text("abc")]), llm.logits([Text("abc")]))
    assert file.weights.pointer is None
    file.close()


def test_the_binding_alone_leaves_the_package_as_it_was(llm: LLM) -> None:
    """What commands do, in a process of their own; numpy and Llama come when they are asked for."""
    code = f"""
import sys
from ppedge.llm.binding import importing
importing.binding_alone()
from ppedge.llm.opened_file import OpenedFile
file = OpenedFile({str(llm.path)!r}, n_threads=1)
assert not {{"numpy", "llama_cpp", "llama_cpp.llama"}} & sys.modules.keys()
from ppedge.llm.llm import LLM
from ppedge.llm.segments import Text
print(importing.version(), LLM(file).logits([Text("abc")]).argmax())
import llama_cpp
assert llama_cpp.__version__ == importing.version()
assert llama_cpp.Llama and llama_cpp.llama_cpp._lib is importing.binding()._lib
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split() == [importing.version(), str(llm.logits([Text("abc")]).argmax())]


def test_text_comes_in_pieces_that_add_up(tmp_path: Path) -> None:
    with spelling(tmp_path, "abc def") as llm:
        answer = llm.generate([Text("")], GREEDY)
        assert list(answer) == list("abc def")
        assert (answer.text, answer.new_tokens, answer.finish) == ("abc def", 7, "stop")


def test_an_emoji_spread_over_four_tokens_comes_whole(tmp_path: Path) -> None:
    with spelling(tmp_path, "a🧀b") as llm:
        answer = llm.generate([Text("")], GREEDY)
        assert list(answer) == ["a", "🧀", "b"]
        assert answer.new_tokens == 6


def test_an_emoji_cut_off_by_the_token_limit_is_left_out(tmp_path: Path) -> None:
    with spelling(tmp_path, "a🧀b") as llm:
        answer = llm.generate([Text("")], Sampling(temperature=0, max_tokens=3))
        assert (answer.read(), answer.finish, answer.new_tokens) == ("a", "length", 3)


def test_a_stop_string_that_spans_tokens_ends_the_text_before_it(tmp_path: Path) -> None:
    with spelling(tmp_path, "one, ENDx") as llm:
        answer = llm.generate([Text("")], Sampling(temperature=0, stop=("END", "zzz")))
        assert (answer.read(), answer.finish) == ("one, ", "stop")
        assert answer.new_tokens == len("one, END")


def test_a_stop_string_that_only_begins_is_text_after_all(tmp_path: Path) -> None:
    with spelling(tmp_path, "to-be EN") as llm:
        answer = llm.generate([Text("")], Sampling(temperature=0, stop=("END", "best")))
        assert (answer.read(), answer.finish) == ("to-be EN", "stop")


def test_a_stop_string_may_hold_an_emoji(tmp_path: Path) -> None:
    with spelling(tmp_path, "hi 🧀!") as llm:
        assert llm.generate([Text("")], Sampling(temperature=0, stop=("🧀",))).read() == "hi "


def test_max_tokens_ends_with_length(tmp_path: Path) -> None:
    with spelling(tmp_path, "abcdef") as llm:
        answer = llm.generate([Text("")], Sampling(temperature=0, max_tokens=3))
        assert (answer.read(), answer.finish) == ("abc", "length")


def test_a_full_context_ends_with_length(tmp_path: Path) -> None:
    pieces = [byte(value) for value in b"abc"]
    path = tiny_gguf.script(tmp_path / "loop.gguf", pieces, n_ctx=16, loops=True)
    with LLM(path, n_threads=1) as llm:
        answer = llm.generate([Text("")], GREEDY)
        assert answer.read() == "abc" * 5 + "a"
        assert (answer.prompt_tokens, answer.new_tokens, answer.finish) == (1, 16, "length")


def test_the_same_seed_writes_the_same_text(llm: LLM) -> None:
    def write(seed: int | None) -> str:
        return llm.generate([Text("the")], Sampling(temperature=2, max_tokens=20, seed=seed)).read()

    assert write(7) == write(7)
    assert len({write(seed) for seed in range(5)}) > 1


def test_a_drawn_seed_is_told_and_reproduces_the_text(llm: LLM) -> None:
    first = llm.generate([Text("the")], Sampling(temperature=2, max_tokens=20))
    text = first.read()
    again = llm.generate([Text("the")], Sampling(temperature=2, max_tokens=20, seed=first.seed))
    assert again.read() == text


def test_temperature_zero_needs_no_seed(llm: LLM) -> None:
    texts = {llm.generate([Text("he")], GREEDY).read() for _ in range(3)}
    assert len(texts) == 1


@pytest.mark.parametrize(
    "narrow", [{"top_k": 1}, {"top_p": 1e-6, "top_k": 0}, {"min_p": 0.999, "top_k": 0}]
)
def test_the_narrowest_filter_is_greedy(llm: LLM, narrow: dict[str, float]) -> None:
    greedy = llm.generate([Text("he")], Sampling(temperature=0, max_tokens=20)).read()
    sampling = Sampling(temperature=1, max_tokens=20, seed=1, **narrow)
    assert llm.generate([Text("he")], sampling).read() == greedy


def test_a_repeat_penalty_breaks_a_loop(tmp_path: Path) -> None:
    with LLM(tiny_gguf.write(tmp_path / "gemma.gguf", "gemma"), n_threads=1) as llm:
        free = Sampling(temperature=0, max_tokens=40, dry_multiplier=0)
        assert llm.generate([Text("the")], free).read() == "he" * 40
        held_back = replace(free, repeat_penalty=1e9)
        assert llm.generate([Text("the")], held_back).read().count("he") == 1


def test_dry_breaks_a_loop_of_several_tokens_and_not_one_of_the_prompt(tmp_path: Path) -> None:
    def count(text: str, prompt: str = "", **how: float) -> int:
        sampling = Sampling(temperature=0, max_tokens=60, **how)
        with spelling(tmp_path, text, loops=True) as llm:
            return llm.generate([Text(prompt)], sampling).read().count(text)

    assert count("abc", dry_multiplier=0) == 20
    assert 1 <= count("abc", dry_multiplier=5) < 10
    # Nothing comes twice in the answer: what the prompt holds may be said again.
    long = "".join(map(chr, range(ord("0"), ord("0") + 50)))
    assert count(long, prompt=long, dry_multiplier=5) == count(long, dry_multiplier=5) == 1


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_tokens": 0},
        {"temperature": -0.1},
        {"temperature": float("nan")},
        {"temperature": float("inf")},
        {"top_k": -1},
        {"top_p": 0},
        {"top_p": 1.5},
        {"min_p": 1},
        {"repeat_penalty": 0},
        {"dry_multiplier": -0.1},
        {"dry_multiplier": float("inf")},
        {"seed": -1},
        {"seed": 2**32 - 1},
    ],
)
def test_a_sampling_value_out_of_range_is_named(wrong: dict[str, float]) -> None:
    ((name, value),) = wrong.items()
    with pytest.raises(ModelError, match=rf"sampling: {name} must be .*, not {value}"):
        Sampling(**wrong)


@pytest.mark.parametrize("stop", ["END", ("a", "")])
def test_a_stop_that_is_no_tuple_of_strings_is_refused(stop: object) -> None:
    with pytest.raises(ModelError, match="stop must be a tuple of strings that are not empty"):
        Sampling(stop=stop)  # type: ignore[arg-type]


def test_cancelling_from_another_thread_ends_the_text(tmp_path: Path) -> None:
    with spelling(tmp_path, "abcdefgh", loops=True) as llm:
        answer = llm.generate([Text("")], Sampling(temperature=0, max_tokens=400))
        pieces = []
        for piece in answer:
            pieces.append(piece)
            if len(pieces) == 10:
                thread = threading.Thread(target=answer.cancel)
                thread.start()
                thread.join()
        assert (answer.text, answer.finish) == ("abcdefghab", "cancelled")


def test_a_cancelled_answer_leaves_the_model_usable(llm: LLM) -> None:
    wanted = llm.logits([Text("the e")])
    answer = llm.generate([Text("the a")], GREEDY)
    answer.cancel()
    assert (answer.read(), answer.finish, answer.new_tokens) == ("", "cancelled", 0)
    np.testing.assert_array_equal(llm.logits([Text("the e")]), wanted)


def test_a_cancelled_prefill_decodes_nothing(llm: LLM) -> None:
    llm.prefill([Text("x")])
    cancel = Cancel()
    cancel.set()
    assert llm.prefill([Text("x the the")], cancel=cancel) == len(llm.tokens([Text("x")]))


def test_two_answers_may_be_read_in_turns(llm: LLM) -> None:
    sampling = [Sampling(temperature=1, max_tokens=12, seed=seed) for seed in (1, 2)]
    prompts = [[Text("the")], [Text("a he")]]
    alone = [llm.generate(p, s).read() for p, s in zip(prompts, sampling, strict=True)]
    first, second = (llm.generate(p, s) for p, s in zip(prompts, sampling, strict=True))
    for _ in range(40):
        next(first, "")
        next(second, "")
    assert [first.text, second.text] == alone


def test_two_threads_take_turns(llm: LLM) -> None:
    prompts = [[Text("the " * i)] for i in range(1, 9)]
    wanted = [llm.logits(prompt) for prompt in prompts]
    found: dict[int, np.ndarray] = {}

    def work(start: int) -> None:
        for i in range(start, len(prompts), 2):
            found[i] = llm.logits(prompts[i])

    threads = [threading.Thread(target=work, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # What is kept from the prompt before sets the batch, and so the order of float32 sums.
    for i, logits in enumerate(wanted):
        np.testing.assert_allclose(found[i], logits, atol=1e-5)


def test_bos_comes_first_once(llm: LLM) -> None:
    body = llm.tokenize("the")
    assert tiny_gguf.BOS not in body
    assert llm.tokens([Text("the")]) == [tiny_gguf.BOS, *body]
    assert llm.tokens([Text("<s>the", special=True)]) == [tiny_gguf.BOS, *body]
    soft = Soft(np.zeros((2, llm.n_embd), np.float32))
    assert llm.tokens([soft, Text("the")]) == [tiny_gguf.BOS, -1, -1, *body]


def test_text_with_a_nul_and_without_a_token_of_its_own_is_spelled_in_bytes(llm: LLM) -> None:
    assert llm.tokenize("\0é") == [byte(0), byte(0xC3), byte(0xA9)]


def test_scores_are_log_probabilities_of_single_tokens(llm: LLM) -> None:
    logits = llm.logits([Text("the")]).astype(np.float64)
    wanted = logits - np.logaddexp.reduce(logits)
    options = ["b", "c", "d"]
    for score in llm.score([Text("the")], options):
        assert score.logprob == pytest.approx(wanted[byte(ord(score.option))], abs=1e-9)
        assert score.tokens == 1


def test_an_option_longer_than_a_batch_scores_the_same(tmp_path: Path, llm: LLM) -> None:
    prompt, option = [Text("the a")], "many bytes in one option"
    path = tiny_gguf.write(tmp_path / "same.gguf", n_ctx=128)
    with LLM(path, n_threads=1, n_batch=3) as small:
        [found], [wanted] = small.score(prompt, [option]), llm.score(prompt, [option])
        assert found.tokens == wanted.tokens
        # Sums in another order.
        assert found.logprob == pytest.approx(wanted.logprob, abs=1e-3)


def test_the_end_of_a_text_is_scored_when_asked_for(tmp_path: Path) -> None:
    with spelling(tmp_path, "abc") as llm:
        whole, open_ended = (llm.score([Text("")], ["abc", "ab"], end=end) for end in (True, False))
        assert [score.tokens for score in whole] == [4, 3]
        assert [score.tokens for score in open_ended] == [3, 2]
        assert whole[0].logprob == pytest.approx(0, abs=1e-6)
        assert whole[1].logprob < -100 < open_ended[1].logprob


def test_the_end_adds_the_log_probability_of_ending_there(llm: LLM) -> None:
    (whole,) = llm.score([Text("the")], ["bcd"], end=True)
    (body,) = llm.score([Text("the")], ["bcd"])
    logits = llm.logits([Text("the"), Text("bcd")]).astype(np.float64)
    ends = logits[llm.end_token] - np.logaddexp.reduce(logits)
    assert whole.logprob == pytest.approx(body.logprob + ends, abs=1e-4)
    (nothing,) = llm.score([Text("thebcd")], [""], end=True)
    assert (nothing.tokens, nothing.logprob) == (1, pytest.approx(ends, abs=1e-4))


def test_an_end_of_turn_that_the_file_names_ends_its_texts(tmp_path: Path, llm: LLM) -> None:
    assert llm.end_token == tiny_gguf.EOS
    path = tiny_gguf.write(tmp_path / "turns.gguf", end_of_turn=byte(ord("!")))
    with LLM(path, n_threads=1) as turns:
        assert turns.end_token == byte(ord("!"))
        assert turns.score([Text("a")], ["b"], end=True)[0].logprob == pytest.approx(
            turns.score([Text("a")], ["b!"])[0].logprob
        )


def test_a_model_that_cannot_end_a_text_says_so(tmp_path: Path) -> None:
    with LLM(tiny_gguf.write(tmp_path / "endless.gguf"), n_threads=1) as llm:
        llm.end_token = None
        with pytest.raises(ModelError, match=r"endless\.gguf: .* no token that ends a text"):
            llm.score([Text("a")], ["b"], end=True)


def test_a_cleared_context_holds_nothing_and_answers_the_same(llm: LLM) -> None:
    llm.clear()
    cold = llm.logits([Text("the a")])
    assert llm._cache._held == llm.tokens([Text("the a")])
    llm.clear()
    assert llm._cache._held == []
    np.testing.assert_array_equal(llm.logits([Text("the a")]), cold)


def test_no_options_score_nothing(llm: LLM) -> None:
    assert llm.score([Text("the")], []) == []


# --- errors: each before anything is decoded -------------------------------------------------


@pytest.mark.parametrize("ask", ["prefill", "logits", "generate"])
def test_an_overfull_context_says_how_many_tokens_fit(llm: LLM, ask: str) -> None:
    held = list(llm._cache._held)
    with pytest.raises(ModelError, match=r"the prompt takes 201 tokens, and 128 fit"):
        getattr(llm, ask)([Text("b" * 200)])
    assert llm._cache._held == held


def test_an_option_that_does_not_fit_says_so(llm: LLM) -> None:
    with pytest.raises(ModelError, match="the prompt and an option takes 150 tokens, and 128 fit"):
        llm.score([Text("b" * 49)], ["c", "c" * 101])


def test_a_prompt_that_just_fits_is_answered(llm: LLM) -> None:
    answer = llm.generate([Text("b" * 127)], GREEDY)
    answer.read()
    assert (answer.prompt_tokens, answer.new_tokens) == (128, 1)


def test_soft_tokens_of_another_width_are_refused(llm: LLM) -> None:
    with pytest.raises(ModelError, match=r"segment 1: .* \[n, 64\] for this model, not \[3, 32\]"):
        llm.logits([Text("a"), Soft(np.zeros((3, 32), np.float32))])
    with pytest.raises(ModelError, match=r"not \[64\]"):
        llm.logits([Soft(np.zeros(64, np.float32))])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_soft_tokens_that_are_not_finite_are_refused(llm: LLM, value: float) -> None:
    vectors = np.zeros((4, 64), np.float32)
    vectors[2, 5] = value
    with pytest.raises(ModelError, match="segment 0: soft token 2 holds a NaN or an infinity"):
        llm.logits([Soft(vectors)])


def test_a_lone_surrogate_is_refused(llm: LLM) -> None:
    with pytest.raises(ModelError, match=r"lone surrogate.* position 2"):
        llm.logits([Text("ab\udc80")])


def test_an_empty_option_is_refused(llm: LLM) -> None:
    with pytest.raises(ModelError, match="option '' has no tokens"):
        llm.score([Text("a")], ["b", ""])


def test_a_token_outside_the_vocabulary_is_refused(llm: LLM) -> None:
    with pytest.raises(ModelError, match=r"token id 265 is outside the model's 0\.\.264"):
        llm.embedding_rows([0, 265])
    with pytest.raises(ModelError, match="token id -1"):
        llm.embedding_rows([-1])


@pytest.mark.parametrize("wrong", [{"n_ctx": 0}, {"n_batch": -1}, {"n_threads": 0}])
def test_a_size_below_one_is_refused(tmp_path: Path, wrong: dict[str, int]) -> None:
    ((name, value),) = wrong.items()
    with pytest.raises(ModelError, match=f"{name} must be at least 1, not {value}"):
        LLM(tmp_path / "never-opened.gguf", **wrong)


def test_a_closed_model_says_so(tmp_path: Path) -> None:
    llm = LLM(tiny_gguf.write(tmp_path / "closed.gguf"), n_threads=1)
    answer = llm.generate([Text("the")], GREEDY)
    next(answer)
    llm.close()
    llm.close()
    for ask in (
        lambda: next(answer),
        lambda: llm.tokenize("a"),
        lambda: llm.logits([Text("a")]),
        lambda: llm.embedding_rows([1]),
        lambda: llm.score([Text("a")], ["b"]),
    ):
        with pytest.raises(ModelError, match=r"closed\.gguf: this model has been closed"):
            ask()


def test_a_model_that_is_dropped_is_freed(tmp_path: Path) -> None:
    llm = LLM(tiny_gguf.write(tmp_path / "dropped.gguf"), n_threads=1, verbose=True)
    from ppedge.llm.binding.ggml import log

    assert log.loud == 1
    del llm
    gc.collect()
    assert log.loud == 0


# --- chatter ----------------------------------------------------------------------------------


def test_nothing_is_printed(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tiny_gguf.write(tmp_path / "quiet.gguf")
    for _ in range(2):
        with LLM(path, n_threads=1) as llm:
            llm.generate([Text("the")], Sampling(max_tokens=2)).read()
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ModelError):
        LLM(path)
    assert capfd.readouterr() == ("", "")


def test_verbose_prints_to_stderr_while_it_is_open(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tiny_gguf.write(tmp_path / "loud.gguf")
    LLM(path, n_threads=1, verbose=True).close()
    out, err = capfd.readouterr()
    assert out == ""
    assert "llama" in err
    LLM(path, n_threads=1).close()
    assert capfd.readouterr() == ("", "")


EXIT = """
import atexit, sys, threading
from ppedge.errors import ModelError
from ppedge.llm.llm import LLM, Sampling
from ppedge.llm.segments import Text

llm = LLM(sys.argv[1], n_threads=1)
atexit.register(llm.close)
def write():
    try:
        while True:
            llm.generate([Text("the")], Sampling(temperature=1, max_tokens=50)).read()
    except ModelError:
        pass  # closed under it, as it may be
threading.Thread(target=write, daemon=True).start()
left_open = LLM(sys.argv[1], n_threads=1)
unfinished = left_open.generate([Text("the")], Sampling(temperature=0))
print(next(unfinished) != "")
"""


def test_a_program_may_end_while_a_model_writes(tmp_path: Path) -> None:
    path = tiny_gguf.write(tmp_path / "exit.gguf")
    done = subprocess.run(
        [sys.executable, "-c", EXIT, str(path)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "True\n", "")
