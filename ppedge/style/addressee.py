"""Whom a prompt wants written to: "Tell my boss that I am ill" is for the boss.

English prompts only; of another, nobody is found.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

MAX_CHARS: Final = 400
"""Length of a prompt that is looked at; longer ones bring texts of their own."""


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


# People who are called by what they are.
_PEOPLE: Final = _set(
    """
    aunt auntie babysitter baker boss boyfriend bride brother brothers builder butcher captain carer
    chef children class classmate classmates cleaner client clients coach colleague colleagues
    committee council cousin cousins coworker coworkers crew customer customers dad daddy daughter
    daughters dentist director doctor driver editor electrician employee employees everybody
    everyone family father fiance flatmate flatmates friend friends gardener girlfriend gran
    grandad granddad grandchildren granddaughter grandfather grandma grandmother grandpa
    grandparents grandson granny groom guest guests headmaster headteacher host hostess housemate
    housemates husband instructor kids landlady landlord lecturer librarian ma mam mama manager
    mate mates mayor mechanic members mentor midwife minister mom mommy mother mum mummy nan nana
    nanny neighbor neighbors neighbour neighbours nephew niece nurse pa parents partner pastor
    pharmacist plumber postman postwoman principal professor pupils readers recruiter roommate
    roommates secretary sister sisters son sons staff student students subscribers supervisor
    supplier surgeon teacher team tenant tenants therapist trainer tutor twin uncle vet vicar
    volunteers waiter wife
    """
)
_TITLES: Final = _set("mr mrs ms miss mx dr prof professor sir aunt auntie uncle grandma grandpa")
_NOT_OTHERS: Final = _set("me us myself ourselves yourself yourselves you self it this that these")
_BEFORE: Final = _set(
    "my our the a an few some both all every each of dear old new to his her their your"
)
# Where one of these stands, the addressee's name has ended.
_BEHIND: Final = _set(
    """
    a about after an and are as asking at because before but by do for from he her his how i if in
    inviting is it my not of on or our politely reminding saying she so some telling thanking that
    the their there they this to until we what when where whether which who whom whose why with you
    your
    """
)
_WHAT: Final = _set("that to about when whether if how what where why for not asking saying")
_NONE: Final = frozenset[str]()
_WHO: Final = _set("who whose")
_ANY: Final = frozenset({*_BEHIND, ""})
_THINGS: Final = _set("story stories truth joke jokes tale tales time difference world question")

_KIND: Final = (
    r"(?:e-?mail|mail|letter|card|postcard|note|message|text|reply|greetings?|wish(?:es)?|lines?"
    r"|invitation|apology|request|memo|complaint|speech|toast|words?|thank[- ]you)"
)
_BEGINS: Final = (
    r"(?:^|[.!?:;]\s+|\n)"
    r"(?:please,?\s+|(?:can|could|would|will)\s+you\s+|help\s+me\s+(?:to\s+)?"
    r"|i\s+(?:need|want|have|would\s+like)\s+to\s+)*"
)
_WRITE: Final = r"(?:write|draft|send|compose|leave|prepare|make)"
_SAME: Final = r"(?:[^\s.!?;:,]+\s+)"  # a word, and no sentence's end
_WRITTEN: Final = rf"{_WRITE}\s+{_SAME}{{0,6}}?{_KIND}\s+"

# Each ends where the addressee begins. Who has no name there is one if such a word stands behind.
_FORMS: Final = tuple(
    (re.compile(_BEGINS + form, re.IGNORECASE), behind)
    for form, behind in (
        (rf"{_WRITTEN}(?:back\s+)?to\s+", _ANY),
        (rf"{_WRITTEN}for\s+", _WHO),
        (rf"{_WRITTEN}(?:ask|tell|thank|invit|remind|inform)ing\s+", _WHAT),
        (rf"{_WRITE}\s+(?={_SAME}{{1,4}}?an?\s+{_SAME}{{0,3}}?{_KIND}\b)", _NONE),
        (rf"{_SAME}{{1,6}}?(?:invitation|invite|offer|proposal|request)\s+from\s+", _NONE),
        (r"(?:write|reply|respond)\s+(?:back\s+)?to\s+", _NONE),
        (rf"(?:apologi[sz]e|complain|say\s+{_SAME}{{1,3}}?)\s*to\s+", _ANY),
        (r"(?:tell|ask|invite|thank|remind|inform|warn|notify)\s+", _WHAT),
        (
            r"(?:cheer\s+up|congratulate|comfort|greet|welcome|wish|let|text|e-?mail|message)\s+",
            _WHO,
        ),
    )
)
# What is said to somebody, though the prompt does not say to whom.
_TO_SOMEBODY: Final = re.compile(
    _BEGINS + r"(?:(?:turn\s+down|decline|refuse|accept)\s+(?:an?|the|his|her|their|your)\s+"
    rf"{_SAME}{{0,3}}?(?:invitation|invite|offer|proposal|request)\b"
    r"|apologi[sz]e\s+for\s|complain\s+about\s|ask\s+for\s|cancel\s+my\s)",
    re.IGNORECASE,
)
_PIECE: Final = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*\.?|[^\s]")
_OWN: Final = re.compile(r"['’]s?$")


@dataclass(frozen=True, slots=True)
class Addressed:
    """What a prompt wants written to somebody.

    Attributes:
        name: how they are called, as the prompt writes it ("boss", "Anna", "Mrs. Ashby"); "" of
            somebody who is not called by name ("the school").
        asked: what the prompt says before them, "Say thank you to ".
        rest: the prompt from there on, without blank lines: what it is about.
    """

    name: str
    asked: str
    rest: str


def addressed(prompt: str) -> Addressed | None:
    """Whom a prompt wants something written to; None where nobody is written to."""
    if len(prompt) > MAX_CHARS:
        return None
    prompt = "\n".join(filter(None, map(str.strip, prompt.splitlines())))
    for form, behind in _FORMS:
        for found in form.finditer(prompt):
            asked, rest = found[0], prompt[found.end() :]
            name = _named(rest, behind)
            if name is not None:
                return Addressed(name, asked, rest)
    said = _TO_SOMEBODY.search(prompt)
    return Addressed("", said[0], prompt[said.end() :]) if said else None


def _named(text: str, nameless: Collection[str]) -> str | None:
    """Who stands at the beginning of a text; see `Addressed.name`."""
    words, behind = _until_behind(text)
    if not words or words[0].lower() in _NOT_OTHERS:
        return None
    for i, word in enumerate(words):
        rest = words[i + 1 :]
        if word.rstrip(".").lower() in _TITLES and rest and _is_proper(rest[0]):
            return f"{word} {rest[0]}"
        if _is_proper(word):
            return word
        if word.lower() in _PEOPLE and not (rest and rest[0].lower() in _PEOPLE):
            return rest[0] if rest and _is_proper(rest[0]) else word.lower()
    return "" if behind in nameless and words[-1].lower() not in _THINGS else None


def _is_proper(word: str) -> bool:
    """Whether a word is written like a name."""
    return word[0].isupper() and not word.isupper() and word.lower() not in _PEOPLE


def _until_behind(text: str) -> tuple[Sequence[str], str]:
    """The words of who stands at the beginning of a text, and what stands behind them."""
    words: list[str] = []
    for word, following in pairwise([*_PIECE.findall(text), ""]):
        small = word.lower().removesuffix(".")
        if not words and small in _BEFORE:
            continue
        if small in _BEHIND:
            return words, small
        if not word[0].isalpha():
            break
        own = _OWN.search(word)
        if own and following.lower() in _PEOPLE:
            continue  # "my sister's friend" is the friend.
        is_last = own or (word.endswith(".") and small not in _TITLES)
        words.append(_OWN.sub("", word.removesuffix(".")) if is_last else word)
        if is_last:
            break
    return words, ""
