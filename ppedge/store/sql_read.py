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
from typing import Any

from ppedge.errors import StoreError
from ppedge.notes.reader import Note
from ppedge.store.database import (
    Access,
    connect,
    metadata_checksum,
    pack_about,
    sqlite_errors,
    unpack_about,
)
from ppedge.store.rows import Layout
from ppedge.store.scope import Scope

FILE_NAME = "notes.db"
_HANDLE = re.compile(r"sha256:([0-9a-fA-F]{8,64})")
SCHEMA_VERSION = 1
# Columns of notes that version 0.1 had not, with what they hold where nothing was said, as SQL.
LATER_COLUMNS = {
    "about": "'{}'",
    "origin": "''",
    "about_seal": str(metadata_checksum("{}", "", "")),
}
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
    """A stored note without its text.

    Attributes:
        num: its number in the table.
        digest: what its vectors hang on.
        time: as of the note.
        about: its tags and source, packed.
        origin: of which followed folder it is; "" of none.
    """

    num: int
    digest: bytes
    time: float | None
    about: str
    origin: str

    def equals(self, note: Note) -> bool:
        """Whether ``note``, of the same identity, also has the same content."""
        return (self.digest, self.time, self.about) == (
            bytes.fromhex(note.digest),
            note.time,
            pack_about(note.tags, note.source),
        )


@dataclass(frozen=True, slots=True)
class Selection:
    """Notes that meet every criterion given; one that is None is not applied.

    Attributes:
        ids: ids, or ``sha256:`` handles of at least 8 digits.
        text: appears in input or output, upper and lower case alike.
        before: written before this moment (Unix seconds).
        after: written at or after this moment (Unix seconds).
        scopes: in each of these.
    """

    ids: Collection[str] | None = None
    text: str | None = None
    before: float | None = None
    after: float | None = None
    scopes: Sequence[Scope] = ()


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
        self._extended = False

    def close(self) -> None:
        """Disconnect; SQLite folds the write-ahead log into the database if it is the last."""
        self.db.close()

    @property
    def is_made(self) -> bool:
        """Whether the database has tables, be they a store's or something else's."""
        return self.db.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone() is not None

    @property
    def is_extended(self) -> bool:
        """Whether the notes have the columns that came after version 0.1; a writer adds them."""
        if not self._extended:
            columns = self.db.execute("SELECT name FROM pragma_table_info('notes')")
            self._extended = ("origin",) in columns.fetchall()
        return self._extended

    def _column(self, name: str) -> str:
        """SQL for a column that may not be there yet."""
        return name if self.is_extended else LATER_COLUMNS[name]

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
            f"SELECT identity, num, digest, time, {self._column('about')}, "
            f"{self._column('origin')} FROM notes WHERE identity IN {placeholders(identities)}",
            tuple(identities),
        )
        return {key: Stored(*fields) for key, *fields in found}

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
        return self._one_note(f"SELECT {self._fields()} FROM notes WHERE num = ?", num)

    def note_at(self, row: int) -> Note:
        """Read the note of a row."""
        return self._one_note(
            f"SELECT {self._fields()} FROM rows JOIN notes ON num = note WHERE row = ?", row
        )

    def _fields(self) -> str:
        return f"output, input, id, time, {self._column('about')}"

    def _one_note(self, query: str, key: int) -> Note:
        found = self.db.execute(query, (key,)).fetchone()
        if found is None:
            raise sqlite3.DatabaseError(f"a note is missing ({key})")
        return _note(found)

    def walk(self, where: str = "1", values: Sequence[object] = ()) -> Iterator[tuple[int, Note]]:
        """Yield (note number, note) in row order.

        Pages, because a cursor left open by a slow caller would keep the log from being erased.
        """
        row = 0
        while page := self.db.execute(
            f"SELECT row, num, {self._fields()} FROM rows JOIN notes ON num = note "
            f"WHERE row > ? AND {where} ORDER BY row LIMIT {_PAGE}",
            (row, *values),
        ).fetchall():
            row = page[-1][0]
            yield from ((num, _note(fields)) for _, num, *fields in page)

    def select(self, selection: Selection) -> Iterator[tuple[int, Note]]:
        """Yield (note number, note) of the selected notes in row order.

        Raises:
            StoreError: an id names no note, or more than one.
        """
        return self.walk(*self._terms(selection))

    def scoped_rows(self, scopes: Sequence[Scope]) -> list[int]:
        """Rows of the notes in each of these scopes, ascending."""
        where, values = self._terms(Selection(scopes=scopes))
        found = self.db.execute(
            f"SELECT row FROM rows JOIN notes ON num = note WHERE {where} ORDER BY row", values
        )
        return [row for (row,) in found]

    def _terms(self, selection: Selection) -> tuple[str, list[object]]:
        """A selection as SQL, and its values."""
        terms: list[tuple[str, list[object]]] = [("1", [])]
        if selection.ids is not None:
            nums = sorted({self.resolve(name) for name in selection.ids})
            terms.append(("num IN (SELECT value FROM json_each(?))", [json.dumps(nums)]))
        if selection.text is not None:
            text = selection.text.casefold()
            term = "(instr(casefold(output), ?) OR instr(casefold(input), ?))"
            terms.append((term, [text, text]))
        times = [(selection.after, selection.before)]
        times += [(scope.since, scope.until) for scope in selection.scopes]
        for since, until in times:
            terms += [("time >= ?", [since])] * (since is not None)
            terms += [("time < ?", [until])] * (until is not None)
        about = self._column("about")
        for scope in selection.scopes:
            terms.append(_any_of(f"tagged({about}, ?)", scope.tags))
            terms.append(_any_of(f"under({about}, id, ?)", scope.folders))
        return " AND ".join(term for term, _ in terms), [each for _, v in terms for each in v]

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

    def followed(self, origin: str) -> list[tuple[int, bytes, str]]:
        """(number, identity, source) of the notes that are of a followed folder."""
        if not self.is_extended:
            return []
        found = self.db.execute(
            "SELECT num, identity, about FROM notes WHERE origin = ?", (origin,)
        )
        return [(num, key, unpack_about(about)[1]) for num, key, about in found]

    def abouts(self) -> list[tuple[int, str]]:
        """(row, packed tags and source) of the notes that have some, in row order."""
        if not self.is_extended:
            return []
        return self.db.execute(
            "SELECT row, about FROM rows JOIN notes ON num = note WHERE about <> '{}' ORDER BY row"
        ).fetchall()

    def wrong_metadata(self) -> list[int]:
        """Rows of the notes whose small fields are not as they were written."""
        wrong = "seal <> seal(id, time, mark)"
        if self.is_extended:
            wrong += " OR about_seal <> seal(about, origin, '')"
        found = self.db.execute(f"SELECT row FROM rows JOIN notes ON num = note WHERE {wrong}")
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


def _any_of(term: str, values: Sequence[str]) -> tuple[str, list[object]]:
    """A term of SQL that one of the values is enough for; all, if there are none."""
    return (f"({' OR '.join([term] * len(values))})" if values else "1"), list(values)


def _note(fields: Sequence[Any]) -> Note:
    """A note of the columns output, input, id, time and about."""
    output, given, note_id, time, about = fields
    return Note(output, given, note_id, time, *unpack_about(about))
