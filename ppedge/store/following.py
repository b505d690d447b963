"""A store in step with a folder of notes: whose notes are whose, and what to do about it."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from ppedge.notes.reader import Note
from ppedge.store.encode import Encode, Progress, chunks
from ppedge.store.reports import ChangeReport
from ppedge.store.sql_read import identity
from ppedge.store.writer import StoreWriter


def follow(
    writer: StoreWriter,
    origin: str,
    notes: Iterable[Note],
    encode: Encode,
    gone: Collection[bytes],
    progress: Progress,
) -> tuple[ChangeReport, list[Note]]:
    """See `ppedge.store.persona.Persona.follow`."""
    ours: list[Note] = []
    foreign: list[Note] = []
    adopted: list[int] = []
    for chunk in chunks(notes):
        known = writer.table.find([identity(note) for note in chunk])
        for note in chunk:
            stored = known.get(identity(note))
            if stored is None or stored.origin == origin:
                ours.append(note)
            elif not stored.origin and note.id and note.id == note.source:
                # An import made it of the very file.
                adopted.append(stored.num)
                ours.append(note)
            else:
                foreign.append(note)
    if adopted:
        writer.adopt(adopted, origin)
    # Added before others are forgotten: a note that moved is not encoded again.
    report = writer.add(ours, encode, progress, origin)
    wanted = {identity(note) for note in ours}
    doomed = [
        num for num, key, _ in writer.table.followed(origin) if key in gone and key not in wanted
    ]
    if doomed:
        writer.forget(doomed)
    report.removed, report.notes = len(doomed), writer.n_notes
    return report, foreign
