"""One file with all that a person put into a persona: what `Profiles.export` writes.

A .zip without compression, with two members: ``notes.jsonl``, as `read_notes` reads it, and
``settings.json``, which names the pinned and the muted notes. Vectors are not in it: another
machine's plug may be another. What comes in is hostile until it is read; nothing is unpacked to
the disk, and no name in the archive is ever a path.
"""

from __future__ import annotations

import io
import json
import os
import re
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final, NoReturn

from ppedge.errors import HistoryError, StoreError
from ppedge.notes.importers.archives import is_zip, texts
from ppedge.notes.importers.files import MAX_BYTES
from ppedge.notes.reader import Note, note_line, read_notes
from ppedge.store.files import ANOTHER_FILE, disk_errors, sync_directory
from ppedge.store.opening import is_made
from ppedge.store.persona import MUTE, PIN, Persona, handle

_FORMAT: Final = "ppedge persona 1"
_NOTES: Final = "notes.jsonl"
_SETTINGS: Final = "settings.json"
_LONG_AGO: Final = (1980, 1, 1, 0, 0, 0)  # When it was written is nobody's business.


@dataclass(frozen=True, slots=True)
class Archive:
    """What an archive holds.

    Attributes:
        notes: in order.
        pinned, muted: ids or handles of some of them.
    """

    notes: list[Note]
    pinned: list[str]
    muted: list[str]


def write_archive(folder: Path, path: Path) -> int:
    """Write the store in ``folder`` to ``path``, whole or not at all.

    Returns:
        The number of notes written.

    Raises:
        StoreError: ``path`` is there already, the notes are too many, or the disk refuses.
    """
    if os.path.lexists(path):
        raise StoreError(f"{path}: there is a file of that name; choose another, or remove it")
    archive = _held(folder)
    notes = "".join(note_line(note) + "\n" for note in archive.notes).encode()
    if len(notes) > MAX_BYTES:
        raise StoreError(
            f"{folder}: more than {MAX_BYTES >> 20} MB of notes; "
            "write them alone with `ppedge notes export`"
        )
    settings = {
        "format": _FORMAT,
        "notes": len(archive.notes),
        "pinned": archive.pinned,
        "muted": archive.muted,
    }
    with _whole(path) as file, zipfile.ZipFile(file, "w") as out:
        for name, data in ((_SETTINGS, json.dumps(settings).encode()), (_NOTES, notes)):
            out.writestr(zipfile.ZipInfo(name, _LONG_AGO), data)
    return len(archive.notes)


def _held(folder: Path) -> Archive:
    """What a store holds, all of one moment."""
    if not is_made(folder):
        return Archive([], [], [])
    with Persona.open(folder, create=False, read_only=True) as persona:
        while True:
            version = persona.version()
            notes, marks = list(persona.notes()), persona.marks()
            if persona.version() == version:
                break
    names = {mark: [name for name, each in marks.items() if each == mark] for mark in (PIN, MUTE)}
    return Archive(notes, names[PIN], names[MUTE])


@contextmanager
def _whole(path: Path) -> Iterator[IO[bytes]]:
    """A new private file that gets its name when it is complete."""
    with disk_errors(path, ANOTHER_FILE):
        number, name = tempfile.mkstemp(prefix=f".{path.name[:60]}.", dir=path.parent)
        part = Path(name)
        try:
            with os.fdopen(number, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            part.replace(path)
            sync_directory(path.parent)
        finally:
            with suppress(OSError):
                part.unlink(missing_ok=True)


def read_archive(path: Path) -> Archive:
    """Read what `write_archive` wrote, all of it, before anything is made of it.

    Raises:
        StoreError: it cannot be read, is damaged, too large, or something else.
    """
    try:
        if not path.exists():
            raise StoreError(f"{path}: no such file; name one of `ppedge persona export`")
        if not is_zip(path):
            raise StoreError(f"{path}: not an archive of `ppedge persona export`")
        settings = _settings(path, _member(path, _SETTINGS))
        where = f"{path}, {_NOTES}"
        notes = list(read_notes(io.StringIO(_member(path, _NOTES)), name=where))
    except HistoryError as error:
        raise StoreError(str(error)) from None
    pinned, muted = (_names(path, settings, field) for field in ("pinned", "muted"))
    if settings.get("notes") != len(notes):
        _refuse(path, f"it should hold {settings.get('notes')!r} notes, and holds {len(notes)}")
    known = {handle(note) for note in notes}
    if strangers := {*pinned, *muted} - known:
        _refuse(path, f"it marks a note that it does not hold ({min(strangers)[:40]!r})")
    if both := set(pinned) & set(muted):
        _refuse(path, f"a note is both pinned and muted ({min(both)[:40]!r})")
    return Archive(notes, pinned, muted)


def _member(path: Path, name: str) -> str:
    found = [text for _, text in texts(path, re.compile(rf"\A{re.escape(name)}\Z"))]
    if len(found) > 1:
        _refuse(path, f"it holds {name} twice")
    return found[0]


def _settings(path: Path, text: str) -> dict[str, Any]:
    try:
        settings = json.loads(text)
    except (ValueError, RecursionError):
        settings = None
    if not isinstance(settings, dict):
        _refuse(path, f"{_SETTINGS} is no JSON object")
    if settings.get("format") != _FORMAT:
        _refuse(path, f'{_SETTINGS} does not say "format": "{_FORMAT}"')
    return settings


def _names(path: Path, settings: dict[str, Any], field: str) -> list[str]:
    names = settings.get(field, [])
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        _refuse(path, f'{_SETTINGS}: "{field}" is no list of ids')
    return names


def _refuse(path: Path, what: str) -> NoReturn:
    raise StoreError(f"{path}: {what}; export the persona again")
