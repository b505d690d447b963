"""The people who are asked everyday prompts: written by hand, and real ones of dev files.

people = read_folder(Path("export/people/dev")) + read_real(Path("data"), count=8, seed=0)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from export.data.lamp import read_questions
from ppedge import Note, read_notes

DEV = Path(__file__).parents[1] / "people" / "dev"
WRITTEN = "written"
REAL = {"tweets": 7, "commits": 6}  # kinds of real people, and the LaMP-style task of each
MIN_NOTES = 12  # of a real person
MAX_NOTES = 40  # that are kept of them, the latest
WORDS = range(8, 121)  # that a real person's note has


@dataclass(frozen=True)
class Person:
    """Somebody with notes.

    Attributes:
        name: of the file, or kind and user of the data.
        kind: "written" by hand, or a key of ``REAL``; people are told apart within their kind.
        notes: at least one.
    """

    name: str
    kind: str
    notes: tuple[Note, ...]

    @property
    def texts(self) -> list[str]:
        """What the person wrote, one a note."""
        return [note.output for note in self.notes]

    @property
    def wholes(self) -> list[str]:
        """All that is in each note, what was asked included."""
        return [f"{note.input}\n{note.output}".strip() for note in self.notes]


def read_folder(folder: Path) -> list[Person]:
    """The people of ``NAME.jsonl`` files, in the order of their names.

    Raises:
        ValueError: there is no such file in the folder, or one holds no notes.
        HistoryError: one is not a file of notes.
    """
    files = sorted(folder.glob("*.jsonl"))
    if not files:
        raise ValueError(f"{folder}: holds no NAME.jsonl; give a folder of files of notes")
    people = [Person(path.stem, WRITTEN, tuple(read_notes(path))) for path in files]
    for person, path in zip(people, files, strict=True):
        if not person.notes:
            raise ValueError(f"{path}: holds no notes; write one a line, or remove the file")
    return people


def read_real(data: Path, count: int, seed: int) -> list[Person]:
    """``count`` dev users of each kind, drawn by seed.

    A writer of tweets has them as notes. A writer of commits has the bodies of their messages,
    running prose as answers are, and not the titles.

    Args:
        data: folder of ``LaMP_N_style`` folders.
        count: people of each kind.
        seed: of the draw.

    Raises:
        DataError: a file cannot be read.
        ValueError: there are not so many with ``MIN_NOTES`` notes of ``WORDS`` words.
    """
    return [
        person
        for kind, task in REAL.items()
        for person in _drawn(kind, data / f"LaMP_{task}_style", count, seed)
    ]


def _drawn(kind: str, folder: Path, count: int, seed: int) -> list[Person]:
    people: dict[str, Person] = {}
    for question in read_questions(folder, "dev"):
        if question.user not in people:
            texts = [note.input or note.output for note in question.history]
            notes = tuple(Note(text) for text in texts if len(text.split()) in WORDS)
            if len(notes) >= MIN_NOTES:
                name = f"{kind}-{question.user}"
                people[question.user] = Person(name, kind, notes[-MAX_NOTES:])
    if len(people) < count:
        raise ValueError(f"{folder}: {len(people)} people have {MIN_NOTES} notes; ask for fewer")
    found: Sequence[Person] = list(people.values())
    order = np.random.default_rng([seed, 21]).permutation(len(found))[:count]
    return [found[i] for i in order.tolist()]
