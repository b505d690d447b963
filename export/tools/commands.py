"""What the commands of ``export`` have in common: how they check, write and fail."""

from __future__ import annotations

import argparse
import math
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from ppedge.errors import PpedgeError
from ppedge.llm.sampling import MAX_SEED


@contextmanager
def one_line_errors(program: str, stopped: str | None = None) -> Iterator[None]:
    """Turn an error of the data, the disk or the run time into one line and exit code 1.

    Args:
        program: such as "export.experiments.compare"; the line begins with it.
        stopped: what is said after "stopped; " at a keyboard interrupt, with exit code 130; None
            leaves the interrupt as it is.

    Raises:
        SystemExit: in place of PpedgeError, OSError and ValueError, and of that interrupt.
    """
    try:
        yield
    except KeyboardInterrupt:
        if stopped is None:
            raise
        print(f"{program}: stopped; {stopped}", file=sys.stderr)
        raise SystemExit(130) from None
    except (PpedgeError, OSError, ValueError) as error:
        raise SystemExit(f"{program}: {_told(error)}") from None


def _told(error: Exception) -> str:
    """An error in words for people: of the system's own, the file and what is wrong with it."""
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return str(error)


def renamed(words: Sequence[str], names: Mapping[str, str]) -> list[str]:
    """A command line with options by their new names; each old one is told of on stderr.

    Args:
        words: of the command line.
        names: old name -> new name.
    """
    found = []
    for word in words:
        option, equals, value = word.partition("=")
        if option in names:
            print(f"note: {option} is now called {names[option]}", file=sys.stderr)
            option = names[option]
        found.append(option + equals + value)
    return found


def positive(word: str) -> int:
    """A whole number above 0, as the type of an option."""
    if not word.isdecimal() or int(word) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number above 0, not '{word}'")
    return int(word)


def number(refusal: str, least: float, most: float = math.inf) -> Callable[[str], float]:
    """A finite number from ``least`` to ``most``, as the type of an option.

    Args:
        refusal: what is said of a word that is none; the word stands for its ``{}``.
        least: the smallest that is one.
        most: the largest.
    """

    def parse(word: str) -> float:
        try:
            value = float(word)
        except ValueError:
            value = math.nan
        if not (least <= value <= most and math.isfinite(value)):
            raise argparse.ArgumentTypeError(refusal.format(word))
        return value

    return parse


def check_seed(parser: argparse.ArgumentParser, seed: int) -> None:
    """End the command, as a usage error, at a seed that not all that is seeded takes."""
    if not 0 <= seed <= MAX_SEED:
        parser.error(f"--seed must be 0 to {MAX_SEED}, not {seed}")


def later_seed(seed: int, number: int) -> int:
    """The seed ``number`` places on; behind the last one comes 0."""
    return (seed + number) % (MAX_SEED + 1)


def check_output(parser: argparse.ArgumentParser, path: Path | None) -> None:
    """End the command, as a usage error, where no file can be written at ``path``."""
    if path is None:
        return
    if not path.absolute().parent.is_dir():
        parser.error(f"{path}: there is no folder {path.parent}")
    if path.is_dir():
        parser.error(f"{path}: is a folder; name a file")


@contextmanager
def replacing(path: Path, encoding: str | None = "utf-8") -> Iterator[IO[Any]]:
    """Open a file that takes the place of ``path``, whole, at the end of the block.

    Where the block fails, ``path`` stays as it was. Through a link its target is replaced; what is
    no file, such as a pipe or ``/dev/stdout``, is written to as it is.

    Args:
        path: the file, new or old.
        encoding: of its text; None for bytes.

    Raises:
        OSError: the disk did not take it.
    """
    mode = "wb" if encoding is None else "w"
    if path.exists() and not path.is_file():
        with path.open(mode, encoding=encoding) as file:
            yield file
        return
    path = Path(os.path.realpath(path))
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with beside.open(mode, encoding=encoding) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
