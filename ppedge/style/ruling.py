"""The rules of ``rules.py`` as one logits processor, over the tokens that a model holds for likely.

At each token a few hundred others are looked at, mostly the same ones each time: what they say is
found once, and numpy compares.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ppedge.style.ending import Ending
from ppedge.style.rules import Dense, NoCopying, NoEcho, NoFiller, NoLoops, longest_run
from ppedge.style.shapes import Vocabulary, likeliest
from ppedge.style.token_table import TokenTable
from ppedge.style.words import words_of

_BEGUN: Final = 4  # letters by which a word is known before it ends
_LAST_WORD: Final = re.compile(r"[^\W_]+\Z")  # $ would find a word before a last line break too
_RECENT: Final = 32  # texts whose forbidden words are remembered; several answers take turns

Tokens = NDArray[np.int64]
Mask = NDArray[np.bool_]


class Pieces:
    """What the tokens of a vocabulary say, as far as the rules need it; shared by all rules.

    Args:
        vocabulary: of the model.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        """Know no token yet."""
        self._vocabulary = vocabulary
        # Strings by number; 0 is the empty one.
        self._words: dict[str, int] = {"": 0}
        self._starts: dict[str, int] = {"": 0}
        self._table = TokenTable(self._row, 6)
        self._texts: dict[int, str] = {}

    def text(self, token: int) -> str:
        """What a token says; of a part of a character, U+FFFD."""
        found = self._texts.get(token)
        if found is None:
            found = self._vocabulary.piece(token).decode("utf-8", "replace")
            self._texts[token] = found
        return found

    def join(self, tokens: Iterable[int]) -> str:
        """What some tokens say together."""
        return b"".join(map(self._vocabulary.piece, tokens)).decode("utf-8", "replace")

    def ends(self, tokens: Tokens) -> Mask:
        """Which tokens end a text."""
        return self._are(0, tokens)

    def goes_on(self, tokens: Tokens) -> Mask:
        """Which tokens may go on with a word."""
        return self._are(1, tokens)

    def has_word(self, tokens: Tokens) -> Mask:
        """Which tokens have a letter or digit."""
        return self._are(2, tokens)

    def says(self, tokens: Tokens, words: Iterable[str]) -> Mask:
        """Which tokens have one of ``words`` for their first."""
        said = self._table(tokens)[:, 2]  # First: a word has a number once a token says it.
        numbers = {number for word in words if (number := self._words.get(word))}
        return np.array([number in numbers for number in said.tolist()], np.bool_)

    def starts(self, tokens: Tokens, char: str) -> Mask:
        """Which tokens have ``char``, without case, for their first character."""
        first = self._table(tokens)[:, 3]
        found: Mask = first == self._starts.get(char, -1)
        return found

    def longest_run(self, tokens: Tokens) -> NDArray[np.int32]:
        """How often a letter or mark comes in a row in each token."""
        return self._table(tokens)[:, 4]

    def has_bracket(self, tokens: Tokens) -> Mask:
        """Which tokens have an opening square bracket."""
        return self._are(5, tokens)

    def _are(self, column: int, tokens: Tokens) -> Mask:
        found: Mask = self._table(tokens)[:, column] != 0
        return found

    def _row(self, token: int) -> tuple[int, ...]:
        piece = self.text(token)
        word = next(iter(words_of(piece)), "")
        return (
            self._vocabulary.is_end(token),
            piece[:1].isalnum(),
            self._words.setdefault(word, len(self._words)),
            self._starts.setdefault(piece[:1].casefold(), len(self._starts)),
            longest_run(piece),
            "[" in piece,
        )


class Rules:
    """`NoCopying`, `NoEcho`, `NoLoops`, `NoFiller` and `Ending` as one logits processor.

    Args:
        pieces: of the model.
        end: the token that ends a text; None where there is none, and answers cannot be ended.
        copying, loops, filler, ending: the rules.
        prompt: what is asked, which is not to be said back.
        answers: earlier ones of the conversation, which are not to be copied either.
    """

    def __init__(
        self,
        pieces: Pieces,
        end: int | None,
        copying: NoCopying,
        loops: NoLoops,
        filler: NoFiller,
        ending: Ending,
        *,
        prompt: str = "",
        answers: Sequence[str] = (),
    ) -> None:
        """Join them."""
        self._pieces, self._end = pieces, end
        self._copying, self._loops, self._filler = copying, loops, filler
        self._ending = ending
        self._said = NoCopying(answers, copying)
        self._prompt, self._echo = prompt, NoEcho(prompt)
        self._forbidden = lru_cache(_RECENT)(self._find_forbidden)

    def beside(self, prompt: str, answers: Sequence[str]) -> Rules:
        """These rules, which keep the next answer from saying back a conversation too.

        Args:
            prompt: what is asked.
            answers: earlier ones.
        """
        return Rules(
            self._pieces,
            self._end,
            self._copying,
            self._loops,
            self._filler,
            self._ending,
            prompt=prompt,
            answers=answers,
        )

    def process(self, logits: NDArray[np.float32], written: Sequence[int]) -> NDArray[np.float32]:
        """Rule out what the rules forbid.

        Args:
            logits: float32 [n_vocab], -inf where a token is ruled out already; changed.
            written: the answer's tokens so far.

        Returns:
            float32 [n_vocab]; as it came where nothing would be left.
        """
        text = self._pieces.join(written)
        if self._end is not None and self._ending.is_over(text, len(written)):
            logits.fill(-np.inf)
            logits[self._end] = 0
            return logits
        if self._end is not None and self._ending.is_last_word(text):
            self._end_word(logits, self._end)
        possible = likeliest(logits)
        ruled_out = possible[self._are_ruled_out(possible, text)]
        if len(ruled_out) < int(np.isfinite(logits).sum()):
            logits[ruled_out] = -np.inf
        return logits

    def _end_word(self, logits: NDArray[np.float32], end: int) -> None:
        """End the text in place of beginning another word."""
        possible = likeliest(logits)
        others = possible[~self._pieces.goes_on(possible)]
        if len(others):
            # Their share of the probability goes to the end.
            share = float(np.logaddexp.reduce(logits[others].astype(np.float64)))
            logits[others] = -np.inf
            logits[end] = share

    def _are_ruled_out(self, tokens: Tokens, text: str) -> Mask:
        """Which tokens, int64 [n], may not follow a text; bool [n]."""
        pieces, loops = self._pieces, self._loops
        found = self._say_forbidden(tokens, text)
        found |= self._draw_out(tokens, text)
        if len(words_of(text)) < self._ending.least_words:
            found |= pieces.ends(tokens)
        for kind in loops.too_dense(text.rstrip() + " "):
            found |= [self._begins(kind, token, text) for token in tokens.tolist()]
        if loops.only_marks(text):
            found |= ~(pieces.has_word(tokens) | pieces.ends(tokens))
        if not self._filler.brackets:
            found |= pieces.has_bracket(tokens)
        return found

    def _find_forbidden(self, text: str) -> set[str]:
        said = self._said.forbidden(text) | self._echo.forbidden(text)
        found = said | self._copying.forbidden(text) | self._loops.forbidden(text)
        return found | self._filler.forbidden(text, self._prompt)

    def _say_forbidden(self, tokens: Tokens, text: str) -> Mask:
        """Which tokens say a word that may not follow the text, or may not stand for its last."""
        pieces, words = self._pieces, self._forbidden(text)
        found = pieces.says(tokens, _beginnings(words))
        last = _LAST_WORD.search(text)
        if last is None:
            return found
        goes_on = pieces.goes_on(tokens)
        begun = last[0].casefold()
        longer = {word for word in self._forbidden(text[: last.start()]) if word.startswith(begun)}
        found &= ~goes_on
        if longer:
            said = _beginnings(longer)
            for i in np.flatnonzero(goes_on).tolist():
                found[i] = words_of(last[0] + pieces.text(int(tokens[i])))[0] in said
        return found

    def _draw_out(self, tokens: Tokens, text: str) -> Mask:
        """Which tokens would have one letter or mark too often in a row."""
        pieces, loops = self._pieces, self._loops
        found: Mask = pieces.longest_run(tokens) > loops.longest
        for i in np.flatnonzero(pieces.starts(tokens, text[-1:].casefold())).tolist():
            found[i] |= loops.draws_out(text, pieces.text(int(tokens[i])))
        return found

    def _begins(self, kind: Dense, token: int, text: str) -> bool:
        """Whether a token behind a text begins a number or a tag."""
        piece = self._pieces.text(token)
        if kind == "number" and piece and not piece.strip(" "):
            return True  # A space by itself stands before a number, where digits are tokens.
        is_new = not text or text[-1].isspace() or piece[:1].isspace()
        if kind == "tag":
            return "#" in piece or (is_new and piece.lstrip()[:1] == "@")
        return is_new and piece.lstrip()[:1].isdigit()


def _beginnings(words: Iterable[str]) -> set[str]:
    """Words, and so much of the longer ones that nothing else comes of it."""
    return {word[:size] for word in words for size in (*range(_BEGUN, len(word)), len(word))}
