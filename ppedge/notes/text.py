"""What a text is on sight: whether anything of it can be seen or kept, and how it is encoded."""

from __future__ import annotations

import shlex
import unicodedata
from collections.abc import Callable
from pathlib import PurePath
from typing import Final, NoReturn

# Letters and symbols by their category, and blank all the same: fillers of Hangul, an empty
# Braille cell, a joiner of graphemes.
_BLANKS: Final = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0")
# Not "Cn": what this Python does not know yet may be a new emoji.
_UNSEEN: Final = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp", "Zs"})
# A mark alone has nothing to stand on.
_MARKS: Final = frozenset({"Mn", "Me"})

# How a file of JSON begins in other encodings of Unicode; the longer beginnings first.
_ENCODINGS: Final[tuple[tuple[bytes, str], ...]] = (
    (b"\xff\xfe\x00\x00", "UTF-32"),
    (b"\x00\x00\xfe\xff", "UTF-32"),
    (b"\x84\x31\x95\x33", "GB18030"),
    (b"{\x00\x00\x00", "UTF-32LE"),
    (b"[\x00\x00\x00", "UTF-32LE"),
    (b"\x00\x00\x00{", "UTF-32BE"),
    (b"\x00\x00\x00[", "UTF-32BE"),
    (b"\xff\xfe", "UTF-16"),
    (b"\xfe\xff", "UTF-16"),
    (b"+/v", "UTF-7"),
    (b"{\x00", "UTF-16LE"),
    (b"[\x00", "UTF-16LE"),
    (b"\x00{", "UTF-16BE"),
    (b"\x00[", "UTF-16BE"),
)


# Where the zeros are among the first four bytes of two Latin letters.
_ZEROS: Final[dict[tuple[bool, ...], str]] = {
    (False, True, True, True): "UTF-32LE",
    (True, True, True, False): "UTF-32BE",
    (False, True, False, True): "UTF-16LE",
    (True, False, True, False): "UTF-16BE",
}


def is_blank(text: str) -> bool:
    """Whether nothing of a text can be seen: spaces, controls, joiners, marks without a letter."""
    return all(char in _BLANKS or unicodedata.category(char) in _UNSEEN | _MARKS for char in text)


def other_encoding(beginning: bytes) -> str | None:
    """The encoding of Unicode, other than UTF-8, that a text file begins in.

    Args:
        beginning: at least the first four bytes.

    Returns:
        A name that iconv knows; None for UTF-8 and for what is not known.
    """
    found = next((name for start, name in _ENCODINGS if beginning.startswith(start)), None)
    return found or _ZEROS.get(tuple(not byte for byte in beginning[:4]))


def conversion(encoding: str, name: str) -> str:
    """What to do about a file of another encoding, with the line that converts it.

    Args:
        encoding: of `other_encoding`.
        name: the file's; what is written lies in the current folder, under another name.
    """
    made = shlex.quote(f"utf-8-{PurePath(name).name}")
    return (
        "convert it to UTF-8, for example with: "
        f"iconv -f {encoding} -t UTF-8 {shlex.quote(name)} > {made}"
    )


def check_text(text: str, refuse: Callable[[str, str], NoReturn]) -> None:
    """Call ``refuse(what is wrong, what to do)`` for text that UTF-8 or C strings cannot hold."""
    if "\0" in text:
        refuse(f"holds a NUL at character {text.index(chr(0)) + 1}", "remove it")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        refuse(
            f"holds half a surrogate pair (U+{ord(text[error.start]):04X}) "
            f"at character {error.start + 1}",
            "remove it, or write the whole character",
        )
