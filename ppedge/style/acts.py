"""What a message is to do, and the words that do it: to thank, to ask, to invite, to decline."""

from __future__ import annotations

import re
from typing import Final

from ppedge.style.addressee import Addressed

# What asks for it, and what does it.
_ACTS: Final = (
    (
        r"(?:turn\w*\s+down|declin|refus|say\w*\s+no\b).*?\binvit",
        "I'm sorry, but I can't come|I am sorry, but I cannot come|I'm afraid I can't come",
    ),
    (r"(?:turn\w*\s+down|declin|refus|say\w*\s+no\b)", "thank you, but|I'm sorry, but I can't"),
    (r"congratulat", "congratulations|well done"),
    (r"(?:apolog|say\w*\s+sorry\b)", "sorry|I'm sorry|I am sorry"),
    (r"thank", "thank you|thanks|many thanks"),
    (r"invit", "would you like to|come to|I'd like to invite you|I would like to invite you"),
    (r"complain", "I'm not happy|I am not happy|I was disappointed"),
    (r"remind", "don't forget|please remember|just a reminder"),
    (r"(?:cheer\w*\s+up|comfort)", "don't worry|I'm sorry to hear|I am sorry to hear"),
    (r"ask\w*\s+for\b", "can I have|could I have|may I have"),
    (r"ask", "can you|could you|would you"),
)
_IN_ORDER: Final = tuple(
    (
        re.compile(rf"\b{asked}", re.IGNORECASE),
        re.compile(rf"\b(?:(?:to|and)\s+{asked}|(?=\w+ing\b){asked})", re.IGNORECASE),
        tuple(words.split("|")),
    )
    for asked, words in _ACTS
)
# Behind whom is asked, and nothing else.
_QUESTION: Final = re.compile(
    r"(?:(?!(?:about|for|if|to|whether)\b)\S+\s+){1,5}?"
    r"(?P<words>how\s+(?:much|many|long|often|far|old|soon)|what\s+(?:time|kind)"
    r"|(?P<alone>when|where|what|why|how|who)|which)\b",
    re.IGNORECASE,
)
_VERBS: Final = ("is", "are", "do", "does", "can", "will")
_ASKING: Final = _IN_ORDER[-1][-1]
_BIRTHDAY: Final = re.compile(
    r"\bbirthday\b|\bturn(?:s|ing)\s+(?:\d+|\w+(?:ty|teen))\b", re.IGNORECASE
)


def words_for(addressed: Addressed) -> tuple[str, ...]:
    """Words that a message may begin with to do what is asked; none if that is not known."""
    asked, rest = addressed.asked, addressed.rest
    for at_once, later, words in _IN_ORDER:
        if at_once.search(asked) or later.search(rest):
            question = _QUESTION.match(rest) if words is _ASKING else None
            return _begun(question) if question else words
    return ("happy birthday",) if _BIRTHDAY.search(asked + rest) else ()


def _begun(question: re.Match[str]) -> tuple[str, ...]:
    """How a question begins that a prompt wants asked, "when the term starts"."""
    word = " ".join(question["words"].lower().split())
    return tuple(f"{word} {verb}" for verb in _VERBS) if question["alone"] else (word,)
