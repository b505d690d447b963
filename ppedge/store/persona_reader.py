"""Reading one person's notes on disk, and what they say to a query."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ppedge.attention.bias import MUTE, PIN, of_marks, with_plug
from ppedge.attention.pooling import Pooled, heaviest_rows, pool
from ppedge.closable import Closable
from ppedge.errors import StoreError
from ppedge.notes.reader import Note, note_line
from ppedge.store.check import find_problems, mode_problems
from ppedge.store.database import has_log, sqlite_errors
from ppedge.store.files import disk_errors
from ppedge.store.opening import check_fit, current_rows
from ppedge.store.prefix_files import Kind, PrefixFiles
from ppedge.store.reports import Problem, Stats
from ppedge.store.rows import Layout, RowFiles, Space
from ppedge.store.scope import Scope
from ppedge.store.sql_read import Selection, State, handle
from ppedge.store.sql_write import NotesTable
from ppedge.store.stamps import CheckedFile, SyncedFile, files_digest
from ppedge.store.writer import damaged_rows


class NotesChangedError(StoreError):
    """The notes are no longer those that were pooled; pool again."""


class Sample(NamedTuple):
    """Some of a person's notes.

    Attributes:
        version: of the store that they are of.
        notes: in the store's order.
        pinned: indices of those among them that are pinned.
    """

    version: int
    notes: list[Note]
    pinned: frozenset[int] = frozenset()


@dataclass(frozen=True, eq=False, slots=True)
class _Snapshot:
    """The rows of one version, mapped: keys [n+1, d_k], values [n+1, d_v], bias [n+1] or None."""

    version: int
    keys: NDArray[np.float16]
    values: NDArray[np.float16]
    bias: NDArray[np.float32] | None


class PersonaReader(Closable):
    """What a `Persona` can be asked; sees the last committed state, whoever else changes it."""

    def __init__(
        self, folder: Path, table: NotesTable, space: Space | None, *, writable: bool, wait: float
    ) -> None:
        """Use `Persona.open` instead."""
        self.path = folder
        self._table = table
        self._space = space
        self._writable = writable
        self._wait = wait
        self._keeps = writable
        self._mutex = threading.Lock()
        self._snapshot: _Snapshot | None = None
        self._scopes: tuple[Scope, ...] = ()
        self._scoped: tuple[int, Sequence[int]] | None = None

    def close(self) -> None:
        """Let go of the files; the store cannot be used afterwards."""
        with self._mutex:
            self._snapshot = None
            self._table.close()

    def __len__(self) -> int:
        """Number of notes."""
        with self._reading(), self._table.snapshot():
            return len(self._rows())

    @property
    def scope_key(self) -> str:
        """What tells a view of some notes from one of others; "" of all notes."""
        return "+".join(sorted({scope.key for scope in self._scopes} - {""}))

    @property
    def layout(self) -> Layout:
        """Whose vectors the store holds."""
        with self._reading():
            return self._table.state().layout

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
            chosen = Selection(ids, text, before, after, self._scopes)
            for _, note in self._table.select(chosen):
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
        """The ``k`` notes that weigh most, heaviest first; no muted one, and not the null note.

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
            rows = heaviest_rows(weights, pooled.bias, k)
            return [(self._table.note_at(int(row)), float(weights[row])) for row in rows]

    def version(self) -> int:
        """A number that grows with every change of what the store answers."""
        with self._reading():
            return self._table.state().version

    def sample(self, count: int) -> Sample:
        """Up to ``count`` notes: the pinned ones, and others spread evenly over the store's order.

        Muted notes are left out. Of more pinned notes than ``count``, the last ones count.
        """
        with self._reading(), self._table.snapshot():
            marks = dict(self._table.marks())
            rows = [row for row in self._rows() if marks.get(row) != MUTE]
            pinned = [row for row in rows if marks.get(row) == PIN][-count:] if count else []
            others = [row for row in rows if marks.get(row) != PIN]
            n_others = min(count - len(pinned), len(others))
            # The last note is always among them.
            picks = np.linspace(len(others) - 1, 0, n_others).round().astype(int)
            chosen = sorted([*pinned, *(others[i] for i in picks.tolist())])
            return Sample(
                self._table.state().version,
                [self._table.note_at(row) for row in chosen],
                frozenset(i for i, row in enumerate(chosen) if marks.get(row) == PIN),
            )

    def kept_prefix(self, key: str, kind: Kind = "prefix") -> memoryview | None:
        """What `keep_prefix` kept under this key; None where there is none."""
        with self._reading():
            files = PrefixFiles(self.path, self._table.state().file_version)
            return files.read(kind, key, used=self._keeps)

    def is_synced(self, content: str) -> bool:
        """Whether `Persona.sync` was told of this content, and nothing has changed since."""
        with self._reading():
            state = self._table.state()
            return SyncedFile(self.path, state.file_version).says(state.version, content)

    def bias(self) -> NDArray[np.float32] | None:
        """Additive score bias float32 [n+1] of pinned and muted notes; None if there are none."""
        return self._current().bias

    def marks(self) -> dict[str, int]:
        """`PIN` or `MUTE` by id or handle, of the notes that have one."""
        with self._reading():
            marks = self._marks()
            return {handle(self._table.note_at(row)): mark for row, mark in marks.items()}

    def followed(self, origin: str) -> dict[bytes, str]:
        """Sources of the notes that `Persona.follow` keeps in step with a folder, by identity."""
        with self._reading():
            return {key: source for _, key, source in self._table.followed(origin)}

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
            if abouts := self._table.abouts():
                total.update(repr(abouts).encode())
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

    def verify(self) -> list[Problem]:
        """Read everything, and return what is wrong; an empty list means that all is well."""
        with self._reading():
            while True:
                version = self._table.state().version
                problems = find_problems(self.path, self._table, self._space)
                # Rows that a writer replaced meanwhile look damaged, and are not.
                if not problems or self._table.state().version == version:
                    return problems

    def verify_changed(self) -> list[Problem]:
        """Do as `verify`, but read no file if none has changed since it last found all well.

        It goes by the files' sizes and times, which a disk that fails by itself does not change.
        """
        with self._reading():
            state = self._table.state()
        checked, before = CheckedFile(self.path, state.file_version), self._files(state)
        if before and checked.says(state.version, before):
            return list(mode_problems(self.path))
        problems = self.verify()
        if not problems and before and self._keeps and before == self._files(state):
            with suppress(StoreError):  # It is then read once more.
                checked.write(state.version, before)
        return problems

    # --- inside ---

    def _files(self, state: State) -> str:
        """Digest of the files that `verify` reads; "" where it is not certain."""
        if has_log(self._table.path):
            return ""  # SQLite writes it into the database whenever it likes.
        rows = RowFiles(self.path, state.file_version, state.layout)
        return files_digest([self._table.path, *rows.paths])

    @contextmanager
    def _reading(self) -> Iterator[None]:
        with self._mutex, sqlite_errors(self._table.path), disk_errors(self.path):
            yield

    def _rows(self) -> Sequence[int]:
        """Rows of the notes that there are for this view, ascending."""
        state = self._table.state()
        if not self._scopes:
            return range(1, state.n_notes + 1)
        if self._scoped is None or self._scoped[0] != state.version:
            self._scoped = state.version, self._table.scoped_rows(self._scopes)
        return self._scoped[1]

    def _marks(self) -> dict[int, int]:
        """Marks by row, of the notes that there are for this view."""
        marks = self._table.marks()
        held = set(self._rows()) if self._scopes else None
        return {row: mark for row, mark in marks if held is None or row in held}

    def _bias(self, n_notes: int) -> NDArray[np.float32] | None:
        """The bias of marks; what lies outside of this view is as good as muted."""
        marks = self._marks()
        if self._scopes:
            held = set(self._rows())
            marks |= {row: MUTE for row in range(1, n_notes + 1) if row not in held}
        return of_marks(sorted(marks.items()), n_notes)

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
        bias = self._bias(state.n_notes)
        # Marks of a later version would name other rows.
        if self._table.state().version != state.version:
            return None
        return _Snapshot(state.version, keys, values, bias)
