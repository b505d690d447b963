"""Invented notes to measure with: as long as real ones, the same on every machine."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from ppedge.notes.reader import Note, note_line

LEAST_ENCODED: Final = 32
"""Notes that are encoded at least, to time it."""

_TEXT: Final = (
    "the a my our this some every no rain bread tea train garden letter meeting kitchen "
    "window morning evening week street friend sister neighbour story is was has seems "
    "became took left found made wants late early warm cold quiet strange better slow good "
    "again still just never always and but because so then with without before after under "
    "near honestly almost really"
)
_WORDS: Final = tuple(_TEXT.split())


def made_notes(count: int) -> list[Note]:
    """So many notes of invented sentences, 60 to 700 characters as mails and posts have.

    They depend on their number alone.
    """
    return [_made_note(i) for i in range(count)]


def _made_note(i: int) -> Note:
    draw = random.Random(i)
    sentences = (
        " ".join(draw.choices(_WORDS, k=draw.randint(6, 14))).capitalize()
        for _ in range(min(9, 1 + int(draw.expovariate(0.4))))
    )
    return Note(f"{'. '.join(sentences)}. ({i})", id=str(i))


def history_file(folder: Path, count: int) -> Path:
    """Where the history of so many notes is written."""
    return folder / f"{count}.jsonl"


def write_history(path: Path, notes: Sequence[Note]) -> None:
    """Write notes as JSON Lines."""
    with path.open("w", encoding="utf-8", newline="\n") as out:
        out.writelines(note_line(note) + "\n" for note in notes)
