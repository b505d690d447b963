"""A prompt for a note that has none: what somebody may have asked for who got it as an answer.

Turns then show two things at once: how this person writes, and that what they write keeps to what
was asked. The prompt names the two words that say most about the note. No model is asked.
"""

from __future__ import annotations

import re
import zlib
from collections import Counter
from collections.abc import Collection, Iterable
from typing import Final

from ppedge.notes.reader import Note

ANSWER_TOKENS: Final = 64
ASK_TOKENS: Final = 48
"""Tokens that a turn's two sides are cut at; training cuts at the same."""

_WORD: Final = re.compile(r"[^\W\d_]{4,}")
_NAMED: Final = 2  # words that a prompt names
_COMMON_SHARE: Final = 0.2
FORMS: Final = (
    "Write a short note about {}.",
    "Tell me about {}.",
    "Write a few lines about {}.",
    "What is there to say about {}?",
)
_NOTHING_NAMED: Final = "Write a short note."

# English words of four letters and more that say nothing about what a text is about.
_EMPTY_WORDS: Final = frozenset(
    re.findall(
        r"\w+",
        """
        about above after again against almost already also although always among another anybody
        anyone anything aren around because been before being below best better between both came
        cannot cheers come could couldn dear didn does doesn doing done down during each either else
        enough even ever every everyone everything first from further gets getting give goes going
        gone good hadn hasn have haven having hello here hers herself himself however into itself
        just keep kind kindly know last least less like little long look love made make makes making
        many maybe mean might more most much must myself need never next nobody nothing often once
        only onto other others ours over perhaps please quite rather really regards right said same
        says seems shall should shouldn since some somebody someone something sometimes soon still
        such sure take tell than thank thanks that their theirs them then there these they thing
        things think this those though through time today tomorrow tonight took under until upon
        used very want wants wasn well went were weren what when where which while whom whose will
        with within without wonderful would wouldn yesterday your yours yourself
        """,
    )
)


def common_words(notes: Iterable[Note]) -> frozenset[str]:
    """The words that stand in a fifth of a person's notes or more, and in three at the least.

    They tell of the person, not of what a note is about.
    """
    texts = [note.output for note in notes]
    counts = Counter(word for text in texts for word in set(telling_words(text)))
    least = max(3.0, _COMMON_SHARE * len(texts))
    return frozenset(word for word, count in counts.items() if count >= least)


def ask_for(note: Note, common: Collection[str] = ()) -> str:
    """A prompt that the note may be an answer to: its input, or else one made of its own words.

    Args:
        note: of any language; the words around the named ones are English.
        common: words not to name, from `common_words`.
    """
    if note.input.strip():
        return note.input
    form = FORMS[zlib.crc32(note.output.encode("utf-8", "replace")) % len(FORMS)]
    return request(form, note.output, common)


def request(form: str, text: str, common: Collection[str] = (), count: int = _NAMED) -> str:
    """A prompt for a text that names some of its words.

    Args:
        form: one of `FORMS`, or another with a place for the words.
        text: of any language.
        common: words not to name.
        count: how many to name at most.
    """
    counts = Counter(word for word in telling_words(text) if word not in common)
    # Counter keeps the order of the text; a word that comes twice, or is long, says more.
    named = sorted(counts, key=lambda word: (-counts[word], -min(len(word), 9)))[:count]
    if not named:
        return _NOTHING_NAMED
    named.sort(key=list(counts).index)
    return form.format(" and ".join([", ".join(named[:-1]), named[-1]] if named[1:] else named))


def telling_words(text: str) -> list[str]:
    """The words of a text, in lower case, that say something about what it is about."""
    return [word for word in map(str.lower, _WORD.findall(text)) if word not in _EMPTY_WORDS]
