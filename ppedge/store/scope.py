"""`Scope`: which of a person's notes may bear on an answer."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass

from ppedge.errors import StoreError

_KINDS = ("tag", "folder")


@dataclass(frozen=True, slots=True)
class Scope:
    """Notes of some tags, folders or times; the empty scope is all of them.

    Of several tags, or several folders, one is enough; of tag, folder and time, each must be met.
    A note without a time is in no scope of time.

    Attributes:
        tags: as `ppedge.notes.tags.is_tagged` compares them; ``work`` holds ``work/plans``.
        folders: as `ppedge.notes.tags.is_under` compares them, to the note's source or, where it
            has none, to its id.
        since: written at or after this moment (Unix seconds).
        until: written before this moment (Unix seconds).
    """

    tags: tuple[str, ...] = ()
    folders: tuple[str, ...] = ()
    since: float | None = None
    until: float | None = None

    @property
    def is_all(self) -> bool:
        """Whether it holds every note."""
        return self == Scope()

    @property
    def key(self) -> str:
        """What tells it from other scopes, 64 hex digits; "" of all notes."""
        if self.is_all:
            return ""
        parts = [sorted(self.tags), sorted(self.folders), self.since, self.until]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def parse_scope(
    only: tuple[str, ...] = (), since: float | None = None, until: float | None = None
) -> Scope:
    """A scope of what a command line or a request says.

    Args:
        only: ``tag:NAME`` and ``folder:NAME``.
        since: as of `Scope`.
        until: as of `Scope`.

    Raises:
        StoreError: a term is of no such form, or no moment lies between since and until.
    """
    found: dict[str, list[str]] = {kind: [] for kind in _KINDS}
    for term in only:
        kind, _, name = term.partition(":")
        if kind not in found or not name.strip(" #/"):
            raise StoreError(f'"{term}" is no scope; write tag:NAME or folder:NAME')
        found[kind].append(name.strip())
    if since is not None and until is not None and since >= until:
        raise StoreError("no time lies between since and until; put the earlier one first")
    return Scope(tuple(found["tag"]), tuple(found["folder"]), since, until)
