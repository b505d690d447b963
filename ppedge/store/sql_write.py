"""Changing the SQLite half of a persona store."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import astuple

from ppedge.notes.reader import Note
from ppedge.store.database import metadata_checksum, pack_about
from ppedge.store.rows import Layout
from ppedge.store.sql_read import (
    LATER_COLUMNS,
    SCHEMA_VERSION,
    NotesReader,
    identity,
    placeholders,
)

# The column "seal" is a checksum of id, time and mark; "generation" is the version of the row
# files. rows maps the dense row numbers 1..n to notes; it is apart from the text so that closing
# the gap a forgotten note leaves rewrites a few bytes per note and not its text.
#
# LATER_COLUMNS come after these: "about" is tags and source, packed; "origin" is the followed
# folder that a note is of; "about_seal" is their checksum. They have defaults, and the schema's
# number stays: version 0.1, which does not know them, still writes rows that are whole.
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


class NotesTable(NotesReader):
    """Reads and changes ``notes.db``.

    Methods that change anything must run inside `transaction`.
    """

    def make(self, layout: Layout, null_crc: int) -> None:
        """Create the tables of an empty store at file version 0."""
        for statement in _SCHEMA.split(";"):
            self.db.execute(statement)
        self._extend()
        self.db.execute(
            "INSERT INTO store VALUES (?, ?, ?, ?, 0, 0, 0, ?)", (*astuple(layout), null_crc)
        )
        self.db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")

    def extend(self) -> None:
        """Give a store of version 0.1 the columns that came later, in one transaction."""
        if not self.is_extended:
            with self.transaction():
                self._extend()

    def _extend(self) -> None:
        for name, default in LATER_COLUMNS.items():
            kind = "INTEGER" if name == "about_seal" else "TEXT"
            self.db.execute(
                f"ALTER TABLE notes ADD COLUMN {name} {kind} NOT NULL DEFAULT {default}"
            )

    def begin(self) -> None:
        """Begin a transaction; readers see nothing of it before `commit`."""
        self.db.execute("BEGIN IMMEDIATE")

    def commit(self) -> None:
        """Make the transaction durable and visible."""
        self.db.execute("COMMIT")

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Commit the block as one change, or roll it back if it raises."""
        self.begin()
        try:
            yield
            self.commit()
        finally:
            self.rollback()

    # --- changing ---

    def insert(self, note: Note, crc: int, origin: str = "") -> int:
        """Add a note without a row; returns its number."""
        columns = _columns(note, crc)
        *_, time, about = columns
        cursor = self.db.execute(
            "INSERT INTO notes (digest, crc, input, output, id, time, about, identity, origin, "
            "seal, about_seal) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                *columns,
                identity(note),
                origin,
                # Not by SQL's seal(): what a signal raises within that is lost (`sqlite_errors`).
                metadata_checksum(note.id, time, 0),
                metadata_checksum(about, origin, ""),
            ),
        )
        return int(cursor.lastrowid or 0)

    def update(self, num: int, note: Note, crc: int) -> None:
        """Replace the content of a note."""
        self.db.execute(
            "UPDATE notes SET digest = ?1, crc = ?2, input = ?3, output = ?4, id = ?5, time = ?6, "
            "about = ?7, seal = seal(?5, ?6, mark), about_seal = seal(?7, origin, '') "
            "WHERE num = ?8",
            (*_columns(note, crc), num),
        )

    def set_origin(self, num: int, origin: str) -> None:
        """Say of which followed folder a note is."""
        self.db.execute(
            "UPDATE notes SET origin = ?1, about_seal = seal(about, ?1, '') WHERE num = ?2",
            (origin, num),
        )

    def set_crc(self, num: int, crc: int) -> None:
        """Replace the checksum of a note's row."""
        self.db.execute("UPDATE notes SET crc = ? WHERE num = ?", (crc, num))

    def set_mark(self, num: int, mark: int) -> None:
        """Replace the mark of a note."""
        self.db.execute(
            "UPDATE notes SET mark = ?1, seal = seal(id, time, ?1) WHERE num = ?2", (mark, num)
        )

    def append_row(self, row: int, num: int) -> None:
        """Give a note the next row."""
        self.db.execute("INSERT INTO rows VALUES (?, ?)", (row, num))

    def set_order(self, nums: Sequence[int]) -> None:
        """Give the notes ``nums`` the rows 1, 2, ... and delete every other note."""
        self.db.execute("DELETE FROM rows")
        # One statement for all: one for each takes three times as long.
        self.db.execute(
            "INSERT INTO rows SELECT key + 1, value FROM json_each(?)", (json.dumps(list(nums)),)
        )
        self.db.execute("DELETE FROM notes WHERE num NOT IN (SELECT note FROM rows)")

    def next_version(self) -> None:
        """Tell readers that the store answers differently from now on."""
        self.db.execute("UPDATE store SET version = version + 1")

    def set_file_version(self, file_version: int, layout: Layout, null_crc: int) -> None:
        """Switch to another row file; what it leaves behind is to be erased."""
        self.db.execute(
            "UPDATE store SET d_key = ?, d_value = ?, encoder_sha256 = ?, plug_sha256 = ?, "
            "generation = ?, null_crc = ?, erasing = 1",
            (*astuple(layout), file_version, null_crc),
        )

    def stage(self, key: bytes, vectors: bytes) -> None:
        """Keep encoded vectors until the change that needs them commits."""
        self.db.execute("INSERT OR REPLACE INTO staged VALUES (?, ?)", (key, vectors))

    def staged(self, keys: Collection[bytes]) -> dict[bytes, bytes]:
        """Staged vectors of these keys (at most a few thousand)."""
        return dict(
            self.db.execute(
                f"SELECT key, vectors FROM staged WHERE key IN {placeholders(keys)}", tuple(keys)
            ).fetchall()
        )

    def clear_staged(self) -> bool:
        """Drop all staged vectors; whether there were any, which `scrub` must then erase."""
        dropped = self.db.execute("DELETE FROM staged").rowcount > 0
        if dropped:
            self.db.execute("UPDATE store SET erasing = 1")
        return dropped

    def scrub(self) -> bool:
        """Leave no byte of deleted content in the database or its log.

        VACUUM, because a page that SQLite has split or merged may keep copies of cells that
        were deleted later. Not inside `transaction`.

        Returns:
            False if another process was reading, so that the log could not be emptied.
        """
        self.db.execute("VACUUM")
        if not self._empty_log():
            return False
        self.db.execute("UPDATE store SET erasing = 0")
        return self._empty_log()

    def _empty_log(self) -> bool:
        busy, _, _ = self.db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        return not busy


def _columns(note: Note, crc: int) -> tuple[object, ...]:
    # SQLite gives back a float where a program gave a whole number, and the checksum knows.
    time = None if note.time is None else float(note.time)
    about = pack_about(note.tags, note.source)
    return bytes.fromhex(note.digest), crc, note.input, note.output, note.id, time, about
