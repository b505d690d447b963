"""What a persona store reports back to its caller."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class ChangeReport:
    """What `Persona.add` or `Persona.sync` did, in notes.

    Attributes:
        added: were not there before.
        changed: were there under the same id with other content.
        removed: are there no more (sync only).
        unchanged: were already there.
        encoded: went through the encoder; fewer than added + changed if the same text was known.
        notes: in the store now.
    """

    added: int = 0
    changed: int = 0
    removed: int = 0
    unchanged: int = 0
    encoded: int = 0
    notes: int = 0


@dataclass(frozen=True, slots=True)
class Receipt:
    """What was forgotten.

    Attributes:
        ids: the forgotten notes' ids or ``sha256:`` handles, in row order.
        time: when, ISO 8601 in UTC.
        store_before: `Persona.store_hash` before.
        store_after: after; equal to that of a store which never held the notes.
        notes: in the store now.
    """

    ids: tuple[str, ...]
    time: str
    store_before: str
    store_after: str
    notes: int


@dataclass(frozen=True, slots=True)
class Stats:
    """A store in figures.

    Attributes:
        path: the folder.
        notes: how many there are.
        notes_with_id: those that came with an id of their own.
        pinned, muted: those that are marked so.
        earliest, latest: times of notes, Unix seconds; None where no note has one.
        text_bytes: UTF-8 bytes of all notes' text.
        disk_bytes: bytes of all files.
        d_key, d_value: widths of keys and values.
        encoder_sha256, plug_sha256: whose vectors they are, hex.
        erased: whether nothing of a removed note is left on disk.
    """

    path: str
    notes: int
    notes_with_id: int
    pinned: int
    muted: int
    earliest: float | None
    latest: float | None
    text_bytes: int
    disk_bytes: int
    d_key: int
    d_value: int
    encoder_sha256: str
    plug_sha256: str
    erased: bool


@dataclass(frozen=True, slots=True)
class Problem:
    """Something wrong with a store.

    Attributes:
        message: what, and where; one line.
        row: the damaged row, from 1, or 0 if it is not about a note's row.
        repairable: whether `Persona.repair` mends it.
    """

    message: str
    row: int = 0
    repairable: bool = False
