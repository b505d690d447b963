"""How cost grows with the number of notes: first token, syncing, forgetting, memory.

    python -m tests.bench.growth [--notes 100 1000 10000 100000] [--rounds 4]

Vectors are random, since making real ones of a hundred thousand notes takes an hour; the text is
as long as real notes'. Changes of a store are measured by ``tests.bench.store``, each in a process.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ppedge.cli.made_notes import history_file, made_notes, write_history
from ppedge.cli.measuring import answers, compared
from ppedge.cli.processes import PPEDGE, Run, medians, timed
from ppedge.defaults import find_plug, history_dir
from ppedge.notes.reader import Note, read_notes
from ppedge.personalizer import Personalizer
from ppedge.plug.plug import Plug
from ppedge.store.history_cache import open_history_cache, sync_history
from ppedge.store.persona import Persona
from tests.bench import store

BARE = "bare"
CHANGES = ("sync, file unchanged", "sync, nothing changed", "sync, one line changed", "forget one")


def given_store(history: Path, home: Path) -> None:
    """Make the store that follows a history under ``home``, of random vectors."""
    space = Plug(find_plug()).space
    rows = np.random.default_rng(0).standard_normal((512, space.d_key + space.d_value), np.float32)
    rows /= np.linalg.norm(rows[:, : space.d_key], axis=1, keepdims=True)

    def encode(notes: Sequence[Note]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for note in notes:
            row = rows[int(note.digest[:8], 16) % len(rows)]
            yield row[: space.d_key], row[space.d_key :]

    folder = home / "histories" / history_dir(history).name
    with open_history_cache(folder, space) as persona, history.open("rb") as file:
        sync_history(persona, read_notes(file), file, encode, lambda done, total: None)


def first_tokens(folders: Mapping[int, Path], rounds: int) -> list[dict[str, Any]]:
    """First token and speed for each number of notes and for the bare model, in turns."""
    with Personalizer.open() as personalizer:
        personas: dict[str, Persona | None] = {BARE: None}
        try:
            for count, folder in folders.items():
                personas[str(count)] = personalizer.persona(folder, create=False)
            return compared(answers(personalizer, personas, rounds, 8), BARE)
        finally:
            for persona in personas.values():
                if persona is not None:
                    persona.close()


def cold(history: Path, home: Path, rounds: int) -> Run:
    """A new process that answers; the turns of its persona are kept after the first."""
    env = {**os.environ, "PPEDGE_HOME": str(home)}
    ask = (*PPEDGE, "personalize", "How are you?", f"--history={history}", "--max-tokens=8")
    errors = home / "stderr"
    timed(ask, env, errors)
    return medians([timed(ask, env, errors) for _ in range(rounds)])


def changes(folder: Path, n_notes: int, repeats: int) -> dict[str, dict[str, float]]:
    """Seconds and peak MiB of what changes a store, or finds that nothing has to."""
    folder.mkdir()
    store.write_history(folder / "notes.jsonl", n_notes)
    store.build_store(folder, n_notes)
    found = {}
    for operation in CHANGES:
        seconds, peak = store.in_process("store", operation, folder, n_notes, repeats)
        found[operation] = {"seconds": seconds, "peak_mib": peak}
    return found


def slope(sizes: Sequence[int], costs: Sequence[float]) -> float:
    """Exponent b of cost = a * notes**b between the two largest sizes; 0 is constant, 1 linear."""
    (n, m), (a, b) = sizes[-2:], costs[-2:]
    return math.log(b / a) / math.log(m / n)


def inside(folder: Path, sizes: Sequence[int], rounds: int) -> list[dict[str, Any]]:
    """Write the histories, make their stores, and measure what one process can."""
    stores: dict[int, Path] = {}
    for count in sizes:
        history = history_file(folder, count)
        write_history(history, made_notes(count))
        given_store(history, folder / "home")
        stores[count] = folder / "home" / "histories" / history_dir(history).name
    return first_tokens(stores, rounds)


def measure(sizes: Sequence[int], rounds: int) -> list[dict[str, Any]]:
    """One row for each number of notes, ascending."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        # A process of its own: those after it would seem as large as this one had become.
        command = (sys.executable, "-m", "tests.bench.growth", "--inside", name)
        command += ("--rounds", str(rounds), "--notes", *map(str, sizes))
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE)
        first = {row["persona"]: row for row in json.loads(done.stdout)}
        repeats = max(1, rounds // 2)
        runs = {
            count: cold(history_file(folder, count), folder / "home", repeats) for count in sizes
        }
        rows = []
        for count, run in runs.items():
            rows.append(
                {
                    "notes": count,
                    "first_token_seconds": first[str(count)]["first_token_seconds"],
                    "ratio_to_bare": first[str(count)]["ratio"],
                    "cold_first_seconds": run.first,
                    "peak_bytes": run.peak_bytes,
                    "changes": changes(folder / f"store-{count}", count, repeats),
                }
            )
    return rows


def main() -> None:
    """Measure and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--notes", type=int, nargs="+", default=[100, 1_000, 10_000, 100_000])
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--inside", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    sizes = sorted(arguments.notes)
    if arguments.inside:
        print(json.dumps(inside(arguments.inside, sizes, arguments.rounds)))
    else:
        print(json.dumps(measure(sizes, arguments.rounds), indent=1))


if __name__ == "__main__":
    main()
