"""What happens when a persona store is opened: creation, checks, clearing up."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from ppedge.errors import StoreError
from ppedge.store.database import sqlite_errors
from ppedge.store.files import disk_errors, make_private_directory
from ppedge.store.rows import Layout, RowFiles, Space
from ppedge.store.sql_read import FILE_NAME, State
from ppedge.store.sql_write import NotesTable
from ppedge.store.writer import create_store, file_versions, writing

_SQLITE_FILES = tuple(FILE_NAME + end for end in ("", "-journal", "-wal", "-shm"))
_OWN_FILES = ("lock", *_SQLITE_FILES, "keys.0", "values.0")


def open_table(folder: Path) -> NotesTable:
    """Connect for reading, in a way that fits whether the folder can be written."""
    return NotesTable(folder, "read" if os.access(folder, os.W_OK) else "read-only")


def is_made(folder: Path) -> bool:
    """Whether there is a database with anything in it; a creation cut short leaves none."""
    path = folder / FILE_NAME
    with disk_errors(path):
        if not path.exists() or not path.stat().st_size:
            return False
    table = open_table(folder)
    try:
        with sqlite_errors(path):
            return table.is_made
    finally:
        table.close()


def make_store(folder: Path, space: Space, wait: float) -> None:
    """Make an empty store in ``folder``, which is new, empty, or a creation cut short.

    Raises:
        StoreError: the folder holds other files, or cannot be written.
    """
    with disk_errors(folder):
        make_private_directory(folder)
        strangers = [entry.name for entry in folder.iterdir() if entry.name not in _OWN_FILES]
        if strangers:
            raise StoreError(
                f"{folder}: holds other files ({strangers[0]}); choose an empty folder"
            )
    create_store(folder, space, wait)


def current_rows(folder: Path, table: NotesTable) -> tuple[State, RowFiles, str]:
    """The committed state, its row files, and what is wrong with them ("" if nothing)."""
    while True:
        state = table.state()
        rows = RowFiles(folder, state.file_version, state.layout)
        problem = rows.problem(state.n_notes + 1)
        # A writer may have replaced the files between the two looks.
        if not problem or table.state().file_version == state.file_version:
            return state, rows, problem


def check_fit(folder: Path, state: State, space: Space | None) -> None:
    """Refuse a store that was made for another plug than ``space``'s (None fits all)."""
    if space is None or space.fits(state.layout):
        return
    raise StoreError(
        f"{folder}: made for {_name(state.layout)}, but this is {_name(space.layout)}; open it "
        "with its own plug, or run `ppedge notes repair` to encode the notes for this one"
    )


def _name(layout: Layout) -> str:
    return f"plug {layout.plug_sha256[:12]} (encoder {layout.encoder_sha256[:12]}, " + (
        f"d_key {layout.d_key}, d_value {layout.d_value})"
    )


def tidy(folder: Path, state: State) -> None:
    """Clear away what an interrupted writer left, unless another one is at work."""
    rows = RowFiles(folder, state.file_version, state.layout)
    with suppress(StoreError, FileNotFoundError):
        left_over = (
            state.erasing
            or file_versions(folder) != {state.file_version}
            or not rows.is_exactly(state.n_notes + 1)
        )
        if left_over:
            with writing(folder, timeout=0):
                pass
