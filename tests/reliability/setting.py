"""What all parts work with: a home, a tiny model with its plug, notes, and a part's figures."""

from __future__ import annotations

import contextlib
import json
import random
import string
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ppedge.plug.plug import Plug
from tests import tiny_gguf, tiny_plug
from tests.command import Command

MEMORY = Path("/dev/shm")
"""Where small files are written and read quickly, on systems that have it."""


@dataclass
class Found:
    """What a part found.

    Attributes:
        figures: by name, in the order in which they are shown.
        wrong: what must not be; one line each. Nothing, where all is well.
    """

    figures: dict[str, Any] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)


@contextlib.contextmanager
def scratch(*, memory: bool = False) -> Iterator[Path]:
    """A folder that goes with the block; ``memory``: on no disk, where the system can."""
    where = MEMORY if memory and MEMORY.is_dir() else None
    with tempfile.TemporaryDirectory(prefix="reliability-", dir=where) as name:
        yield Path(name)


def tiny_command(folder: Path) -> Command:
    """The program with a model of noise, and a plug for it."""
    model = tiny_gguf.write(folder / "tiny.gguf")
    plug = tiny_plug.write(folder / "plug", model)
    return Command(folder / "home", {"PPEDGE_MODEL": str(model), "PPEDGE_PLUG": str(plug)})


def plug_of(command: Command) -> Plug:
    """The plug that a command of `tiny_command` uses."""
    return Plug(Path(command.env["PPEDGE_PLUG"]))


def write_lines(path: Path, notes: Iterable[Mapping[str, Any]]) -> Path:
    """Write notes as JSON Lines."""
    with path.open("w", encoding="utf-8") as out:
        out.writelines(json.dumps(note, ensure_ascii=False) + "\n" for note in notes)
    return path


def letters(chance: random.Random, length: int) -> str:
    """Random letters, of which no eight in a row come twice."""
    return "".join(chance.choices(string.ascii_letters, k=length))
