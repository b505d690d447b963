"""Reading the SQLite half of a persona store: text, metadata, and which row is whose."""

from __future__ import annotations

import hashlib
import json
import re
import sqlite3
import struct
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ppedge.errors import StoreError
from ppedge.notes.reader import Note
from ppedge.store.database import Access, connect, sqlite_errors
from ppedge.store.rows import Layout

FILE_NAME = "notes.db"
_HANDLE = re.compile(r"sha256:([0-9a-fA-F]{8,64})")
SCHEMA_VERSION = 1
_PAGE = 500


def identity(note: Note) -> bytes:
    """What makes a note the same note: its id or, without one, its text and time (SHA-256)."""
    if note.id:
        return hashlib.sha256(b"id\0" + note.id.encode("utf-8")).digest()
    time = b"" if note.time is None else struct.pack("<d", note.time + 0.0)
    return hashlib.sha256(b"content\0" + bytes.fromhex(note.digest) + time).digest()


def handle(note: Note) -> str:
    """The name by which a person points at a note: its id, or ``sha256:`` and 16 hex digits."""
    return note.id or f"sha256:{identity(note).hex()[:16]}"


@dataclass(frozen=True, slots=True)
class State:
    """What the store holds now.

    Attributes:
        layout: whose vectors, and their widths.
        file_version: number of the current row file.
        version: grows by one with every commit that changes what the store answers.
        erasing: removed text or vectors may still be on disk.
        null_crc: CRC-32 of row 0.
        n_notes: notes, and rows after row 0.
    """

    layout: Layout
    file_version: int
    version: int
    erasing: bool
    null_crc: int
    n_notes: int


@dataclass(frozen=True, slots=True)
class Stored:
    """A stored note without its text: its number in the table, and what its vectors hang on."""

    num: int
    digest: bytes
    time: float | None

    def equals(self, note: Note) -> bool:
        """Whether ``note``, of the same identity, also has the same content."""
        return self.digest == bytes.fromhex(note.digest) and self.time == note.time


@dataclass(frozen=True, slots=True)
class Selection:
    """Notes that meet every criterion given; one that is None is not applied.

    Attributes:
        ids: ids, or ``sha256:`` handles of at least 8 digits.
        text: appears in input or output, upper and lower case alike.
        before: written before this moment (Unix seconds).
        after: written at or after this moment (Unix seconds).
    """

    ids: Collection[str] | None = None
    text: str | None = None
    before: float | None = None
    after: float | None = None


class NotesReader:
    """Reads ``notes.db``; `ppedge.store.sql_write.NotesTable` also changes it.

    Every error of SQLite becomes a `StoreError` in `Persona`, which wraps its calls in
    `sqlite_errors`.
    """

    def __init__(self, folder: Path, access: Access) -> None:
        """Connect to ``folder / "notes.db"``; see `ppedge.store.database.connect`."""
        self.path = folder / FILE_NAME
        with sqlite_errors(self.path):
            self.db = connect(self.path, access)

    def close(self) -> None:
        """Disconnect; SQLite folds the write-ahead log into the database if it is the last."""
        self.db.close()

    @property
    def is_made(self) -> bool:
        """Whether the database has tables, be they a store's or something else's."""
        return self.db.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone() is not None

    def rollback(self) -> None:
        """Undo the transaction, if one is open."""
        if self.db.in_transaction:
            self.db.execute("ROLLBACK")

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """Let every read of the block see one committed state; not inside `transaction`."""
        self.db.execute("BEGIN")
        try:
            yield
        finally:
            self.rollback()

    def state(self) -> State:
        """Read the state; constant time."""
        (schema,) = self.db.execute("PRAGMA user_version").fetchone()
        if not schema:
            raise StoreError(f"{self.path} is not a persona store; name another folder")
        if schema != SCHEMA_VERSION:
            raise StoreError(
                f"{self.path} has schema {schema}, this ppedge reads {SCHEMA_VERSION}; "
                "use the ppedge that wrote it"
            )
        found = self.db.execute(
            "SELECT *, (SELECT coalesce(max(row), 0) FROM rows) FROM store"
        ).fetchone()
        if found is None or None in found:
            raise sqlite3.DatabaseError("table store is incomplete")
        *layout, file_version, version, erasing, null_crc, n_notes = found
        return State(Layout(*layout), file_version, version, bool(erasing), null_crc, n_notes)

    # --- reading ---

    def find(self, identities: Collection[bytes]) -> dict[bytes, Stored]:
        """Look notes up by identity (at most a few hundred)."""
        found = self.db.execute(
            "SELECT identity, num, digest, time FROM notes "
            f"WHERE identity IN {placeholders(identities)}",
            tuple(identities),
        )
        return {key: Stored(num, digest, time) for key, num, digest, time in found}

    def rows_of_digests(self, digests: Collection[bytes]) -> dict[bytes, tuple[int, int]]:
        """(row, CRC-32) where these digests' vectors already are (at most a few hundred)."""
        found = self.db.execute(
            "SELECT digest, row, crc FROM notes JOIN rows ON note = num "
            f"WHERE digest IN {placeholders(digests)}",
            tuple(digests),
        )
        return {digest: (row, crc) for digest, row, crc in found}

    def order(self) -> list[int]:
        """Note numbers in row order, from row 1."""
        nums = [num for (num,) in self.db.execute("SELECT note FROM rows ORDER BY row")]
        if None in nums:
            raise sqlite3.DatabaseError("a row has no note")
        return nums

    def note(self, num: int) -> Note:
        """Read one note."""
        return self._one_note("SELECT output, input, id, time FROM notes WHERE num = ?", num)

    def note_at(self, row: int) -> Note:
        """Read the note of a row."""
        return self._one_note(
            "SELECT output, input, id, time FROM rows JOIN notes ON num = note WHERE row = ?", row
        )

    def _one_note(self, query: str, key: int) -> Note:
        found = self.db.execute(query, (key,)).fetchone()
        if found is None:
            raise sqlite3.DatabaseError(f"a note is missing ({key})")
        return Note(*found)

    def walk(self, where: str = "1", values: Sequence[object] = ()) -> Iterator[tuple[int, Note]]:
        """Yield (note number, note) in row order.

        Pages, because a cursor left open by a slow caller would keep the log from being erased.
        """
        row = 0
        while page := self.db.execute(
            "SELECT row, num, output, input, id, time FROM rows JOIN notes ON num = note "
            f"WHERE row > ? AND {where} ORDER BY row LIMIT {_PAGE}",
            (row, *values),
        ).fetchall():
            row = page[-1][0]
            yield from ((num, Note(*fields)) for _, num, *fields in page)

    def select(self, selection: Selection) -> Iterator[tuple[int, Note]]:
        """Yield (note number, note) of the selected notes in row order.

        Raises:
            StoreError: an id names no note, or more than one.
        """
        terms, values = ["1"], list[object]()
        if selection.ids is not None:
            nums = {self.resolve(name) for name in selection.ids}
            terms.append("num IN (SELECT value FROM json_each(?))")
            values.append(json.dumps(sorted(nums)))
        if selection.text is not None:
            terms.append("(instr(casefold(output), ?) OR instr(casefold(input), ?))")
            values += [selection.text.casefold()] * 2
        if selection.before is not None:
            terms.append("time < ?")
            values.append(selection.before)
        if selection.after is not None:
            terms.append("time >= ?")
            values.append(selection.after)
        return self.walk(" AND ".join(terms), values)

    def resolve(self, name: str) -> int:
        """Note number of an id or a ``sha256:`` handle.

        Raises:
            StoreError: no note, or more than one, goes by that name.
        """
        found = self.db.execute(
            "SELECT num FROM notes WHERE identity = ?", (identity(Note("", id=name)),)
        ).fetchall()
        if not found and (match := _HANDLE.fullmatch(name)):
            found = self.db.execute(
                "SELECT num FROM notes WHERE id = '' AND hex(identity) LIKE ? || '%' LIMIT 2",
                (match[1],),
            ).fetchall()
        if not found:
            raise StoreError(f'no note has the id "{name}"; see `ppedge notes list`')
        if len(found) > 1:
            raise StoreError(f'more than one note begins with "{name}"; give more digits')
        return int(found[0][0])

    def marks(self) -> list[tuple[int, int]]:
        """(row, mark) of the notes that have a mark."""
        return self.db.execute(
            "SELECT row, mark FROM notes JOIN rows ON note = num WHERE mark <> 0 ORDER BY row"
        ).fetchall()

    def checksums(self) -> Iterator[list[tuple[int, int, bytes, bytes, float | None, int]]]:
        """Yield pages of (row, CRC-32, identity, digest, time, mark) in row order."""
        cursor = self.db.execute(
            "SELECT row, crc, identity, digest, time, mark "
            "FROM rows JOIN notes ON num = note ORDER BY row"
        )
        while page := cursor.fetchmany(_PAGE):
            yield page

    def wrong_metadata(self) -> list[int]:
        """Rows of the notes whose id, time or mark is not as it was written."""
        found = self.db.execute(
            "SELECT row FROM rows JOIN notes ON num = note WHERE seal <> seal(id, time, mark)"
        )
        return [row for (row,) in found]

    def totals(self) -> tuple[int, int, float | None, float | None]:
        """(UTF-8 bytes of text, notes with an id, earliest time, latest time)."""
        found = self.db.execute(
            "SELECT coalesce(sum(length(CAST(input AS BLOB)) + length(CAST(output AS BLOB))), 0), "
            "count(nullif(id, '')), min(time), max(time) FROM notes"
        ).fetchone()
        return tuple(found)

    def integrity(self) -> list[str]:
        """What SQLite finds wrong with the file; empty when sound."""
        found = [line for (line,) in self.db.execute("PRAGMA integrity_check(10)")]
        if found != ["ok"]:
            return found
        n_rows, first, last, n_notes = self.db.execute(
            "SELECT count(*), min(row), max(row), (SELECT count(*) FROM notes) FROM rows"
        ).fetchone()
        whole = n_rows == n_notes and (not n_rows or (first, last) == (1, n_rows))
        return [] if whole else [f"{n_rows} rows, {first} to {last}, of {n_notes} notes"]


def placeholders(values: Collection[object]) -> str:
    """As many question marks as there are values, in brackets."""
    return f"({','.join('?' * len(values))})"
