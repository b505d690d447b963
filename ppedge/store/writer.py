"""Every change of a persona store, made by one process at a time and safe to interrupt.

Appending writes rows past the committed ones, makes them durable, then commits their notes to
SQLite. Every other change writes a whole new row file, commits its number together with the
notes, and then erases what the old state leaves behind. A process that dies in between leaves
bytes that the committed state does not speak of; the next writer clears them away.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ppedge.errors import StoreError
from ppedge.notes.reader import Note
from ppedge.store.changes import RowUpdate, diff
from ppedge.store.database import sqlite_errors
from ppedge.store.encode import Encode, Progress, chunks, stage_key, vectors_by_digest
from ppedge.store.files import disk_errors, sync_directory, writer_lock
from ppedge.store.prefix_files import Kind, PrefixFiles
from ppedge.store.reports import ChangeReport
from ppedge.store.rows import Block, Layout, RowFiles, Space, as_block
from ppedge.store.sql_read import FILE_NAME, State, identity
from ppedge.store.sql_write import NotesTable
from ppedge.store.stamps import STAMPS, SyncedFile

COMMIT_NOTES = 1024
COMMIT_SECONDS = 1.0
_BLOCK_ROWS = 4096


@contextmanager
def writing(folder: Path, timeout: float, *, damaged: bool = False) -> Iterator[StoreWriter]:
    """Lock the store, clear up after an interrupted writer, and hand out its writer.

    Args:
        folder: the store.
        timeout: seconds to wait for another writer.
        damaged: go on even if the row file is damaged.

    Raises:
        StoreError: another writer, a damaged store, or a failing disk.
    """
    with writer_lock(folder / "lock", timeout), sqlite_errors(folder / FILE_NAME):
        table = NotesTable(folder, "write")
        try:
            table.state()  # Refuses what is no store, before anything is added to it.
            table.extend()
            writer = StoreWriter(folder, table)
            writer.recover(damaged=damaged)
            yield writer
        finally:
            table.close()


def create_store(folder: Path, space: Space, timeout: float) -> None:
    """Make an empty store in ``folder``, which exists; one that is there already stays."""
    with writer_lock(folder / "lock", timeout), sqlite_errors(folder / FILE_NAME):
        table = NotesTable(folder, "write")
        try:
            if not table.is_made:
                RowFiles(folder, 0, space.layout).write([as_block(space.null_row, space.layout)])
                with disk_errors(folder), table.transaction():
                    sync_directory(folder)
                    table.make(space.layout, zlib.crc32(space.null_row))
        finally:
            table.close()


class StoreWriter:
    """Changes a store; made by `writing`, valid while its lock is held."""

    def __init__(self, folder: Path, table: NotesTable) -> None:
        """Take the store as committed."""
        self.folder = folder
        self.table = table
        self._load(table.state())

    def _load(self, state: State) -> None:
        self.state = state
        self.rows = RowFiles(self.folder, state.file_version, state.layout)
        self.n_notes = state.n_notes

    def recover(self, *, damaged: bool = False) -> None:
        """Clear away what an interrupted writer left."""
        problem = self.rows.problem(self.n_notes + 1)
        if problem and not damaged:
            raise damaged_rows(problem)
        if not problem:
            self.rows.truncate(self.n_notes + 1)
        self._remove_other_files()
        if self.state.erasing:
            self.table.scrub()

    # --- changes ---

    def add(
        self, notes: Iterable[Note], encode: Encode, progress: Progress, origin: str = ""
    ) -> ChangeReport:
        """See `Persona.add`; new notes are of the followed folder ``origin``."""
        report = ChangeReport()
        changed: dict[bytes, RowUpdate] = {}
        total, done = len(notes) if isinstance(notes, Sized) else None, 0
        with self._batches(self._before_append) as commit_when_due:
            for chunk in chunks(notes):
                keys = [identity(note) for note in chunk]
                known = self.table.find(keys)
                new: dict[bytes, Note] = {}
                for key, note in zip(keys, chunk, strict=True):
                    stored = known.get(key)
                    if stored is None:
                        new[key] = note
                    elif stored.equals(note):
                        changed.pop(key, None)
                    else:
                        changed[key] = RowUpdate(stored.num, note, note.digest)
                report.encoded += self._append(list(new.values()), encode, origin)
                report.added += len(new)
                commit_when_due(len(new))
                done += len(chunk)
                progress(done, total)
        report.changed = len(changed)
        report.unchanged = done - report.added - report.changed
        if changed:
            by_num = {update.num: update for update in changed.values()}
            updates = [by_num.get(num, RowUpdate(num)) for num in self.table.order()]
            report.encoded += self._rewrite_with(updates, encode, lambda done, total: None)
        report.notes = self.n_notes
        return report

    def sync(
        self,
        notes: Iterable[Note],
        encode: Encode,
        progress: Progress,
        content: Callable[[], str] = str,
    ) -> ChangeReport:
        """See `Persona.sync`."""
        planned = diff(self.table, notes)
        updates, report = list(planned.updates.values()), planned.report
        order = self.table.order()
        kept = [update.num for update in updates[: len(order)] if update.note is None]
        report.removed = len(order) - report.unchanged - report.changed
        if kept == order:
            fresh = [update.note for update in updates[len(order) :] if update.note]
            with self._batches(self._before_append) as commit_when_due:
                for chunk in chunks(fresh):
                    report.encoded += self._append(chunk, encode)
                    commit_when_due(len(chunk))
                    progress(self.n_notes, len(updates))
            self.drop_staged()
        else:
            report.encoded = self._rewrite_with(updates, encode, progress)
        report.notes = self.n_notes
        if digest := content():
            SyncedFile(self.folder, self.state.file_version).write(self.state.version, digest)
        return report

    def forget(self, nums: Iterable[int]) -> None:
        """Remove notes by number, and erase every byte of them."""
        doomed = set(nums)
        self._rewrite([RowUpdate(num) for num in self.table.order() if num not in doomed])

    def adopt(self, nums: Iterable[int], origin: str) -> None:
        """Say that notes are of a followed folder from now on."""
        with self.table.transaction():
            for num in nums:
                self.table.set_origin(num, origin)

    def mark(self, nums: Iterable[int], mark: int) -> None:
        """Set the mark of some notes."""
        with self.table.transaction():
            for num in nums:
                self.table.set_mark(num, mark)
            self.table.next_version()

    def repair(self, bad_rows: set[int], encode: Encode, space: Space, progress: Progress) -> int:
        """Encode ``bad_rows`` anew (all rows, if the store was of another space).

        Returns:
            The number of notes encoded.
        """
        order, space = self.table.order(), space.within(self.state.layout)
        if space.layout != self.state.layout:
            bad_rows = set(range(1, len(order) + 1))
        updates = [
            RowUpdate(num, None, self.table.note(num).digest) if row in bad_rows else RowUpdate(num)
            for row, num in enumerate(order, start=1)
        ]
        bad_notes = (self.table.note(order[row - 1]) for row in sorted(bad_rows))
        encoded = self._stage(bad_notes, len(bad_rows), encode, space.layout, progress)
        self._rewrite(updates, space)
        return encoded

    # --- appending ---

    @contextmanager
    def _batches(self, before_commit: Callable[[], None]) -> Iterator[Callable[[int], None]]:
        """A run of transactions; tell the function that it yields of work that was done."""
        pending, since = 0, time.monotonic()

        def commit() -> None:
            if pending:
                before_commit()
            self.table.commit()

        def commit_when_due(n_notes: int) -> None:
            nonlocal pending, since
            pending += n_notes
            if pending >= COMMIT_NOTES or time.monotonic() - since >= COMMIT_SECONDS:
                commit()
                self.table.begin()
                pending, since = 0, time.monotonic()

        self.table.begin()
        try:
            yield commit_when_due
            commit()
        finally:
            self.table.rollback()
            self._load(self.table.state())
            with suppress(StoreError):
                self.rows.truncate(self.n_notes + 1)

    def _before_append(self) -> None:
        self.rows.sync()
        self.table.next_version()

    def _append(self, notes: Sequence[Note], encode: Encode, origin: str = "") -> int:
        """Append new notes within a batch; returns how many were encoded."""
        if not notes:
            return 0
        vectors, encoded = vectors_by_digest(
            notes, encode, self.state.layout, self.table, self.rows
        )
        packed = [vectors[note.digest] for note in notes]
        self.rows.append(self.n_notes + 1, packed)
        for note, row in zip(notes, packed, strict=True):
            self.n_notes += 1
            num = self.table.insert(note, zlib.crc32(row), origin)
            self.table.append_row(self.n_notes, num)
        return encoded

    # --- rewriting ---

    def _rewrite_with(
        self, updates: Sequence[RowUpdate], encode: Encode, progress: Progress
    ) -> int:
        fresh = [update.note for update in updates if update.note]
        encoded = self._stage(fresh, len(fresh), encode, self.state.layout, progress)
        self._rewrite(updates)
        return encoded

    def _stage(
        self,
        notes: Iterable[Note],
        total: int,
        encode: Encode,
        layout: Layout,
        progress: Progress,
    ) -> int:
        """Encode notes into the staging table, so that an interrupted change need not again."""
        encoded = done = 0
        with self._batches(lambda: None) as commit_when_due:
            for chunk in chunks(notes):
                vectors, n_encoded = vectors_by_digest(chunk, encode, layout, self.table, self.rows)
                for digest, row in vectors.items():
                    self.table.stage(stage_key(layout, digest), row)
                commit_when_due(len(chunk))
                encoded, done = encoded + n_encoded, done + len(chunk)
                progress(done, total)
        return encoded

    def _rewrite(self, updates: Sequence[RowUpdate], space: Space | None = None) -> None:
        """Make the store hold exactly ``updates``, in a new file version, and erase the old one."""
        layout = space.layout if space else self.state.layout
        rows = RowFiles(self.folder, self.state.file_version + 1, layout)
        crcs: dict[int, int] = {}
        try:
            with self.table.transaction():
                null_row = space.null_row if space else self.rows.read(0)
                null_crc = zlib.crc32(null_row) if space else self.state.null_crc
                rows.write(self._blocks(updates, layout, null_row, crcs))
                with disk_errors(self.folder):
                    sync_directory(self.folder)
                self.table.set_order(
                    [self._apply(update, crcs.get(i, 0)) for i, update in enumerate(updates)]
                )
                self.table.clear_staged()
                self.table.next_version()
                self.table.set_file_version(rows.file_version, layout, null_crc)
        except BaseException:
            if self.table.state().file_version != rows.file_version:
                rows.remove()
            raise
        self._load(self.table.state())
        self._remove_other_files()
        self._scrub()

    def keep_prefix(self, kind: Kind, key: str, version: int, state: bytes) -> None:
        """Keep what was made of notes of ``version``; not if they have changed since."""
        if self.state.version == version:
            PrefixFiles(self.folder, self.state.file_version).write(kind, key, state)

    def drop_staged(self) -> None:
        """Erase the vectors that an interrupted change kept aside for a next one."""
        with self.table.transaction():
            dropped = self.table.clear_staged()
        if dropped:
            self._scrub()

    def _scrub(self) -> None:
        if not self.table.scrub():
            raise StoreError(
                f"{self.folder}: the change is made, but another process is reading the store, so "
                "removed text is still in its log; close that process and open the store again"
            )

    def _blocks(
        self, updates: Sequence[RowUpdate], layout: Layout, null_row: bytes, crcs: dict[int, int]
    ) -> Iterator[Block]:
        """Yield the rows of ``updates``; ``crcs`` receives those of staged rows, by position."""
        yield as_block(null_row, layout)
        keys, values = self._old_rows(layout)
        row_of: dict[int | None, int] = {
            num: row for row, num in enumerate(self.table.order(), start=1)
        }
        for start in range(0, len(updates), _BLOCK_ROWS):
            part = updates[start : start + _BLOCK_ROWS]
            wanted = {
                i: stage_key(layout, update.digest)
                for i, update in enumerate(part)
                if update.digest
            }
            # Staged rows stand in for themselves as row 0, and are put in place below.
            rows = [0 if i in wanted else row_of[update.num] for i, update in enumerate(part)]
            run = slice(rows[0], rows[0] + len(rows))
            if not wanted and rows == list(range(run.start, run.stop)) and run.stop <= len(keys):
                # As they stand: nothing has to be copied on the way from file to file.
                yield keys[run], values[run]
                continue
            block = keys[rows], values[rows]
            staged = self.table.staged(set(wanted.values()))
            for i, key in wanted.items():
                for matrix, row in zip(block, as_block(staged[key], layout), strict=True):
                    matrix[i] = row[0]
                crcs[start + i] = zlib.crc32(staged[key])
            yield block

    def _old_rows(self, layout: Layout) -> tuple[NDArray[np.float16], NDArray[np.float16]]:
        """The current keys and values as far as the files have them; at least one row."""
        complete = self.rows.complete_rows(self.n_notes + 1)
        if complete and layout == self.state.layout:
            return self.rows.map(complete)
        return np.zeros((1, layout.d_key), "<f2"), np.zeros((1, layout.d_value), "<f2")

    def _apply(self, update: RowUpdate, crc: int) -> int:
        if update.num is None:
            assert update.note is not None
            return self.table.insert(update.note, crc)
        if update.note is not None:
            self.table.update(update.num, update.note, crc)
        elif update.digest is not None:
            self.table.set_crc(update.num, crc)
        return update.num

    def _remove_other_files(self) -> None:
        with disk_errors(self.folder):
            others = file_versions(self.folder) - {self.state.file_version}
            for file_version in others:
                RowFiles(self.folder, file_version, self.state.layout).remove()
                PrefixFiles(self.folder, file_version).remove()
                for stamp in STAMPS:
                    stamp(self.folder, file_version).remove()
            if others:
                sync_directory(self.folder)


def file_versions(folder: Path) -> set[int]:
    """Generations of which a file, but for the notes themselves, is in ``folder``."""
    kinds = (RowFiles, PrefixFiles, *STAMPS)
    return set().union(*(kind.file_versions(folder) for kind in kinds))


def damaged_rows(problem: str) -> StoreError:
    """The error for row files that cannot be used, of which `RowFiles.problem` said why."""
    return StoreError(
        f"{problem}; the text of your notes is safe: "
        "run `ppedge notes repair` to encode the damaged rows again"
    )
