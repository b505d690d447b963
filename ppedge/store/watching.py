"""`FolderWatch`: keeps a persona in step with a folder of notes, one look at a time.

What may go wrong decides how it works. A file counts only when it rests, and wholly or not at all.
A file must be missing twice before its notes go. A folder that is missing, or without any note,
is more likely a drive that is not there than a wish, and nothing is forgotten.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Final

from ppedge.errors import HistoryError, StoreError
from ppedge.notes.importers.watched import (
    WATCHED_FORMATS,
    Look,
    Stamp,
    is_watched,
    look,
    read_watched,
    stamp_of,
)
from ppedge.notes.reader import Note
from ppedge.store.encode import Encode, Progress
from ppedge.store.opening import is_made
from ppedge.store.persona import ChangeReport, Persona, Space, handle
from ppedge.store.sql_read import identity

SETTLE_SECONDS: Final = 1.0
"""How old a change must be before a file is read."""

_TOLD: Final = 5

Tell = Callable[[str], None]


@dataclass(slots=True)
class _Known:
    """What is known of a folder; replaced as a whole when the store has taken it.

    Attributes:
        stamps: of the files as they were read last, also of those that could not be.
        notes: identity and content of the notes of each file that was read.
        clashed: files of which a note was passed over for another file's.
    """

    stamps: dict[str, Stamp] = field(default_factory=dict)
    notes: dict[str, dict[bytes, int]] = field(default_factory=dict)
    clashed: set[str] = field(default_factory=set)

    def copy(self) -> _Known:
        return _Known(dict(self.stamps), dict(self.notes), set(self.clashed))


class FolderWatch:
    """A folder, and the persona that follows it.

    Args:
        folder: of notes.
        persona: folder of the store; it is made if it is not there.
        space: the plug's.
        encode: encodes notes in that space.
        tell: is told, once each, what could not be done, in a line.
        formats: of `WATCHED_FORMATS`.

    Attributes:
        folder: by its full path.
        persona: folder of the store.
        restless: names of files that may still be written to, at the last look.
        failed: names of files that could not be read as they are.
        refused: whether nothing was forgotten because the folder is empty.

    Raises:
        HistoryError: the folder is not there.
        StoreError: the persona cannot be opened.
    """

    def __init__(
        self,
        folder: Path,
        persona: Path,
        space: Space,
        encode: Encode,
        tell: Tell,
        *,
        formats: tuple[str, ...] = WATCHED_FORMATS,
    ) -> None:
        """Find both there; nothing is read yet."""
        self.folder, self.persona = folder.resolve(), persona
        self._space, self._encode, self._say, self._formats = space, encode, tell, formats
        self._device = self._device_of_folder()
        self._known, self._last = _Known(), Look()
        self._looked = self._checked = False
        self._told: set[str] = set()
        self.restless: set[str] = set()
        self.failed: set[str] = set()
        self.refused = False
        Persona.open(persona, space).close()

    def step(self, progress: Progress | None = None) -> ChangeReport | None:
        """Look at the folder once, and do what is to be done.

        Args:
            progress: called as notes are done.

        Returns:
            What was done; None where there was nothing to do.

        Raises:
            HistoryError: the folder cannot be looked at; nothing is changed, try again.
            StoreError: the persona cannot be changed; try again, unless it is gone.
        """
        self._check_device()
        found, last = look(self.folder, self._formats), self._last
        known = self._known.copy()
        self.restless = self._restless(found)
        changed = [
            name
            for name, stamp in found.files.items()
            if name not in self.restless and known.stamps.get(name) != stamp
        ]
        gone = [name for name in known.stamps if self._is_gone(name, found, last)]
        self._last, may_forget = found, self._looked
        self._looked = True
        if not changed and not gone and self._checked:
            return None
        # What these had may be free for others now.
        changed += [name for name in known.clashed if name in found.files and name not in changed]
        known.clashed.clear()
        for name in gone:
            known.stamps.pop(name)
            known.notes.pop(name, None)
            self.failed.discard(name)
        fresh = self._read(changed, found, known)
        report = self._apply(fresh, found, known, may_forget=may_forget, progress=progress)
        self._known, self._checked = known, may_forget
        return report

    # --- the folder ---

    def _device_of_folder(self) -> int:
        try:
            if not self.folder.is_dir():
                raise HistoryError(f"{self.folder}: not a folder; name a folder of notes")
            return self.folder.stat().st_dev
        except OSError as error:
            raise HistoryError(f"{self.folder}: cannot be read: {error.strerror}") from None

    def _check_device(self) -> None:
        if self._device_of_folder() != self._device:
            raise HistoryError(
                f"{self.folder}: is on another drive than before; nothing is changed until it is "
                "back, or the watch is started again"
            )

    def _restless(self, found: Look) -> set[str]:
        """Names of files that may still be written to."""
        now = time.time_ns()

        def rests(name: str, stamp: Stamp) -> bool:
            if stamp.mtime_ns > now:  # Another machine's clock.
                return self._last.files.get(name) == stamp
            return now - stamp.mtime_ns >= SETTLE_SECONDS * 1e9

        return {name for name, stamp in found.files.items() if not rests(name, stamp)}

    @staticmethod
    def _is_gone(name: str, found: Look, last: Look) -> bool:
        """Whether a file was missing twice: an editor may replace a file by another."""
        hidden = name.startswith(tuple(found.unread)) or name.startswith(tuple(last.unread))
        return name not in found.files and name not in last.files and not hidden

    def _read(self, names: list[str], found: Look, known: _Known) -> list[Note]:
        """The notes of some files, which ``known`` then has; of a bad file what it has stays."""
        read: dict[str, list[Note]] = {}
        for name in names:
            path, stamp = found.paths[name], found.files[name]
            try:
                read[name] = read_watched(path, name, stamp)
            except HistoryError as error:
                if stamp_of(path) != stamp:
                    self.restless.add(name)
                    continue
                self._tell_once(f"not read: {error}", stamp)
                self.failed.add(name)
            known.stamps[name] = stamp
        taken = {
            key: content
            for name, held in known.notes.items()
            if name not in read
            for key, content in held.items()
        }
        claimed = [self._claim(name, notes, taken, known) for name, notes in read.items()]
        return list(chain.from_iterable(claimed))

    def _claim(
        self, name: str, notes: list[Note], taken: dict[bytes, int], known: _Known
    ) -> list[Note]:
        """Those notes of a file that no other file has, which are ``taken`` then."""
        self.failed.discard(name)
        mine: dict[bytes, int] = {}
        kept: list[Note] = []
        for note in notes:
            key, content = identity(note), hash((note.digest, note.time))
            if taken.get(key, content) != content:
                known.clashed.add(name)
                self._tell_once(f"{name}: passed over: another note has the id {handle(note)}")
                continue
            if key not in taken:
                kept.append(note)
            mine[key] = taken[key] = content
        known.notes[name] = mine
        return kept

    # --- the store ---

    def _apply(
        self,
        fresh: list[Note],
        found: Look,
        known: _Known,
        *,
        may_forget: bool,
        progress: Progress | None,
    ) -> ChangeReport | None:
        if not is_made(self.persona):
            raise WatchEndedError(f"{self.persona}: the persona is gone; so the watch ends")
        with Persona.open(self.persona, self._space, create=False) as persona:
            origin = str(self.folder)
            gone = self._gone(persona.followed(origin), found, known) if may_forget else set()
            if not fresh and not gone:
                return None
            report, foreign = persona.follow(
                origin, fresh, self._encode, gone=gone, progress=progress
            )
        for note in foreign[:_TOLD]:
            self._tell_once(f"{note.source}: note {handle(note)} came from elsewhere, and stays")
        if foreign[_TOLD:]:
            self._tell_once(f"{len(foreign) - _TOLD} more notes came from elsewhere, and stay")
        done = report.added or report.changed or report.removed
        return report if done else None

    def _gone(self, followed: dict[bytes, str], found: Look, known: _Known) -> set[bytes]:
        """Identities of the notes that the folder held once, and holds no more."""
        self.refused = False
        wanted = {key for held in known.notes.values() for key in held}
        unread = {name for name in found.files if name not in known.notes}
        hidden = tuple(found.unread)
        gone = {
            key
            for key, source in followed.items()
            if key not in wanted
            and source not in unread
            and not source.startswith(hidden)
            and is_watched(source, self._formats)
        }
        if gone and not wanted:
            self._tell_once(
                f"{self.folder}: holds no note any more, so nothing is forgotten (is it a drive "
                "that is not there?); if it is meant, `ppedge notes forget --only "
                f"folder:'{self.folder.name}'`"
            )
            self.refused = True
            return set()
        return gone

    def _tell_once(self, line: str, *about: object) -> None:
        key = repr((line, about))
        if key not in self._told:
            self._told.add(key)
            self._say(line)


class WatchEndedError(StoreError):
    """There is nothing left to keep in step."""
