"""A Maildir, or a folder of them: the mail that its owner sent."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ppedge.errors import HistoryError
from ppedge.notes.importers.files import disk_errors, read_bytes, walk
from ppedge.notes.importers.job import Job
from ppedge.notes.importers.mail import MAX_MAIL, mail_note
from ppedge.notes.reader import Note

_UNSENT = "drafts and deleted mail"


def matches(path: Path) -> bool:
    """Whether a folder, or one just below it, has the folders cur, new and tmp."""
    if not path.is_dir():
        return False
    with disk_errors(path):
        return _is_maildir(path) or any(
            not folder.is_symlink() and _is_maildir(folder) for folder in path.iterdir()
        )


def read(path: Path, job: Job) -> Iterator[Note]:
    """Yield a note for each message of the owner; see `mail_note`."""
    for file in walk(path, job, hidden=True):
        if file.parent.name not in ("cur", "new"):
            continue
        if set("DT") & set(file.name.partition(":2,")[2]):
            job.passed[_UNSENT] += 1
            continue
        try:
            note = mail_note(read_bytes(file, MAX_MAIL), job)
        except HistoryError as error:
            job.damaged.append(error)
            continue
        if note is not None:
            yield note


def _is_maildir(path: Path) -> bool:
    return all((path / name).is_dir() for name in ("cur", "new", "tmp"))
