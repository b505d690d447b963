"""From notes to the rows that a store keeps of them: checking, encoding, reusing."""

from __future__ import annotations

import hashlib
import math
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from ppedge.errors import StoreError
from ppedge.notes.reader import Note
from ppedge.notes.tags import check_source, check_tags
from ppedge.notes.text import check_text, is_blank
from ppedge.store.rows import Layout, RowFiles, pack_row
from ppedge.store.sql_read import handle
from ppedge.store.sql_write import NotesTable

KeyValue = tuple[NDArray[np.float32], NDArray[np.float32]]
Encode = Callable[[Sequence[Note]], Iterable[KeyValue]]
"""Yields (key f32 [d_key], value f32 [d_value]) per note, in order. A note's bits must not depend
on the notes beside it."""

Progress = Callable[[int, int | None], None]
"""Called with (notes done, notes in all, or None when that is not known)."""

CHUNK_NOTES = 64


def chunks(notes: Iterable[Note]) -> Iterator[list[Note]]:
    """Yield the notes, checked, in lists of `CHUNK_NOTES`.

    Raises:
        StoreError: a note that the store could not give back as it came.
    """
    walk = iter(notes)
    while chunk := [_checked(note) for note in islice(walk, CHUNK_NOTES)]:
        yield chunk


def _checked(note: Note) -> Note:
    def refuse(what: str, advice: str) -> NoReturn:
        raise StoreError(f"note {note.id or note.output[:40]!r} {what}; {advice}")

    for text in (note.id, note.input, note.output, note.source):
        check_text(text, refuse)
    check_source(note.source, refuse)
    if not isinstance(note.tags, tuple):
        refuse("has tags that are not a tuple", 'give tags as ("one", "two")')
    check_tags(note.tags, refuse)
    if is_blank(note.output):  # As the reader has it: what was exported can be read again.
        seen = note.output.strip()
        refuse("has nothing that can be seen" if seen else "has an empty output", "leave it out")
    if note.time is not None and not math.isfinite(note.time):
        refuse(f"has the time {note.time}", "give Unix seconds or None")
    return note


def stage_key(layout: Layout, digest: str) -> bytes:
    """Key under which vectors of one text in one space are staged."""
    framed = f"{layout.encoder_sha256}\n{layout.plug_sha256}\n{digest}"
    return hashlib.sha256(framed.encode()).digest()


def vectors_by_digest(
    notes: Sequence[Note], encode: Encode, layout: Layout, table: NotesTable, rows: RowFiles
) -> tuple[dict[str, bytes], int]:
    """Find or make the rows of notes.

    Args:
        notes: at most a few hundred.
        encode: called once, with the notes whose text the store does not know yet.
        layout: of the rows wanted.
        table: the store's notes and staged vectors.
        rows: the store's row files; of use only if they have this layout.

    Returns:
        Packed rows by the notes' digests, and how many went through ``encode``.

    Raises:
        StoreError: the encoder gave too few vectors, of a wrong shape, or not finite.
    """
    wanted = {note.digest: note for note in notes}
    found: dict[str, bytes] = {}
    if layout == rows.layout:
        known = table.rows_of_digests([bytes.fromhex(digest) for digest in wanted])
        for digest, (row, crc) in known.items():
            data = rows.read(row)
            if zlib.crc32(data) == crc:
                found[digest.hex()] = data
    staged = table.staged([stage_key(layout, digest) for digest in wanted])
    found |= {
        digest: staged[key] for digest in wanted if (key := stage_key(layout, digest)) in staged
    }
    missing = [note for digest, note in wanted.items() if digest not in found]
    pairs = list(encode(missing)) if missing else []
    if len(pairs) != len(missing):
        raise StoreError(f"the encoder gave vectors for {len(pairs)} of {len(missing)} notes")
    for note, (key_vector, value_vector) in zip(missing, pairs, strict=True):
        found[note.digest] = pack_row(layout, key_vector, value_vector, f'note "{handle(note)}"')
    return found, len(missing)
