"""Who is asked to write to somebody begins with a word to them, and with what the message is to do.

Behind turns that tell of things a small model tells of a message too, and does not write it. The
first words decide: once "hi dana, thank you" stands there, thanks to Dana follow. So where a prompt
has an addressee, an answer begins with one of a few lines of address, and goes on with one of a few
ways to thank, ask or invite, if that is asked for; the model, with the person's turns and shapes,
chooses which. Whose notes greet or thank somebody does it as there.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ppedge.style.acts import words_for
from ppedge.style.addressee import Addressed
from ppedge.style.topic import Tokenizer

_GREETING: Final = re.compile(
    r"(?:dear|hi|hiya|hello|hey|yo|good (?:morning|afternoon|evening|day))(?=[\s,!])", re.IGNORECASE
)
_USUAL: Final = ("Dear", "Hi", "Hello", "Hey")
_FORMAL: Final = "dear"  # stands before a name
_UNKNOWN: Final = "Sir or Madam"
_MARKS: Final = (",", "!")
# Words of which English notes have one, and hardly a note of another language.
_ENGLISH: Final = re.compile(r"\b(?:the|and|you|my|it|with|for|this)\b", re.IGNORECASE)
_ENGLISH_SHARE: Final = 0.2
_MARKED_WITHIN: Final = 24  # characters behind a greeting, within which the line has its mark


class Greetings:
    """How a person begins when they write to somebody.

    Args:
        texts: of the person's notes.
    """

    def __init__(self, texts: Iterable[str]) -> None:
        """Look for greetings at the beginnings of notes, and for small letters."""
        begun = [text.strip() for text in texts]
        found = [(text, match) for text in begun if (match := _GREETING.match(text))]
        self._own = list(dict.fromkeys(match[0] for _, match in found))
        behind = [text[match.end() : match.end() + _MARKED_WITHIN] for text, match in found]
        marked = not behind or any(mark in text for text in behind for mark in _MARKS)
        self._marks = _MARKS if marked else ("",)
        english = sum(map(bool, map(_ENGLISH.search, begun)))
        self._is_english = english >= _ENGLISH_SHARE * len(begun)
        self._texts = begun
        self._own_case = _own_case(begun)
        self._gaps = (" ", "\n") if any("\n" in text for text in begun) else (" ",)

    def lines(self, name: str) -> list[str]:
        """What an answer may begin with, to somebody of this name; "" if they have none.

        Nothing is known of how others than those who write English begin.
        """
        if not self._is_english:
            return []
        greetings = self._own or _USUAL
        if name:
            begun = [f"{greeting} {form}" for greeting in greetings for form in _cases(name)]
            begun += [] if self._own else [name[0].upper() + name[1:]]
        else:
            begun = [each for each in greetings if each.lower() != _FORMAL]
            begun += [f"{each} {_UNKNOWN}" for each in self._own if each.lower() == _FORMAL]
        return self._written([line + mark for line in begun for mark in self._marks])

    def acts(self, words: Sequence[str]) -> list[str]:
        """How an answer may go on behind such a line, where it is to do what some words do."""
        said = "\n".join(self._texts).casefold()
        own = [each for each in words if re.search(rf"\b{re.escape(each.casefold())}\b", said)]
        forms = [form for each in own or words for form in _cases(each)]
        return self._written([gap + form for form in forms for gap in self._gaps])

    def _written(self, texts: Sequence[str]) -> list[str]:
        """Some texts in the person's case."""
        case = self._own_case
        return list(dict.fromkeys(map(case, texts) if case else texts))


def _cases(text: str) -> list[str]:
    """A text as it is, and with a large letter first."""
    return [text, text[0].upper() + text[1:]]


def _own_case(texts: Sequence[str]) -> Callable[[str], str] | None:
    """The case of all that a person writes; None of who writes in both."""
    if 2 * sum(text[:1].islower() for text in texts) > len(texts):
        return str.lower
    return str.upper if 2 * sum(map(str.isupper, texts)) > len(texts) else None


class Address:
    """A logits processor that lets an answer begin only with a word to whom it is for.

    Args:
        tokenizer: of the model.
        message: what a prompt wants written to somebody.
        greetings: of the person.
    """

    def __init__(self, tokenizer: Tokenizer, message: Addressed, greetings: Greetings) -> None:
        """Find the lines that the answer may begin with."""
        self._tokenizer = tokenizer
        lines = greetings.lines(message.name)
        self._acts = greetings.acts(words_for(message)) if lines else []
        # Lines that do not go on yet, and what may follow each beginning of an answer.
        self._lines = {tuple(tokenizer.tokenize(line)): line for line in lines}
        self._following: dict[tuple[int, ...], list[int]] = {}
        self._longest = 0
        for tokens in self._lines:
            self._allow(tokens, 0)

    def process(self, logits: NDArray[np.float32], written: Sequence[int]) -> NDArray[np.float32]:
        """Rule out what goes on none of the lines, until one is written.

        Args:
            logits: float32 [n_vocab]; changed and returned.
            written: the answer's tokens so far.
        """
        begun = tuple(written[: self._longest + 1])
        self._go_on(begun)
        following = self._following.get(begun)
        if following:
            kept = logits[following]
            logits.fill(-np.inf)
            logits[following] = kept
        return logits

    def _go_on(self, begun: tuple[int, ...]) -> None:
        """Let a line, once it is written, go on with what the message is to do."""
        line = self._lines.pop(begun, None)
        if line is not None:
            for act in self._acts:
                tokens = tuple(self._tokenizer.tokenize(line + act))
                if tokens[: len(begun)] == begun:  # else the two run together
                    self._allow(tokens, len(begun))

    def _allow(self, tokens: tuple[int, ...], start: int) -> None:
        """Let an answer that has ``start`` of some tokens go on with the others."""
        self._longest = max(self._longest, len(tokens))
        for i in range(start, len(tokens)):
            following = self._following.setdefault(tokens[:i], [])
            if tokens[i] not in following:
                following.append(tokens[i])
