"""Importers: one module a format, from the files that other programs write to notes.

Add a format: a module here with `matches` and `read`, and its name in `FORMATS`. What may not
enter: packages beyond the standard library, the network, the store; files are hostile input.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Protocol, cast

from ppedge.notes.importers.job import Job
from ppedge.notes.reader import Note

# In the order in which they are asked; what is known by its name alone comes last.
FORMATS = (
    "chatgpt",
    "claude",
    "twitter",
    "llm-logs",
    "mbox",
    "maildir",
    "jsonl",
    "csv",
    "markdown",
    "text",
)
NEED_ADDRESS = frozenset({"mbox", "maildir"})
"""Formats that hold other people's words too, told apart by the owner's address."""


class Importer(Protocol):
    """What a module of this package has."""

    def matches(self, path: Path) -> bool:
        """Whether the file or folder is of this format.

        Raises:
            HistoryError: it is one that nobody can open.
        """

    def read(self, path: Path, job: Job) -> Iterator[Note]:
        """Yield the owner's notes; what is passed over, or damaged, goes to ``job``.

        Raises:
            HistoryError: the rest cannot be read; the message names file and place.
        """


def importer(name: str) -> Importer:
    """The importer of a format of `FORMATS`."""
    return cast(Importer, import_module(f"{__name__}.{name.replace('-', '_')}"))


def detect(path: Path) -> str | None:
    """The format of a file or folder, by its content where that tells, or None.

    Raises:
        HistoryError: the file cannot be opened.
    """
    return next((name for name in FORMATS if importer(name).matches(path)), None)
