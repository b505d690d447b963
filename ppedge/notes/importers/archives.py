"""Exports as a .zip, unpacked, or as the one file that matters: read in memory, under limits."""

from __future__ import annotations

import json
import lzma
import re
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ppedge.errors import HistoryError
from ppedge.notes.importers.files import (
    MAX_BYTES,
    PEEK_BYTES,
    decode,
    disk_errors,
    peek,
    read_bytes,
)

MAX_MEMBERS = 100_000
"""Most members that an archive may have."""

MAX_TOTAL = 4 << 30
"""Most bytes that are unpacked of one archive."""

MAX_RATIO = 200
"""How many times larger than its packed form a member may be, from `_FREE_BYTES` on."""

_FREE_BYTES = 1 << 20
# zipfile lets all of these out of its hands for archives that are damaged or odd.
_ERRORS = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    EOFError,
    RuntimeError,
    ValueError,
    OverflowError,
    IndexError,
)


def is_zip(path: Path) -> bool:
    """Whether a file begins as an archive does."""
    return peek(path, 4) in (b"PK\x03\x04", b"PK\x05\x06")


def texts(path: Path, name: re.Pattern[str]) -> Iterator[tuple[str, str]]:
    """Yield (where, text) of a file, or of each part of an export whose name matches.

    Raises:
        HistoryError: damaged, too large, or not UTF-8; of an export, also: no such part.
    """
    if path.is_dir():
        found_files = _unpacked(path, name)
        if not found_files:
            raise HistoryError(f"{path}: the folder has no file like {name.pattern}")
        for file in found_files:
            yield str(file), decode(read_bytes(file), str(file))
        return
    if not is_zip(path):
        yield str(path), decode(read_bytes(path), str(path))
        return
    with _opened(path) as archive:
        found = _members(archive, name)
        if not found:
            raise HistoryError(f"{path}: the archive has no file like {name.pattern}")
        for member in found:
            where = f"{path}, {_one_line(member.filename)}"
            data = _unpack(archive, member, where, MAX_BYTES)
            yield where, decode(data, where, _one_line(member.filename))


def beginning(path: Path, name: re.Pattern[str]) -> bytes:
    """The beginning of a file, or of the first part of an export whose name matches.

    Raises:
        HistoryError: the archive is damaged, or beyond a limit.
    """
    if path.is_dir():
        return next((peek(file) for file in _unpacked(path, name)), b"")
    if not is_zip(path):
        return peek(path)
    with _opened(path) as archive:
        for member in _members(archive, name):
            where = f"{path}, {_one_line(member.filename)}"
            return _unpack(archive, member, where, PEEK_BYTES, whole=False)
    return b""


def parse_json(text: str, where: str) -> Any:
    """What a JSON text holds.

    Raises:
        HistoryError: it is no JSON; names ``where`` and the line.
    """
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise HistoryError(
            f"{where}, line {error.lineno}: not valid JSON at character {error.colno}: "
            f"{error.msg.removesuffix(' at')}; export it again"
        ) from None
    except RecursionError:
        raise HistoryError(f"{where}: not valid JSON: nested too deeply") from None
    except ValueError:
        raise HistoryError(f"{where}: not valid JSON: a number has too many digits") from None


def json_lists(path: Path, name: re.Pattern[str]) -> Iterator[dict[str, Any]]:
    """Yield the objects of the JSON arrays that `texts` finds.

    Raises:
        HistoryError: as `texts`; or something is not an array of objects.
    """
    for where, text in texts(path, name):
        yield from objects(parse_json(text, where), where)


def objects(value: object, where: str) -> list[dict[str, Any]]:
    """``value`` as the array of objects that it should be.

    Raises:
        HistoryError: it is none; names ``where`` and the entry.
    """
    if not isinstance(value, list):
        raise HistoryError(f"{where}: not a JSON array; give the file as it was exported")
    for number, entry in enumerate(value, start=1):
        if not isinstance(entry, dict):
            raise HistoryError(f"{where}, entry {number}: not a JSON object; export it again")
    return value


def _unpacked(folder: Path, name: re.Pattern[str]) -> list[Path]:
    """The files of an unpacked export whose names match, in order; links are none.

    An export has what counts at its top or in ``data``, and a vault of notes may well have an
    export somewhere in it: nothing deeper is looked at, but within the one folder that some
    programs unpack everything into.
    """
    with disk_errors(folder):
        inside = list(folder.iterdir())
        top = inside[0] if len(inside) == 1 and inside[0].is_dir() else folder
        places = [place for place in (top, top / "data") if place.is_dir()]
        return sorted(
            file
            for place in places
            for file in place.iterdir()
            if name.search(file.relative_to(top).as_posix()) and stat.S_ISREG(file.lstat().st_mode)
        )


@contextmanager
def _opened(path: Path) -> Iterator[zipfile.ZipFile]:
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except OSError as error:
        raise HistoryError(f"{path}: cannot be read: {error.strerror or error}") from None
    except _ERRORS as error:
        raise HistoryError(
            f"{path}: the archive is damaged ({_one_line(str(error))}); download it again"
        ) from None


def _members(archive: zipfile.ZipFile, name: re.Pattern[str]) -> list[zipfile.ZipInfo]:
    members = archive.infolist()
    if len(members) > MAX_MEMBERS:
        raise HistoryError(f"{archive.filename}: the archive has more than {MAX_MEMBERS} files")
    # A name is only ever compared: nothing is written, and a link is not a file.
    found = [
        member
        for member in members
        if name.search(member.filename) and not stat.S_ISLNK(member.external_attr >> 16)
    ]
    if sum(member.file_size for member in found) > MAX_TOTAL:
        raise HistoryError(f"{archive.filename}: larger than {MAX_TOTAL >> 30} GB unpacked")
    return found


def _unpack(
    archive: zipfile.ZipFile,
    member: zipfile.ZipInfo,
    where: str,
    limit: int,
    *,
    whole: bool = True,
) -> bytes:
    if member.file_size > MAX_BYTES:
        raise HistoryError(f"{where}: larger than {MAX_BYTES >> 20} MB unpacked")
    if member.file_size > max(_FREE_BYTES, member.compress_size * MAX_RATIO):
        raise HistoryError(f"{where}: packed more than {MAX_RATIO} times; not an export")
    if member.flag_bits & 1:
        raise HistoryError(f"{where}: it has a password; unpack the archive and import the file")
    with archive.open(member) as stream:
        data = stream.read(limit + whole)
    if len(data) > limit:
        raise HistoryError(f"{where}: larger than it says; download the archive again")
    return data


def _one_line(text: str, limit: int = 120) -> str:
    return "".join(char if char.isprintable() else "?" for char in text[:limit])
