"""`Persona`: one person's notes on disk, and what they say to a prompt."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from weakref import WeakSet

from ppedge.attention.bias import MUTE, PIN, PIN_WEIGHT
from ppedge.errors import StoreError
from ppedge.notes.reader import Note
from ppedge.store.check import find_problems
from ppedge.store.database import sqlite_errors
from ppedge.store.encode import Encode, Progress
from ppedge.store.files import disk_errors
from ppedge.store.following import follow
from ppedge.store.opening import check_fit, current_rows, is_made, make_store, open_table, tidy
from ppedge.store.persona_reader import NotesChangedError, PersonaReader, Sample
from ppedge.store.prefix_files import Kind
from ppedge.store.reports import ChangeReport, Problem, Receipt, Stats
from ppedge.store.rows import Space
from ppedge.store.scope import Scope
from ppedge.store.sql_read import Selection, handle
from ppedge.store.sql_write import NotesTable
from ppedge.store.writer import StoreWriter, damaged_rows, writing

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
    "Sample",
    "Scope",
    "Space",
    "Stats",
    "handle",
]


class Persona(PersonaReader):
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
        """Use `Persona.open` instead."""
        super().__init__(folder, table, space, writable=writable, wait=wait)
        self._views: WeakSet[Persona] = WeakSet()

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
        self,
        notes: Iterable[Note],
        encode: Encode,
        *,
        progress: Progress | None = None,
        content: Callable[[], str] = str,
    ) -> ChangeReport:
        """Make the store hold exactly ``notes``, in their order.

        Only new or changed notes are encoded. What falls out is erased as by `forget`.

        Args:
            notes: read to its end before anything changes.
            encode: encodes notes in the store's space.
            progress: called as notes are done.
            content: called at the end; gives the digest of the file that ``notes`` came from, by
                which `is_synced` will know it again, or "".

        Raises:
            StoreError: as `add`; also two notes with one id and different content.
        """
        with self._encoding() as writer:
            return writer.sync(notes, encode, progress or _silent, content)

    def follow(
        self,
        origin: str,
        notes: Iterable[Note],
        encode: Encode,
        *,
        gone: Collection[bytes] = (),
        progress: Progress | None = None,
    ) -> tuple[ChangeReport, list[Note]]:
        """Keep in step with a folder: add and change its notes, and forget those that left it.

        Notes that came from elsewhere are neither changed nor forgotten, except that a note whose
        id is its source is the file's own, and is the folder's from now on.

        Args:
            origin: the folder, by its full path.
            notes: new or changed.
            encode: encodes notes in the store's space.
            gone: identities, as of `followed`, of notes that are there no more.
            progress: called as notes are done.

        Returns:
            What was done, and which of ``notes`` are the same as others that came from elsewhere.

        Raises:
            StoreError: as `add`; what was committed stays.
        """
        with self._encoding() as writer:
            return follow(writer, origin, notes, encode, gone, progress or _silent)

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

    def pin(self, *names: str) -> None:
        """Have notes always among the turns, and weigh as much as `PIN_WEIGHT` notes like them.

        Args:
            names: ids or ``sha256:`` handles; all are marked, or none.

        Raises:
            StoreError: no note, or more than one, goes by a name; or another writer.
        """
        self._mark(names, PIN)

    def mute(self, *names: str) -> None:
        """Keep notes, but let them bear on nothing; see `pin`."""
        self._mark(names, MUTE)

    def unmark(self, *names: str) -> None:
        """Undo `pin` or `mute`; see `pin`."""
        self._mark(names, 0)

    def scoped(self, scope: Scope) -> Persona:
        """A view of some of the notes, for answers: as if the others were not there.

        It can be given wherever a persona is answered from. It is for reading only and, like the
        notes in it, follows every change of the store; what it says of the files (`get`, `stats`,
        `verify`, `store_hash`) is of the whole store. It ends with this persona, and closing it
        does nothing. A view of a view holds the notes of both.

        Args:
            scope: which notes.
        """
        view = _View(self.path, self._table, self._space, writable=False, wait=self._wait)
        view._scopes = (*self._scopes, scope)
        view._mutex, view._keeps, view._views = self._mutex, self._keeps, self._views
        self._views.add(view)
        return view

    def keep_prefix(self, key: str, version: int, state: bytes, kind: Kind = "prefix") -> bool:
        """Keep what was made of this store's notes beside them, to go when any of them goes.

        Args:
            key: 64 hex digits, of all that it hangs on.
            version: of the notes that it was made of.
            state: any bytes.
            kind: a model's state behind turns, or what was counted of a person's manner.

        Returns:
            Whether it was kept; not where the store cannot be written, is being changed, or is of
            another version by now.
        """
        if not self._keeps:
            return False
        try:
            with writing(self.path, 0.0) as writer:
                writer.keep_prefix(kind, key, version, state)
                return writer.state.version == version
        except StoreError:
            return False  # It is only kept to be quick.

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

    def _mark(self, names: Collection[str], mark: int) -> None:
        if names:
            with self._changing() as writer:
                writer.mark([writer.table.resolve(name) for name in names], mark)

    @contextmanager
    def _changing(self, *, damaged: bool = False) -> Iterator[StoreWriter]:
        if not self._writable:
            raise StoreError(f"{self.path}: the store is open for reading only")
        for reader in (self, *self._views):
            reader._snapshot = None  # A mapped file cannot be removed on every system.
        with writing(self.path, self._wait, damaged=damaged) as writer:
            yield writer

    @contextmanager
    def _encoding(self) -> Iterator[StoreWriter]:
        if self._space is None:
            raise StoreError("adding notes needs the plug; open the store with its space")
        with self._changing() as writer:
            check_fit(self.path, writer.state, self._space)
            yield writer


class _View(Persona):
    """Some notes of a `Persona`, which holds what must be closed."""

    def close(self) -> None:
        """Let go of what was mapped; it comes back when it is needed."""
        self._snapshot = None


def _silent(done: int, total: int | None) -> None:
    """Show no progress."""
