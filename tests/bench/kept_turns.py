"""What it takes to have a person's turns in the model: held, restored from a file, or read anew.

    python -m tests.bench.kept_turns [--notes 1000] [--rounds 5]

Seconds to the first token of one prompt, in an open process. *Restored* is what the first answer of
a process does: from a file that the system still has in memory, or one that comes off the disk.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from ppedge.blend import Blend
from ppedge.cli.made_notes import history_file, made_notes, write_history
from ppedge.cli.measuring import PROMPTS, ask
from ppedge.defaults import history_dir
from ppedge.personalizer import Personalizer
from tests.bench.growth import given_store

TURNS = Blend(soft=False, style=0, rules=False, topic=0)
"""Nothing but turns: what else an answer needs is made once a process, and would hide them."""


def drop_from_memory(path: Path) -> None:
    """Have the system read a file from the disk when it is opened next."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _remove(files: Iterable[Path]) -> None:
    for path in files:
        path.unlink()


def measure(n_notes: int, rounds: int) -> dict[str, Any]:
    """Median seconds by way, and the size of the file."""
    with tempfile.TemporaryDirectory() as name, Personalizer.open() as opened:
        folder = Path(name)
        history = history_file(folder, n_notes)
        write_history(history, made_notes(n_notes))
        given_store(history, folder / "home")
        store = folder / "home" / "histories" / history_dir(history).name

        def state() -> Path:
            [path] = store.glob("prefix.*")
            return path

        # In this order, as the first leaves the file that the others read.
        ways: dict[str, Callable[[], None]] = {
            "read anew": lambda: _remove(store.glob("prefix.*")),
            "restored": lambda: None,
        }
        if hasattr(os, "posix_fadvise"):
            ways["restored from the disk"] = lambda: drop_from_memory(state())
        found: dict[str, list[float]] = {way: [] for way in ("held", *ways)}
        with opened.persona(store, create=False) as persona:
            for _ in range(rounds):
                for way, prepare in ways.items():
                    prepare()
                    opened.llm.clear()
                    # Remembers no turns yet; model and plug are the same.
                    personalizer = Personalizer(opened.llm, opened.plug)
                    found[way].append(ask(personalizer, persona, PROMPTS[0], 2, TURNS)[0])
                ask(personalizer, persona, PROMPTS[1], 2, TURNS)
                found["held"].append(ask(personalizer, persona, PROMPTS[0], 2, TURNS)[0])
        return {
            "notes": n_notes,
            "file_bytes": state().stat().st_size,
            "first_token_seconds": {way: statistics.median(each) for way, each in found.items()},
        }


def main() -> None:
    """Measure and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--notes", type=int, default=1_000)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    print(json.dumps(measure(arguments.notes, arguments.rounds), indent=1))


if __name__ == "__main__":
    main()
