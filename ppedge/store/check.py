"""Finding what is wrong with a persona store; see `Persona.verify`."""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

from ppedge.store.files import DIRECTORY_MODE, FILE_MODE
from ppedge.store.reports import Problem
from ppedge.store.rows import RowFiles, Space
from ppedge.store.sql_read import State, handle, identity
from ppedge.store.sql_write import NotesTable


def find_problems(folder: Path, table: NotesTable, space: Space | None) -> list[Problem]:
    """Check modes, SQLite, row file, and every note and row.

    Args:
        folder: the store.
        table: its notes.
        space: the plug's space, or None to take the store's own.

    Returns:
        The problems, most general first.
    """
    with table.snapshot():
        return [*mode_problems(folder), *_inside(folder, table, space)]


def _inside(folder: Path, table: NotesTable, space: Space | None) -> list[Problem]:
    if damage := table.integrity():
        advice = "move the folder away and add the notes again"
        return [Problem(f"{table.path}: {line}; {advice}") for line in damage]
    state = table.state()
    problems = [*_erasing(state), *_texts(table)]
    if space and not space.fits(state.layout):
        return [*problems, Problem("the store belongs to another plug", repairable=True)]
    return [*problems, *_rows(folder, table, state)]


def mode_problems(folder: Path) -> Iterator[Problem]:
    """Yield one for each file of a store, and its folder, that others can read."""
    if os.name != "posix":
        return
    for path, wanted in [(folder, DIRECTORY_MODE), *((f, FILE_MODE) for f in folder.iterdir())]:
        try:
            mode = path.stat().st_mode & 0o777
        except FileNotFoundError:
            continue  # A writer has removed it meanwhile.
        if mode & ~wanted:
            yield Problem(f"{path} has mode {mode:04o}: others can read it; chmod {wanted:o} it")


def _erasing(state: State) -> Iterator[Problem]:
    if state.erasing:
        yield Problem("removed text is not erased yet; open the store again to finish")


def _rows(folder: Path, table: NotesTable, state: State) -> Iterator[Problem]:
    files = RowFiles(folder, state.file_version, state.layout)
    if problem := files.problem(state.n_notes + 1):
        yield Problem(problem, repairable=True)
    complete = files.complete_rows(state.n_notes + 1)
    keys, values = files.map(complete) if complete else ((), ())

    def is_damaged(row: int, crc: int) -> bool:
        return row >= complete or zlib.crc32(values[row], zlib.crc32(keys[row])) != crc

    if is_damaged(0, state.null_crc):
        yield Problem("row 0: the vectors of the null note are damaged", repairable=True)
    for row, crc, *_ in chain.from_iterable(table.checksums()):
        if is_damaged(row, crc):
            name = handle(table.note_at(row))
            yield Problem(f"row {row}: the vectors of note {name} are damaged", row, True)


def _texts(table: NotesTable) -> Iterator[Problem]:
    pages = chain.from_iterable(table.checksums())
    stored = ((key, digest) for _, _, key, digest, *_ in pages)
    broken = {table.note_at(row) for row in table.wrong_metadata()}
    for (_, note), (key, digest) in zip(table.walk(), stored, strict=True):
        sound = identity(note) == key and bytes.fromhex(note.digest) == digest
        if not sound or (broken and note in broken):  # Hashing a note takes a while.
            yield Problem(f"note {handle(note)} is damaged; forget it, and add it again")
