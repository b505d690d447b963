"""Files and folders as importers read them: bounded, decoded, never followed outside."""

from __future__ import annotations

import codecs
import os
import stat
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from ppedge.errors import HistoryError
from ppedge.notes.importers.job import Job
from ppedge.notes.reader import Note
from ppedge.notes.text import conversion, other_encoding

MAX_BYTES = 512 << 20
"""Largest file that is read as a whole."""

MAX_FILES = 1_000_000
"""Most files that a folder may hold."""

PEEK_BYTES = 1 << 20
"""How much of a file is looked at to tell its format."""

LINKS, OTHER_FILES = "links", "files of other kinds"


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn what the disk says into an error that names the file."""
    try:
        yield
    except OSError as error:
        raise HistoryError(f"{path}: cannot be read: {error.strerror or error}") from None


def peek(path: Path, size: int = PEEK_BYTES) -> bytes:
    """The beginning of a file, without a byte order mark of UTF-8; empty for a folder."""
    with disk_errors(path):
        if not path.is_file():
            return b""
        with path.open("rb") as stream:
            return stream.read(size).removeprefix(codecs.BOM_UTF8)


def read_bytes(path: Path, limit: int = MAX_BYTES) -> bytes:
    """A whole file.

    Raises:
        HistoryError: it cannot be read, or is larger than ``limit``.
    """
    with disk_errors(path), path.open("rb") as stream:
        data = stream.read(limit + 1)
    if len(data) > limit:
        raise HistoryError(f"{path}: larger than {limit >> 20} MB; split the file")
    return data


def decode(data: bytes, where: str, name: str = "") -> str:
    """Decode UTF-8, with a byte order mark or without.

    Args:
        data: a whole file.
        where: what errors call it.
        name: of the file, if ``where`` is more than that.

    Raises:
        HistoryError: it is of another encoding; names ``where`` and the line.
    """
    encoding = other_encoding(data[:4])
    if encoding and encoding != "UTF-7":  # Which may be plain text that begins with +/v.
        raise HistoryError(
            f"{where}: the file is {encoding}; {conversion(encoding, name or where)}"
        )
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise HistoryError(
            f"{where}, line {line}: byte 0x{data[error.start]:02x} is not UTF-8; "
            "save the file as UTF-8"
        ) from None


def walk(folder: Path, job: Job, *, hidden: bool = False) -> Iterator[Path]:
    """Yield the files in a folder and below, in order; links are passed over and counted.

    Args:
        folder: where to begin; it may itself be a link.
        job: counts the links.
        hidden: whether to enter folders, and take files, whose names begin with a dot.

    Raises:
        HistoryError: the folder cannot be read, or it holds more than `MAX_FILES` files. A
            folder below it that cannot be read goes to ``job``.
    """

    def refuse(error: OSError) -> None:
        said = HistoryError(f"{error.filename}: cannot be read: {error.strerror or error}")
        if error.filename == str(folder):
            raise said
        job.damaged.append(said)

    n_files = 0
    for parent, folders, names in os.walk(folder, onerror=refuse):
        here = Path(parent)
        n_links = sum((here / name).is_symlink() for name in folders)
        folders[:] = sorted(name for name in folders if hidden or name[0] != ".")
        for name in sorted(names):
            n_files += 1
            if n_files > MAX_FILES:
                raise HistoryError(f"{folder}: more than {MAX_FILES} files; name a smaller folder")
            if name[0] == "." and not hidden:
                continue
            try:
                mode = (here / name).lstat().st_mode
            except OSError:
                continue  # It has gone since the folder was listed.
            if stat.S_ISREG(mode):
                yield here / name
            n_links += stat.S_ISLNK(mode)
        if n_links:
            job.passed[LINKS] += n_links


def holds(folder: Path, suffixes: Collection[str]) -> bool:
    """Whether a folder, or one below it, holds a file with one of these endings."""
    return folder.is_dir() and any(is_of(file, suffixes) for file in walk(folder, Job()))


def is_of(path: Path, suffixes: Collection[str]) -> bool:
    """Whether a file's name has one of these endings, in upper or lower case."""
    return path.suffix.lower() in suffixes


def read_each(
    path: Path, suffixes: Collection[str], job: Job, read: Callable[[Path, str], Iterator[Note]]
) -> Iterator[Note]:
    """Yield the notes of a file, or of all files with these endings in a folder.

    In a folder, a damaged file goes to ``job`` and the others are read.

    Args:
        path: the file or folder.
        suffixes: endings, in lower case, with their dot.
        job: counts what is passed over.
        read: reads one file, given its path and its id.
    """
    if not path.is_dir():
        yield from read(path, job.name or shown(path.name))
        return
    top = path.resolve()
    for file in walk(path, job):
        if not is_of(file, suffixes):
            job.passed[OTHER_FILES] += 1
            continue
        try:
            yield from read(file, shown((Path(top.name) / file.relative_to(path)).as_posix()))
        except HistoryError as error:
            job.damaged.append(error)


def shown(name: str) -> str:
    """A file's name as text, also where its bytes are not UTF-8."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")
