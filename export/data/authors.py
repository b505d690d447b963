"""People who write free text, as ``python -m export.authors`` writes them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from export.tools.json_files import DataError, read

DEV = 8  # one author in so many is for dev


@dataclass(frozen=True)
class Author:
    """One person's notes, oldest first; ``author`` is a hash of the name."""

    source: str
    author: str
    notes: tuple[str, ...]

    @property
    def dev(self) -> bool:
        """Whether this person is for dev alone; it hangs on the hash, not on the file."""
        return int(self.author, 16) % DEV == 0


def read_authors(path: Path) -> list[Author]:
    """Read what ``export.authors`` wrote.

    Raises:
        DataError: the file cannot be read, or is not such a one.
    """
    try:
        return [
            Author(each["source"], each["author"], tuple(map(str, each["notes"])))
            for each in read(path)["people"]
        ]
    except (TypeError, KeyError) as error:
        raise DataError(f"{path}: not a file of export.authors: {error!r}") from None
