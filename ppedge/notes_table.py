"""The SQLite half of a persona store: text, metadata, and which row belongs to which note."""

from __future__ import annotations

import hashlib
import json
import re
import sqlite3
import struct
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from pathlib import Path

from ppedge.database import Access, connect, sqlite_errors
from ppedge.errors import StoreError
from ppedge.history import Note
from ppedge.rows import Layout

FILE_NAME = "notes.db"
_HANDLE = re.compile(r"sha256:([0-9a-fA-F]{8,64})")
_SCHEMA_VERSION = 1
_PAGE = 500

# rows maps the dense row numbers 1..n to notes; it is apart from the text so that closing the
# gap a forgotten note leaves rewrites a few bytes per note and not its text.
_SCHEMA = """
CREATE TABLE store (
    d_key INTEGER NOT NULL, d_value INTEGER NOT NULL,
    encoder_sha256 TEXT NOT NULL, plug_sha256 TEXT NOT NULL,
    generation INTEGER NOT NULL, version INTEGER NOT NULL, erasing INTEGER NOT NULL,
    null_crc INTEGER NOT NULL);
CREATE TABLE notes (
    num INTEGER PRIMARY KEY, identity BLOB NOT NULL UNIQUE, digest BLOB NOT NULL,
    id TEXT NOT NULL, time REAL, crc INTEGER NOT NULL, mark INTEGER NOT NULL DEFAULT 0,
    seal INTEGER NOT NULL, input TEXT NOT NULL, output TEXT NOT NULL);
CREATE INDEX notes_digest ON notes (digest);
CREATE INDEX notes_mark ON notes (mark) WHERE mark <> 0;
CREATE TABLE rows (row INTEGER PRIMARY KEY, note INTEGER NOT NULL UNIQUE);
CREATE TABLE staged (key BLOB PRIMARY KEY, vectors BLOB NOT NULL) WITHOUT ROWID;
"""


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
        generation: number of the current row file.
        version: grows by one with every commit that changes what the store answers.
        erasing: removed text or vectors may still be on disk.
        null_crc: CRC-32 of row 0.
        n_notes: notes, and rows after row 0.
    """

    layout: Layout
    generation: int
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


class NotesTable:
    """Reads and changes ``notes.db``; see the module docstring.

    Methods that change anything must run inside `transaction`. Every error of SQLite becomes a
    `StoreError` in `Persona`, which wraps its calls in `sqlite_errors`.
    """

    def __init__(self, folder: Path, access: Access) -> None:
        """Connect to ``folder / "notes.db"``; see `ppedge.database.connect`."""
        self.path = folder / FILE_NAME
        with sqlite_errors(self.path):
            self._db = connect(self.path, access)

    def close(self) -> None:
        """Disconnect; SQLite folds the write-ahead log into the database if it is the last."""
        self._db.close()

    @property
    def is_made(self) -> bool:
        """Whether the database has tables, be they a store's or something else's."""
        return self._db.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone() is not None

    def make(self, layout: Layout, null_crc: int) -> None:
        """Create the tables of an empty store at generation 0."""
        for statement in _SCHEMA.split(";"):
            self._db.execute(statement)
        self._db.execute(
            "INSERT INTO store VALUES (?, ?, ?, ?, 0, 0, 0, ?)", (*astuple(layout), null_crc)
        )
        self._db.execute(f"PRAGMA user_version = {_SCHEMA_VERSION}")

    def begin(self) -> None:
        """Begin a transaction; readers see nothing of it before `commit`."""
        self._db.execute("BEGIN IMMEDIATE")

    def commit(self) -> None:
        """Make the transaction durable and visible."""
        self._db.execute("COMMIT")

    def rollback(self) -> None:
        """Undo the transaction, if one is open."""
        if self._db.in_transaction:
            self._db.execute("ROLLBACK")

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Commit the block as one change, or roll it back if it raises."""
        self.begin()
        try:
            yield
            self.commit()
        finally:
            self.rollback()

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """Let every read of the block see one committed state; not inside `transaction`."""
        self._db.execute("BEGIN")
        try:
            yield
        finally:
            self.rollback()

    def state(self) -> State:
        """Read the state; constant time."""
        (schema,) = self._db.execute("PRAGMA user_version").fetchone()
        if not schema:
            raise StoreError(f"{self.path} is not a persona store; name another folder")
        if schema != _SCHEMA_VERSION:
            raise StoreError(
                f"{self.path} has schema {schema}, this ppedge reads {_SCHEMA_VERSION}; "
                "use the ppedge that wrote it"
            )
        found = self._db.execute(
            "SELECT *, (SELECT coalesce(max(row), 0) FROM rows) FROM store"
        ).fetchone()
        if found is None or None in found:
            raise sqlite3.DatabaseError("table store is incomplete")
        *layout, generation, version, erasing, null_crc, n_notes = found
        return State(Layout(*layout), generation, version, bool(erasing), null_crc, n_notes)

    # --- reading ---

    def find(self, identities: Collection[bytes]) -> dict[bytes, Stored]:
        """Look notes up by identity (at most a few hundred)."""
        found = self._db.execute(
            f"SELECT identity, num, digest, time FROM notes WHERE identity IN {_marks(identities)}",
            tuple(identities),
        )
        return {key: Stored(num, digest, time) for key, num, digest, time in found}

    def rows_of_digests(self, digests: Collection[bytes]) -> dict[bytes, tuple[int, int]]:
        """(row, CRC-32) where these digests' vectors already are (at most a few hundred)."""
        found = self._db.execute(
            "SELECT digest, row, crc FROM notes JOIN rows ON note = num "
            f"WHERE digest IN {_marks(digests)}",
            tuple(digests),
        )
        return {digest: (row, crc) for digest, row, crc in found}

    def order(self) -> list[int]:
        """Note numbers in row order, from row 1."""
        nums = [num for (num,) in self._db.execute("SELECT note FROM rows ORDER BY row")]
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
        found = self._db.execute(query, (key,)).fetchone()
        if found is None:
            raise sqlite3.DatabaseError(f"a note is missing ({key})")
        return Note(*found)

    def walk(self, where: str = "1", values: Sequence[object] = ()) -> Iterator[tuple[int, Note]]:
        """Yield (note number, note) in row order.

        Pages, because a cursor left open by a slow caller would keep the log from being erased.
        """
        row = 0
        while page := self._db.execute(
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
        found = self._db.execute(
            "SELECT num FROM notes WHERE identity = ?", (identity(Note("", id=name)),)
        ).fetchall()
        if not found and (match := _HANDLE.fullmatch(name)):
            found = self._db.execute(
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
        return self._db.execute(
            "SELECT row, mark FROM notes JOIN rows ON note = num WHERE mark <> 0 ORDER BY row"
        ).fetchall()

    def checksums(self) -> Iterator[list[tuple[int, int, bytes, bytes, float | None, int]]]:
        """Yield pages of (row, CRC-32, identity, digest, time, mark) in row order."""
        cursor = self._db.execute(
            "SELECT row, crc, identity, digest, time, mark "
            "FROM rows JOIN notes ON num = note ORDER BY row"
        )
        while page := cursor.fetchmany(_PAGE):
            yield page

    def broken_seals(self) -> list[int]:
        """Rows of the notes whose id, time or mark is not as it was written."""
        found = self._db.execute(
            "SELECT row FROM rows JOIN notes ON num = note WHERE seal <> seal(id, time, mark)"
        )
        return [row for (row,) in found]

    def totals(self) -> tuple[int, int, float | None, float | None]:
        """(UTF-8 bytes of text, notes with an id, earliest time, latest time)."""
        found = self._db.execute(
            "SELECT coalesce(sum(length(CAST(input AS BLOB)) + length(CAST(output AS BLOB))), 0), "
            "count(nullif(id, '')), min(time), max(time) FROM notes"
        ).fetchone()
        return tuple(found)

    def integrity(self) -> list[str]:
        """What SQLite finds wrong with the file; empty when sound."""
        found = [line for (line,) in self._db.execute("PRAGMA integrity_check(10)")]
        if found != ["ok"]:
            return found
        n_rows, first, last, n_notes = self._db.execute(
            "SELECT count(*), min(row), max(row), (SELECT count(*) FROM notes) FROM rows"
        ).fetchone()
        whole = n_rows == n_notes and (not n_rows or (first, last) == (1, n_rows))
        return [] if whole else [f"{n_rows} rows, {first} to {last}, of {n_notes} notes"]

    # --- changing ---

    def insert(self, note: Note, crc: int) -> int:
        """Add a note without a row; returns its number."""
        cursor = self._db.execute(
            "INSERT INTO notes (identity, digest, crc, input, output, id, time, seal) "
            "VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, seal(?6, ?7, 0))",
            (identity(note), *_columns(note, crc)),
        )
        return int(cursor.lastrowid or 0)

    def update(self, num: int, note: Note, crc: int) -> None:
        """Replace the content of a note."""
        self._db.execute(
            "UPDATE notes SET digest = ?2, crc = ?3, input = ?4, output = ?5, id = ?6, time = ?7, "
            "seal = seal(?6, ?7, mark) WHERE num = ?1",
            (num, *_columns(note, crc)),
        )

    def set_crc(self, num: int, crc: int) -> None:
        """Replace the checksum of a note's row."""
        self._db.execute("UPDATE notes SET crc = ? WHERE num = ?", (crc, num))

    def set_mark(self, num: int, mark: int) -> None:
        """Replace the mark of a note."""
        self._db.execute(
            "UPDATE notes SET mark = ?1, seal = seal(id, time, ?1) WHERE num = ?2", (mark, num)
        )

    def append_row(self, row: int, num: int) -> None:
        """Give a note the next row."""
        self._db.execute("INSERT INTO rows VALUES (?, ?)", (row, num))

    def set_order(self, nums: Sequence[int]) -> None:
        """Give the notes ``nums`` the rows 1, 2, ... and delete every other note."""
        self._db.execute("DELETE FROM rows")
        self._db.executemany("INSERT INTO rows VALUES (?, ?)", enumerate(nums, start=1))
        self._db.execute("DELETE FROM notes WHERE num NOT IN (SELECT note FROM rows)")

    def next_version(self) -> None:
        """Tell readers that the store answers differently from now on."""
        self._db.execute("UPDATE store SET version = version + 1")

    def set_generation(self, generation: int, layout: Layout, null_crc: int) -> None:
        """Switch to another row file; what it leaves behind is to be erased."""
        self._db.execute(
            "UPDATE store SET d_key = ?, d_value = ?, encoder_sha256 = ?, plug_sha256 = ?, "
            "generation = ?, null_crc = ?, erasing = 1",
            (*astuple(layout), generation, null_crc),
        )

    def stage(self, key: bytes, vectors: bytes) -> None:
        """Keep encoded vectors until the change that needs them commits."""
        self._db.execute("INSERT OR REPLACE INTO staged VALUES (?, ?)", (key, vectors))

    def staged(self, keys: Collection[bytes]) -> dict[bytes, bytes]:
        """Staged vectors of these keys (at most a few thousand)."""
        return dict(
            self._db.execute(
                f"SELECT key, vectors FROM staged WHERE key IN {_marks(keys)}", tuple(keys)
            ).fetchall()
        )

    def clear_staged(self) -> bool:
        """Drop all staged vectors; whether there were any, which `scrub` must then erase."""
        dropped = self._db.execute("DELETE FROM staged").rowcount > 0
        if dropped:
            self._db.execute("UPDATE store SET erasing = 1")
        return dropped

    def scrub(self) -> bool:
        """Leave no byte of deleted content in the database or its log.

        VACUUM, because a page that SQLite has split or merged may keep copies of cells that
        were deleted later. Not inside `transaction`.

        Returns:
            False if another process was reading, so that the log could not be emptied.
        """
        self._db.execute("VACUUM")
        if not self._empty_log():
            return False
        self._db.execute("UPDATE store SET erasing = 0")
        return self._empty_log()

    def _empty_log(self) -> bool:
        busy, _, _ = self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        return not busy


def _columns(note: Note, crc: int) -> tuple[object, ...]:
    return bytes.fromhex(note.digest), crc, note.input, note.output, note.id, note.time


def _marks(values: Collection[object]) -> str:
    return f"({','.join('?' * len(values))})"
