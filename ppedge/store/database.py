"""How a persona store opens SQLite, and what it says when SQLite fails."""

from __future__ import annotations

import json
import os
import sqlite3
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal

from ppedge.errors import StoreError
from ppedge.notes.tags import is_tagged, is_under
from ppedge.store.files import FILE_MODE

Access = Literal["read", "read-only", "write"]

_BUSY_MILLISECONDS = 5000

# What sqlite3 says when one of the functions that `connect` gives to SQLite raised something, and
# has then dropped what that was.
_FUNCTION_RAISED = "user-defined function raised exception"


@contextmanager
def sqlite_errors(path: Path) -> Iterator[None]:
    """Turn an ``sqlite3.Error`` in the block into a `StoreError` that says what to do.

    Raises:
        KeyboardInterrupt: Ctrl-C came while SQLite was calling one of our functions.
    """
    try:
        yield
    except (sqlite3.Error, UnicodeDecodeError) as error:
        if str(error) == _FUNCTION_RAISED:
            # None of them raises for any data, so it was a signal, which Python delivers to
            # whatever Python code runs next.
            raise KeyboardInterrupt from None
        name = getattr(error, "sqlite_errorname", "")
        if name.startswith(("SQLITE_FULL", "SQLITE_IOERR")):
            advice = "free some disk space and run it again (what was stored before is intact)"
        elif name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
            advice = "another process is using it; run it again when that is done"
        elif name.startswith(("SQLITE_READONLY", "SQLITE_CANTOPEN", "SQLITE_PERM")):
            advice = "make the folder readable and writable for you"
        elif isinstance(error, sqlite3.ProgrammingError):
            advice = "the store was closed; open it again"
        else:
            advice = "the file is damaged: move the folder away and add the notes again"
        raise StoreError(f"{path}: {error}; {advice}") from error


def connect(path: Path, access: Access) -> sqlite3.Connection:
    """Open the database at ``path``; ``"write"`` creates it (mode 0600) if it is not there.

    ``"read"`` may still recover the log of a writer that died; ``"read-only"`` touches nothing.
    """
    uri = f"{path.absolute().as_uri()}?mode="
    if access == "write":
        _create_private(path)
    if access == "read-only":
        # Without a log nobody is writing, and "immutable" spares SQLite the files that it cannot
        # create beside a database in a read-only folder.
        uri += "ro" if has_log(path) else "ro&immutable=1"
    else:
        uri += "rw"
    db = sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False)
    try:
        db.create_function("casefold", 1, str.casefold, deterministic=True)
        db.create_function("seal", 3, metadata_checksum, deterministic=True)
        db.create_function("tagged", 2, _tagged, deterministic=True)
        db.create_function("under", 3, _under, deterministic=True)
        db.execute(f"PRAGMA busy_timeout = {_BUSY_MILLISECONDS}")
        db.execute("PRAGMA temp_store = MEMORY")  # VACUUM must not spill text elsewhere.
        db.execute("PRAGMA trusted_schema = OFF")
        if access == "read":
            db.execute("PRAGMA query_only = ON")
        if access == "write":
            db.execute("PRAGMA secure_delete = ON")
            db.execute("PRAGMA synchronous = FULL")
            db.execute("PRAGMA journal_mode = WAL")
    except BaseException:
        db.close()
        raise
    return db


def has_log(path: Path) -> bool:
    """Whether the log beside the database at ``path`` holds anything."""
    try:
        return path.with_name(path.name + "-wal").stat().st_size > 0
    except (FileNotFoundError, NotADirectoryError):
        return False


def _create_private(path: Path) -> None:
    """Create ``path`` with mode 0600 if it is not there; SQLite gives its log the same mode.

    A file that is there must not even be opened: closing it would drop the locks that SQLite
    holds on it for other connections of this process (sqlite.org/howtocorrupt.html, 2.2).
    """
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, FILE_MODE))


def metadata_checksum(*fields: object) -> int:
    """Checksum of a note's small fields; its text is covered by the digest."""
    return zlib.crc32(repr(fields).encode())


def pack_about(tags: Sequence[str], source: str) -> str:
    """A note's tags and source as one column; as short as can be where it has none."""
    if not tags and not source:
        return "{}"  # Most notes, and a store is compared with every one of a history.
    fields = {"tags": list(tags), "source": source}
    return json.dumps({name: value for name, value in fields.items() if value}, ensure_ascii=False)


def unpack_about(about: str) -> tuple[tuple[str, ...], str]:
    """(tags, source) of what `pack_about` packed; none where it is damaged, as `verify` then says.

    Text must stay within reach whatever became of its tags.
    """
    if about == "{}":
        return (), ""  # As above.
    try:
        fields = json.loads(about)
        tags, source = fields.get("tags", []), fields.get("source", "")
    except (ValueError, TypeError, AttributeError, RecursionError):
        return (), ""
    sound = isinstance(tags, list) and all(isinstance(tag, str) for tag in tags)
    return tuple(tags) if sound else (), source if isinstance(source, str) else ""


def _tagged(about: str, wanted: str) -> bool:
    return is_tagged(unpack_about(about)[0], wanted)


def _under(about: str, note_id: str, folder: str) -> bool:
    return is_under(unpack_about(about)[1] or note_id, folder)
