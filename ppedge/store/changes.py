"""What a change of a store will do, found out before anything is changed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from ppedge.errors import StoreError
from ppedge.notes.reader import Note
from ppedge.store.encode import chunks
from ppedge.store.reports import ChangeReport
from ppedge.store.sql_read import NotesReader, identity


class RowUpdate(NamedTuple):
    """One row of the next file version.

    Attributes:
        num: number of the stored note, or None for a new one.
        note: new content, or None to keep what is stored.
        digest: of the staged vectors to take, or None to copy the note's row.
    """

    num: int | None
    note: Note | None = None
    digest: str | None = None


@dataclass(slots=True)
class SyncDiff:
    """What a sync has to do.

    Attributes:
        updates: the rows wanted, in order.
        report: counts so far.
    """

    updates: dict[bytes, RowUpdate] = field(default_factory=dict)
    report: ChangeReport = field(default_factory=ChangeReport)


def diff(table: NotesReader, notes: Iterable[Note]) -> SyncDiff:
    """What it takes to make the store hold exactly ``notes``, in their order.

    Raises:
        StoreError: two notes have one id and different content.
    """
    found = SyncDiff()
    for chunk in chunks(notes):
        keys = [identity(note) for note in chunk]
        known = table.find(keys)
        for key, note in zip(keys, chunk, strict=True):
            stored = known.get(key)
            if stored and stored.equals(note):
                update = RowUpdate(stored.num)
            else:
                update = RowUpdate(stored.num if stored else None, note, note.digest)
            earlier = found.updates.setdefault(key, update)
            if earlier is not update:
                _check_repeat(earlier, update, note)
            elif update.note is None:
                found.report.unchanged += 1
            elif update.num is None:
                found.report.added += 1
            else:
                found.report.changed += 1
    return found


def _check_repeat(earlier: RowUpdate, later: RowUpdate, note: Note) -> None:
    """Refuse two notes of one id and different content; a plain repeat is one note.

    Notes without an id have the same text and time here; of their tags, the first ones count.
    """
    same = earlier.note == later.note if earlier.note and later.note else earlier == later
    if not same and note.id:
        raise StoreError(
            f'two notes have the id "{note.id}" and different content; give each its own id'
        )
