"""A folder of notes that is looked at again and again: which files it has, and what one holds."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Final, NamedTuple

from ppedge.errors import HistoryError
from ppedge.notes.importers import importer
from ppedge.notes.importers.files import MAX_FILES, disk_errors, shown
from ppedge.notes.importers.job import Job
from ppedge.notes.reader import Note

SUFFIXES: Final = {
    ".md": "markdown",
    ".markdown": "markdown",
    ".txt": "text",
    ".text": "text",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".csv": "csv",
    ".tsv": "csv",
}
"""Format of a file by the end of its name; others are passed over."""

WATCHED_FORMATS: Final = tuple(dict.fromkeys(SUFFIXES.values()))


class Stamp(NamedTuple):
    """What changes when a file does."""

    mtime_ns: int
    size: int
    inode: int


@dataclass(frozen=True, slots=True)
class Look:
    """What a folder held when it was looked at.

    Attributes:
        files: stamps by name; names begin with the folder's own, parted by ``/``.
        paths: where these files are.
        unread: names, ending in ``/``, of folders below that could not be looked into.
    """

    files: dict[str, Stamp] = field(default_factory=dict)
    paths: dict[str, Path] = field(default_factory=dict)
    unread: list[str] = field(default_factory=list)


def look(folder: Path, formats: tuple[str, ...]) -> Look:
    """Look which files a folder has, without opening any.

    As in an import, hidden names and links are passed over.

    Args:
        folder: its full path.
        formats: of `WATCHED_FORMATS`.

    Raises:
        HistoryError: it is not there, cannot be looked into, or holds more than `MAX_FILES`.
    """
    found = Look()
    waiting = [(folder, shown(folder.name) + "/")]
    n_entries = 0
    while waiting:
        place, prefix = waiting.pop()
        try:
            with os.scandir(place) as entries:
                listed = sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            if place == folder:
                raise HistoryError(f"{folder}: cannot be read: {error.strerror or error}") from None
            found.unread.append(prefix)
            continue
        n_entries += len(listed)
        if n_entries > MAX_FILES:
            raise HistoryError(f"{folder}: more than {MAX_FILES} files; name a smaller folder")
        for entry in listed:
            if entry.name[0] == "." or entry.is_symlink():
                continue
            name = prefix + shown(entry.name)
            if entry.is_dir(follow_symlinks=False):
                waiting.append((Path(entry.path), name + "/"))
            elif is_watched(entry.name, formats):
                _take(found, name, Path(entry.path))
    return found


def is_watched(name: str, formats: tuple[str, ...]) -> bool:
    """Whether a file is of one of some formats, by its name."""
    return SUFFIXES.get(PurePosixPath(name).suffix.lower()) in formats


def _take(found: Look, name: str, path: Path) -> None:
    """Note a file down, unless it has gone since it was listed, or is no plain one."""
    stamp = stamp_of(path)
    if stamp is not None:
        found.files[name] = stamp
        found.paths[name] = path


def stamp_of(path: Path) -> Stamp | None:
    """The stamp of a plain file; None of anything else."""
    try:
        status = path.lstat()
    except OSError:
        return None
    if not stat.S_ISREG(status.st_mode):
        return None
    return Stamp(status.st_mtime_ns, status.st_size, status.st_ino)


def read_watched(path: Path, name: str, stamp: Stamp) -> list[Note]:
    """All notes of one file, or none of them.

    Args:
        path: the file.
        name: as of `look`; what its notes are called by.
        stamp: of the file when it was looked at.

    Raises:
        HistoryError: it cannot be read as a whole, or changed meanwhile; a half-written file must
            not count as one from which notes were removed.
    """
    job = Job(name=name)
    module = importer(SUFFIXES[path.suffix.lower()])
    with disk_errors(path):
        notes = list(module.read(path, job))
    if job.damaged:
        raise job.damaged[0]
    if stamp_of(path) != stamp:
        raise HistoryError(f"{path}: changes while it is read; it is read when it rests")
    return [replace(note, source=name) for note in notes]
