"""Tags of notes and where notes came from: what they may be, how they are read and compared."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Final, NoReturn

from ppedge.notes.text import check_text, is_blank

MAX_TAGS: Final = 256
MAX_TAG_CHARACTERS: Final = 256
MAX_SOURCE_CHARACTERS: Final = 4096

Refuse = Callable[[str, str], NoReturn]
"""Called with (what is wrong, what to do)."""

# As Obsidian has them: a word after a space, not of digits alone; "/" parts a tag and those in it.
_INLINE: Final = re.compile(r"(?<!\S)#([\w/-]*[^\W\d][\w/-]*)")
_CODE: Final = re.compile(r"^(```|~~~).*?(?:^\1|\Z)|`[^`\n]*`", re.M | re.S)


def check_tags(tags: object, refuse: Refuse) -> tuple[str, ...]:
    """A list of tags as a note has it.

    Args:
        tags: what should be a list or a tuple of texts.
        refuse: is told of anything else.
    """
    if not isinstance(tags, list | tuple) or type(tags) not in (list, tuple):  # no JSON object
        refuse("is not a list", 'write tags as ["one", "two"]')
    if len(tags) > MAX_TAGS:
        refuse(f"has {len(tags)} entries", f"keep {MAX_TAGS} at most")
    for tag in tags:
        if not isinstance(tag, str):
            refuse("holds something that is not text", 'write tags as ["one", "two"]')
        if is_blank(tag):
            refuse("holds an empty tag", "remove it")
        if len(tag) > MAX_TAG_CHARACTERS:
            refuse(f"holds a tag of {len(tag)} characters", f"keep it under {MAX_TAG_CHARACTERS}")
        check_text(tag, refuse)
    return tuple(tags)


def check_source(source: str, refuse: Refuse) -> str:
    """Where a note came from, as a note has it."""
    if len(source) > MAX_SOURCE_CHARACTERS:
        refuse(f"has {len(source)} characters", f"keep it under {MAX_SOURCE_CHARACTERS}")
    return source


def inline_tags(text: str) -> list[str]:
    """The ``#tags`` in a Markdown text, without their mark; those in code are none."""
    return [found.rstrip("/") for found in _INLINE.findall(_CODE.sub(" ", text))]


def listed_tags(value: str) -> list[str]:
    """The tags of one line of a front matter: ``[a, b]``, ``a, b``, ``a b`` or ``#a``."""
    inner = value.strip().removeprefix("[").removesuffix("]")
    parts = inner.split(",") if "," in inner or value.strip()[:1] == "[" else inner.split()
    return [part.strip().strip("\"'").strip() for part in parts]


def clean_tags(tags: Iterable[str]) -> tuple[str, ...]:
    """Tags that came from a file of another program: each once, none of them odd."""
    found: dict[str, str] = {}
    for tag in tags:
        plain = tag.replace("\0", "").strip().lstrip("#").strip()
        if plain and not is_blank(plain) and len(plain) <= MAX_TAG_CHARACTERS:
            found.setdefault(plain.casefold(), plain)
    return tuple(found.values())[:MAX_TAGS]


def is_tagged(tags: Iterable[str], wanted: str) -> bool:
    """Whether one of some tags is the wanted one, or lies in it as ``work/plans`` does in ``work``.

    Upper and lower case are the same, and a ``#`` before either says nothing.
    """
    name = _plain(wanted)
    return any(tag == name or tag.startswith(name + "/") for tag in map(_plain, tags))


def is_under(source: str, folder: str) -> bool:
    """Whether a source such as ``vault/Journal/day.md`` lies in a folder, at any depth.

    Args:
        source: names parted by ``/``, the last of them a file's.
        folder: one name or several, ``Journal`` or ``vault/Journal``; in any case.
    """
    parts = _parts(source)[:-1]
    wanted = _parts(folder)
    n = len(wanted)
    return any(parts[i : i + n] == wanted for i in range(len(parts) - n + 1)) if n else False


def _plain(tag: str) -> str:
    return tag.casefold().strip().lstrip("#").strip("/")


def _parts(path: str) -> list[str]:
    return [part for part in path.casefold().replace("\\", "/").split("/") if part]
