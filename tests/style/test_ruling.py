"""What is known of tokens, found once; and rules over tokens against rules over text."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ppedge.style.ending import Ending
from ppedge.style.rules import NoCopying, NoFiller, NoLoops
from ppedge.style.ruling import Pieces, Rules
from ppedge.style.shapes import Shapes
from ppedge.style.token_table import TokenTable
from ppedge.style.words import words_of

END_TOKEN = 0
WORDS = [
    *("", "a", " a", " the", "the", " The", "re", " re", "rain", " rain", "s", "ing", " it", "'s"),
    *(" 1", "2", ",", ",,,,,", "!", "!!", "\n", " ", " [", " Rain", "é", " soooooo", "oo", " o"),
]


class Vocabulary:
    """A few tokens of several letters, the first of which ends a text."""

    def piece(self, token: int) -> bytes:
        return WORDS[token].encode()

    def is_end(self, token: int) -> bool:
        return token == END_TOKEN


def joined(tokens: list[int]) -> str:
    return "".join(WORDS[token] for token in tokens)


def says_too_often(loops: NoLoops, text: str, piece: str) -> bool:
    """What `Rules` should find of a token, by its text: slow, and plain."""
    last = words_of(text.rsplit(maxsplit=1)[-1])[-1:] if text and text[-1].isalnum() else []
    if last and piece[:1].isalnum():
        begun = text[-next(n for n in range(1, len(text) + 1) if not text[-n - 1 : -n].isalnum()) :]
        word, forbidden = words_of(begun + piece)[0], loops.forbidden(text[: -len(begun)])
    elif found := words_of(piece):
        word, forbidden = found[0], loops.forbidden(text)
    else:
        return False
    return word in forbidden or (len(word) >= 4 and any(w.startswith(word) for w in forbidden))


def begins_number(text: str, piece: str) -> bool:
    is_new = not text or text[-1].isspace() or piece[:1].isspace()
    return is_new and piece.strip()[:1].isdigit()


@given(st.lists(st.integers(1, len(WORDS) - 1), max_size=24))
@example([1, 2, 2, 2, WORDS.index("\n")])  # Behind a line break no word is begun.
def test_tokens_are_ruled_out_as_their_words_are(written: list[int]) -> None:
    loops, text = NoLoops(), joined(written)
    ending = Ending([], [])
    rules = Rules(Pieces(Vocabulary()), END_TOKEN, NoCopying([]), loops, NoFiller(["["]), ending)
    found = rules.process(np.zeros(len(WORDS), np.float32), written)
    if len(words_of(text)) < 4 or not np.isneginf(found).any():
        return  # The end is ruled out besides, or nothing would have been left.
    for token, word in enumerate(WORDS):
        wanted = (
            says_too_often(loops, text, word)
            or loops.draws_out(text, word)
            or (loops.too_dense(text.rstrip() + " ") and begins_number(text, word))
            or (loops.too_dense(text.rstrip() + " ") and word == " ")
            or (loops.only_marks(text) and token != END_TOKEN and not words_of(word))
        )
        is_number = word[:1].isdigit() and text[-1:].isalnum()  # goes on with a number
        assert np.isneginf(found[token]) == wanted or is_number, (text, word)


def test_a_token_is_found_once_and_by_any_thread() -> None:
    asked: list[int] = []

    def find(token: int) -> tuple[int, int]:
        asked.append(token)
        return token, -token

    table, wrong = TokenTable(find, 2), []

    def look(seed: int) -> None:
        rng = np.random.default_rng(seed)
        for _ in range(50):
            tokens = rng.integers(0, 1000, 64)
            if not np.array_equal(table(tokens), np.stack([tokens, -tokens], axis=1)):
                wrong.append(seed)

    threads = [threading.Thread(target=look, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert len(asked) == len(set(asked))


def test_no_tokens_are_no_rows() -> None:
    assert TokenTable(lambda token: (token,), 1)(np.zeros(0, np.int64)).shape == (0, 1)


def test_a_word_that_no_token_said_yet_is_found() -> None:
    pieces = Pieces(Vocabulary())
    tokens = np.array([WORDS.index(" rain"), WORDS.index(" Rain"), WORDS.index("s")])
    assert pieces.says(tokens, {"rain"}).tolist() == [True, True, False]


@pytest.mark.parametrize("name", ["a", " Aa", "end", "break 1"])
def test_shapes_have_numbers(name: str) -> None:
    shapes = Shapes(Vocabulary())
    numbers = shapes.numbers(np.arange(len(WORDS)))
    told = [shapes.names[number] for number in numbers.tolist()]
    assert told == [shapes(token) for token in range(len(WORDS))]
    assert name in told
