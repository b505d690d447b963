"""The kept personas: folders of notes side by side, known by name.

A persona is made, renamed and deleted in one step of the file system, so that a killed process
leaves the old or the new. What is on its way in or out lies in a folder whose name begins with a
dot (`ppedge.store.temporary`); what a killed process leaves of those goes with the next change.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from ppedge.errors import StoreError
from ppedge.store.archive import read_archive, write_archive
from ppedge.store.encode import Encode, Progress
from ppedge.store.files import (
    DIRECTORY_MODE,
    disk_errors,
    make_private_directory,
    name_from_disk,
    name_on_disk,
    sync_directory,
    writer_lock,
)
from ppedge.store.persona import ChangeReport, Persona, Space
from ppedge.store.temporary import sweep, temporary_folder

MAX_NAME_CHARACTERS: Final = 64
_MAX_NAME_BYTES: Final = 200  # file systems end at 255
_HIDDEN: Final = ".ppedge-"
_LOCK: Final = ".lock"
_SECONDS: Final = 5.0
# Devices on Windows, whatever follows their dot.
_RESERVED: Final = re.compile(r"(?:con|prn|aux|nul|com\d|lpt\d) *(?:\..*)?")
_MARKS: Final = "-_. "


class Profiles:
    """The personas in one folder, by name. Upper and lower case are the same name.

    Args:
        root: the folder; it is made when the first persona is.
    """

    def __init__(self, root: Path) -> None:
        """Look at nothing yet."""
        self.root = root

    def names(self) -> list[str]:
        """The names of all personas, in order."""
        return sorted(self._folders(), key=_key)

    def folder(self, name: str) -> Path:
        """The folder of a persona, whether it is there yet or not.

        Raises:
            StoreError: that cannot be a name.
        """
        name = checked_name(name)
        return self._find(name) or self.root / name_on_disk(name)

    def has(self, name: str) -> bool:
        """Whether there is a persona of that name; not of what cannot be a name."""
        return self._find(unicodedata.normalize("NFC", name)) is not None

    def existing(self, name: str) -> Path:
        """The folder of a persona that is there.

        Raises:
            StoreError: there is none of that name, or that cannot be a name.
        """
        found = self._find(checked_name(name))
        if found is None:
            raise StoreError(f'no persona "{name}"; `ppedge persona list` names those there are')
        return found

    def create(self, name: str) -> Path:
        """Make a persona without notes; the plug that first opens it makes its store.

        Returns:
            Its folder.

        Raises:
            StoreError: the name is taken or cannot be one, or the disk refuses.
        """
        folder = self._free(name)
        with self._changing():
            self._free(name)
            with disk_errors(folder):
                folder.mkdir(mode=DIRECTORY_MODE)
                sync_directory(self.root)
        return folder

    def rename(self, name: str, new: str) -> Path:
        """Give a persona another name.

        Returns:
            Its new folder.

        Raises:
            StoreError: no such persona, the new name is taken or cannot be one, somebody is
                changing the persona, or the disk refuses.
        """
        with self._changing():
            folder = self.existing(name)
            other = self.root / name_on_disk(checked_name(new))
            if _key(name) != _key(new):
                self._free(new)
            with _at_rest(folder), disk_errors(folder):
                folder.rename(other)
                sync_directory(self.root)
        return other

    def delete(self, name: str) -> None:
        """Remove a persona with all that was made of it.

        From the first moment on it is gone from the names; a process that is killed in the middle
        leaves files that the next change of any persona removes.

        Raises:
            StoreError: no such persona, somebody is changing it, or the disk refuses.
        """
        with self._changing(), temporary_folder(self.root, _HIDDEN) as home:
            folder = self.existing(name)
            if folder.is_symlink():
                raise StoreError(
                    f"{folder} is a link; remove the folder that it points to, and then the link"
                )
            gone = home / "persona"
            with _at_rest(folder), disk_errors(folder):
                folder.rename(gone)
                sync_directory(self.root)
            with disk_errors(gone):
                shutil.rmtree(gone)

    def export(self, name: str, path: Path) -> int:
        """Write a persona's notes, and which of them are pinned or muted, to one file.

        Args:
            name: of the persona.
            path: a .zip that is not there yet; written whole or not at all.

        Returns:
            The number of notes in it.

        Raises:
            StoreError: no such persona, it is too large, or the disk refuses.
        """
        return write_archive(self.existing(name), path)

    def import_(
        self,
        path: Path,
        name: str,
        space: Space,
        encode: Encode,
        *,
        progress: Progress | None = None,
    ) -> ChangeReport:
        """Make a persona of what `export` wrote; it is there wholly or not at all.

        Args:
            path: the file.
            name: of the new persona.
            space: the plug's.
            encode: encodes notes in that space.
            progress: called as notes are done.

        Raises:
            StoreError: the name is taken or cannot be one, the file is damaged or no export, or
                the disk refuses.
        """
        folder = self._free(name)
        archive = read_archive(path)
        with disk_errors(self.root):
            make_private_directory(self.root)
        with temporary_folder(self.root, _HIDDEN) as home:
            made = home / "persona"
            with Persona.open(made, space) as persona:
                report = persona.add(archive.notes, encode, progress=progress)
                persona.pin(*archive.pinned)
                persona.mute(*archive.muted)
            with self._changing():
                self._free(name)
                with disk_errors(folder):
                    made.rename(folder)
                    sync_directory(self.root)
        return report

    # --- inside ---

    def _folders(self) -> dict[str, Path]:
        """Folders by name; what has no name that could be one is not a persona."""
        found: dict[str, Path] = {}
        with disk_errors(self.root):
            entries = sorted(self.root.iterdir()) if self.root.is_dir() else []
            for entry in entries:
                name = unicodedata.normalize("NFC", name_from_disk(entry.name))
                if not _problem(name) and entry.is_dir():
                    found[name] = entry
        return found

    def _find(self, name: str) -> Path | None:
        folders = self._folders()
        # Where the file system tells "Work" from "work", the very name counts first.
        same = [each for each in folders if _key(each) == _key(name)]
        return folders[name if name in same else same[0]] if same else None

    def _free(self, name: str) -> Path:
        """The folder of a name that nobody has."""
        name = checked_name(name)
        taken = self._find(name)
        if taken is not None:
            raise StoreError(
                f'there is a persona "{name_from_disk(taken.name)}" already; '
                "choose another name, or rename or delete that one"
            )
        folder = self.root / name_on_disk(name)
        if os.path.lexists(folder):
            raise StoreError(f"{folder} is in the way, and no folder; move it away")
        return folder

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """One change of names at a time; first, what killed processes left is cleared away."""
        with disk_errors(self.root):
            make_private_directory(self.root)
        with writer_lock(self.root / _LOCK, _SECONDS):
            sweep(self.root, _HIDDEN)
            yield


def checked_name(name: str) -> str:
    """A name as it is kept.

    Raises:
        StoreError: it cannot be one; one line says why.
    """
    name = unicodedata.normalize("NFC", name)
    if problem := _problem(name):
        shown = "".join(char if char.isprintable() else "?" for char in name[:80])
        raise StoreError(f'"{shown}" cannot be the name of a persona: {problem}')
    return name


def _problem(name: str) -> str:
    """Why a text cannot be a name on every file system; "" if it can."""
    if not name:
        return "it is empty"
    if odd := next((char for char in name if not _is_plain(char)), None):
        shown = odd if odd.isprintable() else f"U+{ord(odd):04X}"
        return f'it holds "{shown}"; use letters, digits, spaces and - _ .'
    problems = {
        f"it is longer than {MAX_NAME_CHARACTERS} characters": len(name) > MAX_NAME_CHARACTERS,
        f"it is longer than {_MAX_NAME_BYTES} bytes": len(name.encode()) > _MAX_NAME_BYTES,
        "it must begin with a letter or a digit": not name[0].isalnum(),
        "it must not end with a space or a dot": name[-1] in " .",
        "Windows keeps that name for itself": _RESERVED.fullmatch(_key(name)) is not None,
    }
    return next((problem for problem, found in problems.items() if found), "")


def _is_plain(char: str) -> bool:
    """Whether a character is one of a word in some script, or a mark that every system takes."""
    # Half a surrogate pair is of category Cs, and so is not.
    return char in _MARKS or unicodedata.category(char)[0] in "LMN"


def _key(name: str) -> str:
    """What two names have in common that some file system takes for one."""
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())


@contextmanager
def _at_rest(folder: Path) -> Iterator[None]:
    """Keep writers out of a persona for the block; on Windows only wait for them."""
    with writer_lock(folder / "lock", _SECONDS):
        if sys.platform != "win32":
            yield
            return
    # There a folder with an open file in it cannot be renamed.
    yield
