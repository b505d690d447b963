"""`Persona`: one person's notes on disk, and what they say to a prompt."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from ppedge.closing import Closing
from ppedge.database import sqlite_errors
from ppedge.errors import StoreError
from ppedge.files import disk_errors
from ppedge.history import Note, note_line
from ppedge.note_vectors import Encode, Progress
from ppedge.notes_table import NotesTable, Selection, handle
from ppedge.pooling import Pooled, pool
from ppedge.prefix_files import PrefixFiles
from ppedge.rows import Layout, Space
from ppedge.score_bias import MUTE, PIN, PIN_WEIGHT, of_marks, with_plug
from ppedge.store_check import find_problems
from ppedge.store_open import check_fit, current_rows, is_made, make_store, open_table, tidy
from ppedge.store_reports import ChangeReport, Problem, Receipt, Stats
from ppedge.store_writer import StoreWriter, damaged_rows, writing

__all__ = [
    "MUTE",
    "PIN",
    "PIN_WEIGHT",
    "ChangeReport",
    "Encode",
    "NotesChangedError",
    "Persona",
    "Problem",
    "Progress",
    "Receipt",
    "Space",
    "Stats",
    "handle",
]


class NotesChangedError(StoreError):
    """The notes are no longer those that were pooled; pool again."""


@dataclass(frozen=True, eq=False, slots=True)
class _Snapshot:
    """The rows of one version, mapped: keys [n+1, d_k], values [n+1, d_v], bias [n+1] or None."""

    version: int
    keys: NDArray[np.float16]
    values: NDArray[np.float16]
    bias: NDArray[np.float32] | None


class Persona(Closing):
    """A folder with one person's notes, their vectors, and nothing of anybody else's.

    Reading sees the last committed state, also while another process or thread changes the
    store. Changes take the store's lock one at a time; a change that is interrupted, even by
    ``kill -9`` or a power cut, leaves the store as it was before or as it is after, except that
    `add` and the growing kind of `sync` keep what they had committed so far.

    A `Persona` may be shared between threads. Use it as a context manager, or call `close`.
    """

    def __init__(
        self, folder: Path, table: NotesTable, space: Space | None, *, writable: bool, wait: float
    ) -> None:
        """Use `open` instead."""
        self.path = folder
        self._table = table
        self._space = space
        self._writable = writable
        self._wait = wait
        self._mutex = threading.Lock()
        self._snapshot: _Snapshot | None = None

    @classmethod
    def open(
        cls,
        path: str | Path,
        space: Space | None = None,
        *,
        create: bool = True,
        read_only: bool = False,
        damaged: bool = False,
        wait: float = 5.0,
    ) -> Persona:
        """Open the store in a folder; reads no vectors.

        Args:
            path: the folder.
            space: the plug's space. None takes the store as it is; `add`, `sync` and `repair`
                then refuse, as they need to know that the encoder fits.
            create: make a store if there is none (needs ``space``).
            read_only: change nothing on disk. Chosen by itself where the folder is not writable.
            damaged: open also what `verify` and `repair` are for: damaged row files, or a store
                that belongs to another plug.
            wait: seconds to wait for another process that is changing the store.

        Raises:
            StoreError: no store there, not a store, another plug's, damaged, or unreadable.
        """
        folder = Path(path)
        read_only = read_only or (folder.exists() and not os.access(folder, os.W_OK))
        if not is_made(folder):
            if not create or read_only or space is None:
                raise StoreError(f"{folder}: no persona here; `ppedge notes add` makes one")
            make_store(folder, space, wait)
        table = open_table(folder)
        try:
            with sqlite_errors(table.path), disk_errors(folder):
                state, _, problem = current_rows(folder, table)
                if not damaged:
                    check_fit(folder, state, space)
                if problem and not damaged:
                    raise damaged_rows(problem)
                if not problem and not read_only:
                    tidy(folder, state)
        except BaseException:
            table.close()
            raise
        return cls(folder, table, space, writable=not read_only, wait=wait)

    def close(self) -> None:
        """Let go of the files; the store cannot be used afterwards."""
        with self._mutex:
            self._snapshot = None
            self._table.close()

    def __len__(self) -> int:
        """Number of notes."""
        with self._reading():
            return self._table.state().n_notes

    @property
    def layout(self) -> Layout:
        """Whose vectors the store holds."""
        with self._reading():
            return self._table.state().layout

    # --- reading ---

    def notes(
        self,
        *,
        ids: Collection[str] | None = None,
        text: str | None = None,
        before: float | None = None,
        after: float | None = None,
    ) -> Iterator[Note]:
        """Yield the notes in row order, all or those that meet every criterion given.

        Args:
            ids: ids or ``sha256:`` handles; each must name a note.
            text: appears in input or output, upper and lower case alike.
            before: written before this moment (Unix seconds).
            after: written at or after this moment (Unix seconds).
        """
        with sqlite_errors(self._table.path):
            for _, note in self._table.select(Selection(ids, text, before, after)):
                yield note

    def get(self, name: str) -> Note:
        """The note with this id or ``sha256:`` handle.

        Raises:
            StoreError: no note, or more than one, goes by that name.
        """
        with self._reading():
            return self._table.note(self._table.resolve(name))

    def pool(
        self,
        query: NDArray[np.float32],
        *,
        scale: float,
        recency: float = 0.0,
        null_competes: bool = True,
        n_threads: int = 1,
    ) -> Pooled:
        """Pool the notes' values by attention to ``query``, the null note included.

        The three settings are the plug's: ``attention_scale``, ``recency`` and
        ``null_note_competes`` of its manifest.

        Args:
            query: float32 [d_key].
            scale: multiplies the scores (the plug's inverse temperature).
            recency: a note's score falls by this times log(1 + number of notes after it in the
                store's order, muted ones included).
            null_competes: False leaves the null note out wherever a note can be heard; it then
                answers only for an empty, or wholly muted, history.
            n_threads: threads for the kernel.

        Returns:
            The kernel's result: value float32 [d_value], weights float32 [n+1] (entry 0 is the
            null note), log-sum-exp.

        Raises:
            StoreError: the store cannot be read.
            ValueError: a query of the wrong shape or dtype, or not finite.
        """
        rows = self._current()
        bias = with_plug(
            rows.bias, len(rows.keys) - 1, recency=recency, null_competes=null_competes
        )
        return pool(
            query,
            rows.keys,
            rows.values,
            scale=scale,
            bias=bias,
            n_threads=n_threads,
            weights=True,
        )

    def heaviest(self, weights: NDArray[np.float32], k: int) -> list[tuple[Note, float]]:
        """The ``k`` notes that weigh most, heaviest first; the null note is not among them.

        Args:
            weights: float32 [n+1] of the last `pool`.
            k: how many at most.

        Raises:
            NotesChangedError: the notes have changed since `pool`.
        """
        with self._reading():
            state = self._table.state()
            pooled = self._snapshot
            if not pooled or state.version != pooled.version or len(weights) != state.n_notes + 1:
                raise NotesChangedError(f"{self.path}: the notes changed after pooling; pool again")
            rows = 1 + np.argsort(-weights[1:], kind="stable")[:k]
            return [(self._table.note_at(int(row)), float(weights[row])) for row in rows]

    def version(self) -> int:
        """A number that grows with every change of what the store answers."""
        with self._reading():
            return self._table.state().version

    def sample(self, count: int) -> tuple[int, list[Note]]:
        """Up to ``count`` notes, spread evenly over the store's order; muted ones are left out.

        Returns:
            The version that they are of, and the notes in order.
        """
        with self._reading(), self._table.snapshot():
            state = self._table.state()
            muted = {row for row, mark in self._table.marks() if mark == MUTE}
            rows = [row for row in range(1, state.n_notes + 1) if row not in muted]
            # The last note is always among them.
            picks = np.linspace(len(rows) - 1, 0, min(count, len(rows))).round().astype(int)
            return state.version, [self._table.note_at(rows[i]) for i in reversed(picks.tolist())]

    def kept_prefix(self, key: str) -> bytes | None:
        """A model's state that `keep_prefix` kept under this key; None where there is none."""
        with self._reading():
            return PrefixFiles(self.path, self._table.state().generation).read(key)

    def keep_prefix(self, key: str, version: int, state: bytes) -> bool:
        """Keep a model's state of this store's notes beside them, to go when any of them goes.

        Args:
            key: 64 hex digits, of all that the state hangs on.
            version: of the notes that it was made of.
            state: any bytes.

        Returns:
            Whether it was kept; not where the store cannot be written, is being changed, or is of
            another version by now.
        """
        if not self._writable:
            return False
        try:
            with writing(self.path, 0.0) as writer:
                writer.keep_prefix(key, version, state)
                return writer.state.version == version
        except StoreError:
            return False  # It is only kept to be quick.

    def bias(self) -> NDArray[np.float32] | None:
        """Additive score bias float32 [n+1] of pinned and muted notes; None if there are none."""
        return self._current().bias

    def marks(self) -> dict[str, int]:
        """`PIN` or `MUTE` by id or handle, of the notes that have one."""
        with self._reading():
            return {handle(self._table.note_at(row)): mark for row, mark in self._table.marks()}

    def stats(self) -> Stats:
        """The store in figures."""
        with self._reading():
            state = self._table.state()
            text_bytes, with_id, earliest, latest = self._table.totals()
            marks = [mark for _, mark in self._table.marks()]
            disk_bytes = sum(entry.stat().st_size for entry in self.path.iterdir())
        layout = state.layout
        return Stats(
            path=str(self.path),
            notes=state.n_notes,
            notes_with_id=with_id,
            pinned=marks.count(PIN),
            muted=marks.count(MUTE),
            earliest=earliest,
            latest=latest,
            text_bytes=text_bytes,
            disk_bytes=disk_bytes,
            d_key=layout.d_key,
            d_value=layout.d_value,
            encoder_sha256=layout.encoder_sha256,
            plug_sha256=layout.plug_sha256,
            erased=not state.erasing,
        )

    def store_hash(self) -> str:
        """SHA-256 (hex) of what the store answers with: plug, notes, vectors, marks, in order.

        Two stores that hold the same have the same hash, whatever their past.
        """
        with self._reading():
            layout = self._table.state().layout
            total = hashlib.sha256(repr(layout).encode())
            for page in self._table.checksums():
                total.update(repr(page).encode())
        return total.hexdigest()

    def export(self, out: IO[str]) -> int:
        """Write the notes as JSON Lines that `read_notes` reads back to the same notes.

        Returns:
            The number of notes written.
        """
        n_notes = 0
        for note in self.notes():
            out.write(note_line(note) + "\n")
            n_notes += 1
        return n_notes

    # --- changing ---

    def add(
        self, notes: Iterable[Note], encode: Encode, *, progress: Progress | None = None
    ) -> ChangeReport:
        """Add notes; those already there stay, those with a known id and new content change.

        New notes are committed as they are encoded, every second or so: an interrupted `add`
        keeps them, and going on encodes only the rest.

        Args:
            notes: read once, as needed; an error that it raises ends the call.
            encode: encodes notes in the store's space.
            progress: called as notes are done.

        Raises:
            StoreError: another writer, no room, bad vectors; what was committed stays.
        """
        with self._encoding() as writer:
            return writer.add(notes, encode, progress or _silent)

    def sync(
        self, notes: Iterable[Note], encode: Encode, *, progress: Progress | None = None
    ) -> ChangeReport:
        """Make the store hold exactly ``notes``, in their order.

        Only new or changed notes are encoded. What falls out is erased as by `forget`.

        Args:
            notes: read to its end before anything changes.
            encode: encodes notes in the store's space.
            progress: called as notes are done.

        Raises:
            StoreError: as `add`; also two notes with one id and different content.
        """
        with self._encoding() as writer:
            return writer.sync(notes, encode, progress or _silent)

    def forget(
        self,
        *,
        ids: Collection[str] | None = None,
        text: str | None = None,
        before: float | None = None,
        after: float | None = None,
        everything: bool = False,
    ) -> Receipt:
        """Forget the notes that meet every criterion given.

        When this returns, the store answers bit for bit as one that never held them, and no
        byte of their text or vectors is left in any file of the folder.

        Args:
            ids: ids or ``sha256:`` handles; each must name a note.
            text: appears in input or output, upper and lower case alike.
            before: written before this moment (Unix seconds).
            after: written at or after this moment (Unix seconds).
            everything: forget all notes; excludes the other criteria.

        Raises:
            StoreError: no criterion, an empty text, an unknown id, another writer, or a failing
                disk.
        """
        criteria = (ids, text, before, after)
        if everything != all(criterion is None for criterion in criteria):
            raise StoreError("say what to forget: ids, text, before, after, or else everything")
        if text == "":
            raise StoreError("the text to forget by is empty; every note holds that")
        with self._changing() as writer:
            store_before = self.store_hash()
            doomed = list(writer.table.select(Selection(*criteria)))
            if doomed:
                writer.forget(num for num, _ in doomed)
            else:
                writer.drop_staged()
            return Receipt(
                ids=tuple(handle(note) for _, note in doomed),
                time=datetime.now(UTC).isoformat(timespec="seconds"),
                store_before=store_before,
                store_after=self.store_hash(),
                notes=len(self),
            )

    def pin(self, name: str) -> None:
        """Let a note weigh as much as `PIN_WEIGHT` notes like it."""
        self._mark(name, PIN)

    def mute(self, name: str) -> None:
        """Keep a note, but give it no weight."""
        self._mark(name, MUTE)

    def unmark(self, name: str) -> None:
        """Undo `pin` or `mute`."""
        self._mark(name, 0)

    def verify(self) -> list[Problem]:
        """Read everything, and return what is wrong; an empty list means that all is well."""
        with self._reading():
            while True:
                version = self._table.state().version
                problems = find_problems(self.path, self._table, self._space)
                # Rows that a writer replaced meanwhile look damaged, and are not.
                if not problems or self._table.state().version == version:
                    return problems

    def repair(self, encode: Encode, *, progress: Progress | None = None) -> int:
        """Encode damaged rows anew from the text; all rows, if the store was another plug's.

        Returns:
            The number of notes encoded.

        Raises:
            StoreError: as `add`.
        """
        if self._space is None:
            raise StoreError("repairing needs the plug; open the store with its space")
        with self._changing(damaged=True) as writer:
            problems = find_problems(self.path, writer.table, self._space)
            bad_rows = {problem.row for problem in problems if problem.row}
            if not any(problem.repairable for problem in problems):
                return 0
            return writer.repair(bad_rows, encode, self._space, progress or _silent)

    # --- inside ---

    def _mark(self, name: str, mark: int) -> None:
        with self._changing() as writer:
            writer.mark(writer.table.resolve(name), mark)

    @contextmanager
    def _reading(self) -> Iterator[None]:
        with self._mutex, sqlite_errors(self._table.path), disk_errors(self.path):
            yield

    @contextmanager
    def _changing(self, *, damaged: bool = False) -> Iterator[StoreWriter]:
        if not self._writable:
            raise StoreError(f"{self.path}: the store is open for reading only")
        self._snapshot = None  # A mapped file cannot be removed on every system.
        with writing(self.path, self._wait, damaged=damaged) as writer:
            yield writer

    @contextmanager
    def _encoding(self) -> Iterator[StoreWriter]:
        if self._space is None:
            raise StoreError("adding notes needs the plug; open the store with its space")
        with self._changing() as writer:
            check_fit(self.path, writer.state, self._space)
            yield writer

    def _current(self) -> _Snapshot:
        """The rows as last committed, mapped; kept until the next commit."""
        with self._reading():
            # Another thread may drop the snapshot at any time, so it is looked at once.
            rows = self._snapshot
            while rows is None or rows.version != self._table.state().version:
                rows = self._mapped()
            self._snapshot = rows
            return rows

    def _mapped(self) -> _Snapshot | None:
        """The rows, mapped; None if a writer changed the store in the middle of it."""
        state, files, problem = current_rows(self.path, self._table)
        check_fit(self.path, state, self._space)
        if problem:
            raise damaged_rows(problem)
        try:
            keys, values = files.map(state.n_notes + 1)
        except FileNotFoundError:
            if self._table.state().version == state.version:
                raise
            return None
        marks = self._table.marks()
        # Marks of a later version would name other rows.
        if self._table.state().version != state.version:
            return None
        return _Snapshot(state.version, keys, values, of_marks(marks, state.n_notes))


def _silent(done: int, total: int | None) -> None:
    """Show no progress."""
