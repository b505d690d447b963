"""Synthetic people with a marked manner of writing, to learn from how manner is taken up.

    persona = draw_persona(rng)
    persona.say(plain, rng)

A persona is a handful of habits, each drawn by itself: letter case, what ends a sentence and what
joins two, openers and sign-offs, emoji, spelling, how much is said. Saying a plain text in a
persona changes how it is written and not what it says, so that whatever two texts in one persona
share is the persona. The plain texts are the frozen LLM's own answers (``export/corpus.py``): a
plug that learns from them what a person adds does not unlearn how the model writes.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from export.tools.draws import one_of

Rng = np.random.Generator

WORDS: dict[str, Any] = json.loads(
    Path(__file__).with_name("words.json").read_text(encoding="utf-8")
)


def _one(rng: Rng, weights: dict[str, float]) -> str:
    shares = np.array(list(weights.values()))
    return str(rng.choice(list(weights), p=shares / shares.sum()))


def _any(rng: Rng, kind: str) -> str:
    """One of the words of a kind, its blanks filled in."""
    name, number = str(rng.choice(WORDS["names"])), str(rng.integers(1, 40))
    text = str(rng.choice(WORDS[kind]))
    return text.format(name=name, initial=name[0].lower(), number=number)


@dataclass(frozen=True)
class SyntheticPersona:
    """How a synthetic person writes; the default is plain."""

    case: str = "as it is"  # lower, upper, title, loud (a word in capitals), as it is
    end: str = "."  # of a sentence
    comma: str = ","
    join: str = " "  # between sentences
    conjunction: str = "and"
    words: dict[str, str] = field(default_factory=dict)  # what is written in place of what
    apostrophes: bool = True
    opener: str = ""
    closer: str = ""
    closer_line: bool = False  # the closer stands on its own line
    prefix: str = ""  # of titles, and of texts without an opener
    bullet: str = ""
    clipped: bool = False  # no "It is", "I am", "The" at the beginning of a sentence
    filler: str = ""
    emoji: tuple[str, ...] = ()
    emphasis: str = ""  # put around a long word
    sentences: int = 3  # at most so many
    faith: float = 1.0  # how often opener, closer and emoji are there

    def say(self, plain: str, rng: Rng) -> str:
        """Say a plain text in this persona."""
        said = [self._sentence(each, rng) for each in sentences(plain)[: self.sentences]]
        text = self.join.join(self.bullet + each for each in said)
        if self.opener and rng.random() < self.faith:
            # What a comma leads into goes on in lower case.
            goes_on = self.opener[-1] not in ".!:"
            text = f"{self.opener} {_lower_first(text) if goes_on else text}"
        elif self.prefix and rng.random() < self.faith:
            text = self.prefix + text
        text = self._cased(text, rng)
        if self.emoji and rng.random() < self.faith:
            text += " " + "".join(self.emoji[: int(rng.integers(1, len(self.emoji) + 1))])
        if self.closer and rng.random() < self.faith:
            between = "\n" if self.closer_line or not self.end else " "
            text += between + self._cased(self.closer, rng)
        return text

    def title(self, plain: str, rng: Rng) -> str:
        """A few words as this persona puts them at the head of something."""
        text = self._cased(self.prefix + self._spelt(plain), rng)
        return text + (self.end if self.end in ("!", "!!", "...") else "")

    def _sentence(self, text: str, rng: Rng) -> str:
        mark = text[-1] if text[-1] in ".!?" else ""
        text = self._spelt(text.removesuffix(mark))
        if self.clipped:
            text = re.sub(r"^(?:It(?:'s| is)|I(?:'m| am)?|The|This is) ", "", text)
            text = text[:1].upper() + text[1:]
        text = text.replace(", ", f"{self.comma} ").replace(" and ", f" {self.conjunction} ")
        if self.filler and rng.random() < 0.5:
            text = f"{self.filler[:1].upper()}{self.filler[1:]}, {_lower_first(text)}"
        if self.emphasis:
            long = re.findall(r"[A-Za-z]{5,}", text)
            if long:
                word = one_of(rng, long)
                text = text.replace(word, f"{self.emphasis}{word}{self.emphasis}", 1)
        return text + (mark if mark == "?" else self.end)

    def _spelt(self, text: str) -> str:
        for word, other in self.words.items():
            text = re.sub(rf"\b{re.escape(word)}\b", other, text)
        return text if self.apostrophes else text.replace("'", "").replace("’", "")

    def _cased(self, text: str, rng: Rng) -> str:
        if self.case == "lower":
            return text.lower()
        if self.case == "upper":
            return text.upper()
        if self.case == "title":
            return re.sub(r"(?<![\w'’])[a-z]", lambda m: m[0].upper(), text)
        if self.case == "loud":
            words = text.split(" ")
            for i in rng.permutation(len(words))[: 1 + len(words) // 8]:
                words[i] = words[i].upper()
            return " ".join(words)
        return text


def draw_persona(rng: Rng) -> SyntheticPersona:
    """A persona at random; about one in eight is plain."""
    if rng.random() < 0.12:
        return SyntheticPersona(sentences=int(rng.integers(1, 4)))
    end = _one(rng, {".": 50, "!": 14, "!!": 6, "...": 9, "": 13, " :)": 4, " ;)": 2, "…": 2})
    join = " " if end else "\n"
    return SyntheticPersona(
        case=_one(rng, {"as it is": 42, "lower": 38, "upper": 8, "title": 4, "loud": 8}),
        end=end,
        comma=_one(rng, {",": 60, " —": 14, "": 10, " -": 6, "...": 5, ";": 5}),
        join=str(rng.choice([join, join, join, "\n", " - " if end else ", "])),
        conjunction=_one(rng, {"and": 72, "&": 18, "+": 6, "n": 4}),
        words=_words(rng),
        apostrophes=rng.random() > 0.15,
        opener=_any(rng, "openers") if rng.random() < 0.3 else "",
        closer=_any(rng, "closers") if rng.random() < 0.5 else "",
        closer_line=rng.random() < 0.5,
        prefix=_any(rng, "prefixes") if rng.random() < 0.15 else "",
        bullet=str(rng.choice(["- ", "* ", "> "])) if rng.random() < 0.06 else "",
        clipped=rng.random() < 0.1,
        filler=_any(rng, "fillers") if rng.random() < 0.1 else "",
        emoji=tuple(map(str, rng.choice(WORDS["emoji"], int(rng.integers(1, 4)), replace=False)))
        if rng.random() < 0.25
        else (),
        emphasis=str(rng.choice(["*", "_", "**"])) if rng.random() < 0.06 else "",
        sentences=int(rng.choice([1, 1, 2, 2, 3])),
        faith=float(rng.choice([1.0, 0.9, 0.7])),
    )


def _words(rng: Rng) -> dict[str, str]:
    """Spelling habits: some of the short forms, contractions or none at all, British spelling."""
    words: dict[str, str] = {}
    if rng.random() < 0.15:
        kept = rng.permutation(list(WORDS["short"]))[: int(rng.integers(4, 14))]
        words.update({str(word): WORDS["short"][str(word)] for word in kept})
    manner = rng.random()
    if manner < 0.2:
        words.update(WORDS["contracted"])
    elif manner < 0.35:
        words.update({short: long for long, short in WORDS["contracted"].items()})
    if rng.random() < 0.15:
        words.update(WORDS["british"])
    return words


def sentences(text: str) -> list[str]:
    """The sentences of a plain text, in one line each."""
    return [s for s in re.split(r"(?<=[.!?])\s+", " ".join(text.split())) if s]


def _lower_first(text: str) -> str:
    """In lower case at its beginning, but for I and words in capitals."""
    first = re.split(r"[ '’]", text, maxsplit=1)[0]
    return text if first == "I" or first.isupper() else text[:1].lower() + text[1:]
