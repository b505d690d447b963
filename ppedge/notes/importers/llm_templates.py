"""The prompt templates of the program `llm`, to take what they brought out of a prompt again.

A log has a prompt as the model got it: what its owner typed, inside of the template's text. Only
the plain forms of YAML are read; of a template in another form nothing is taken out.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

_MAX_FILES: Final = 1000
_MAX_BYTES: Final = 1 << 20
_LEAST: Final = 12  # characters of its own around what is filled in
_NESTED: Final = 5  # templates in one prompt
_SUFFIX: Final = ".yaml"
_KEY: Final = re.compile(r"^(\w+):(?:[ \t]+(.*))?$", re.M)
_BLOCK: Final = re.compile(r"([|>])(?:[1-9]?([+-]?)|([+-])[1-9])\s*(?:#.*)?$")
_VARIABLE: Final = re.compile(r"\$(?:(\$)|([A-Za-z_]\w*)|\{([A-Za-z_]\w*)\})")
_ESCAPED_BREAK: Final = re.compile(r"\\\n[ \t]*")
_ESCAPE: Final = re.compile(r"\\(x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}|.)")
_ESCAPES: Final = dict(
    zip("0abtnvfreN_LP", "\0\a\b\t\n\v\f\r\x1b\x85\xa0\u2028\u2029", strict=True)
)
_ESCAPED: Final = re.compile(r'(?:[^"\\]|\\.)*')
_INPUT: Final = "input"


class Template:
    """One template's prompt: literal pieces, and the names of what stands between them."""

    def __init__(self, prompt: str) -> None:
        """Cut it at its variables."""
        self.pieces = [""]
        self.names: list[str] = []
        end = 0
        for found in _VARIABLE.finditer(prompt):
            self.pieces[-1] += prompt[end : found.start()] + (found[1] or "")
            end = found.end()
            if not found[1]:
                self.names.append(found[2] or found[3])
                self.pieces.append("")
        self.pieces[-1] += prompt[end:]

    def typed(self, text: str) -> str | None:
        """What was typed into the template to make ``text``; None if it did not make it."""
        if _INPUT in self.names:
            return _between(self.pieces, self.names, text)
        # What is typed beside a template that has no place for it comes behind.
        *pieces, last = self.pieces
        behind = _between([*pieces, last + "\n", ""], [*self.names, _INPUT], text)
        if behind is not None:
            return behind
        return "" if _between(self.pieces, self.names, text) is not None else None

    def __len__(self) -> int:
        """Characters that are its own."""
        return sum(map(len, self.pieces))

    @property
    def is_telling(self) -> bool:
        """Whether a text that it could have made was made by it, and not by chance."""
        return len(self) >= (_LEAST if self.names else 1)


def read_templates(folder: Path) -> list[Template]:
    """The templates of a folder that can be read, the longest first; none without a folder."""
    found = []
    for path in sorted(folder.glob(f"*{_SUFFIX}"))[:_MAX_FILES]:
        try:
            if path.is_symlink() or not path.is_file() or path.stat().st_size > _MAX_BYTES:
                continue
            prompt = prompt_of(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError):
            continue
        if prompt and (template := Template(prompt)).is_telling:
            found.append(template)
    return sorted(found, key=len, reverse=True)


def typed(templates: Sequence[Template], text: str) -> str:
    """A prompt without what templates brought into it."""
    for _ in range(_NESTED):
        inner = next((t for each in templates if (t := each.typed(text)) is not None), None)
        if inner is None:
            break
        text = inner
    return text


def _between(pieces: Sequence[str], names: Sequence[str], text: str) -> str | None:
    """What stands for `_INPUT` where the pieces stand in a text, in order and to its ends."""
    if not text.startswith(pieces[0]):
        return None
    start, said = len(pieces[0]), ""
    for number, (name, piece) in enumerate(zip(names, pieces[1:], strict=True), start=1):
        if number < len(names):
            end = text.find(piece, start)
        else:
            end = len(text) - len(piece) if text.endswith(piece) else -1
        if end < start:
            return None
        said = text[start:end] if name == _INPUT else said
        start = end + len(piece)
    return said if start == len(text) else None


# --- YAML, as far as prompts are written in it -----------------------------------------------


def prompt_of(text: str) -> str | None:
    """The prompt of a template's file; None where it has none, or it cannot be read."""
    keys = list(_KEY.finditer(text.replace("\r\n", "\n")))
    if not keys:
        return _plain(text.strip())
    for found, following in zip(keys, [*keys[1:], None], strict=True):
        if found[1] == "prompt":
            end = following.start() if following else len(found.string)
            return _scalar((found[2] or "").strip(), found.string[found.end() : end])
    return None


def _scalar(first: str, rest: str) -> str | None:
    """A value, from what stands behind its key and on the lines below."""
    if block := _BLOCK.match(first):
        lines = rest.removeprefix("\n").split("\n")
        return _block(lines, folded=block[1] == ">", chomp=block[2] or block[3] or "")
    if first[:1] == '"':
        # A backslash takes its line break away; the next line's space is kept by another.
        return _double_quoted(_folded(_ESCAPED_BREAK.sub("", first + rest)).strip())
    if first[:1] == "'":
        inside = _folded(first + rest).strip()
        return inside[1:-1].replace("''", "'") if inside[1:].endswith("'") else None
    return _plain(first + rest)


def _double_quoted(text: str) -> str | None:
    inside = text[1:-1]
    if not text[1:].endswith('"') or not _ESCAPED.fullmatch(inside):
        return None
    try:
        return _ESCAPE.sub(_unescaped, inside)
    except (ValueError, OverflowError):
        return None


def _unescaped(found: re.Match[str]) -> str:
    return chr(int(found[1][1:], 16)) if len(found[1]) > 1 else _ESCAPES.get(found[1], found[1])


def _plain(text: str) -> str | None:
    text = _folded("\n".join(line.split(" #")[0] for line in text.split("\n"))).strip()
    return None if text[:1] in ("[", "{", "&", "*", "!", "#") else text


def _folded(text: str) -> str:
    """Lines as one, where one break is a space and each further one a break."""
    lines = [line.strip() for line in text.split("\n")]
    folded, breaks = lines[0], 0
    for line in lines[1:]:
        breaks += 1
        if line:
            folded += ("\n" * (breaks - 1) or " ") + line
            breaks = 0
    return folded


def _block(lines: list[str], *, folded: bool, chomp: str) -> str | None:
    filled = [line for line in lines if line.strip()]
    if not filled:
        return None
    indent = len(filled[0]) - len(filled[0].lstrip(" "))
    body = "\n".join(line[indent:] if line.strip() else "" for line in lines)
    text = body.rstrip("\n")
    if folded:
        text = _folded(text)
    return text + {"-": "", "+": body[len(body.rstrip("\n")) :]}.get(chomp, "\n")
