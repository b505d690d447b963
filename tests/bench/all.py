"""Everything that a person waits for, beside what they would use instead, in one run.

    python -m tests.bench.all --json docs/performance.json --docs docs/performance.md
    python -m tests.bench.all --quick --no-peers      # a look, some minutes, nothing written

Needs the extra ``bench``; ``--no-peers`` leaves out what does. Nothing is read from the network.
The page, its plots (in ``img/`` beside it) and the JSON come from the same figures.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ppedge.cli.bench import Bench
from ppedge.cli.made_notes import history_file, made_notes, write_history
from ppedge.cli.processes import PPEDGE, timed
from ppedge.processors import usable_cores
from ppedge.store.temporary import temporary_folder
from tests.bench import pool
from tests.bench.page import ROW_BYTES, page

SHOWN = ("ppedge f16", "ppedge int8", "numpy f32", "floor f16", "floor int8", "floor f32")


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much is measured.

    Attributes:
        rounds: of which medians are taken.
        personas: sizes that `ppedge bench` answers as.
        encoded: notes that encoders compare on.
        bulk: sizes that `ppedge notes add` encodes.
        grown: sizes of stores.
        pooled: numbers of rows that are pooled.
        second: notes of the history that is answered from a second time.
        max_tokens: length of an answer.
    """

    rounds: int = 5
    personas: tuple[int, ...] = (0, 100, 1000)
    encoded: int = 400
    bulk: tuple[int, ...] = (1000, 10_000)
    grown: tuple[int, ...] = (100, 1_000, 10_000, 100_000, 1_000_000)
    pooled: tuple[int, ...] = (1_000, 10_000, 100_000, 1_000_000)
    second: int = 10_000
    max_tokens: int = 32


QUICK = Sizes(1, (0, 20), 32, (32,), (20, 100), (1000,), 100, 4)


def say(line: str) -> None:
    """Tell how far it is."""
    print(line, file=sys.stderr, flush=True)


def bench(sizes: Sizes) -> dict[str, Any]:
    """What `ppedge bench --json` prints."""
    given = [f"--rounds={sizes.rounds}", f"--max-tokens={sizes.max_tokens}"]
    given += [f"--notes={count}" for count in sizes.personas]
    with temporary_folder() as folder:
        return Bench(folder, [], sizes.rounds, sizes.max_tokens, max(sizes.personas)).report(given)


def bulk(n_notes: int) -> dict[str, Any]:
    """`ppedge notes add` of so many notes, as a process of its own."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        history = history_file(folder, n_notes)
        write_history(history, made_notes(n_notes))
        env = {**os.environ, "PPEDGE_HOME": name}
        run = timed((*PPEDGE, "notes", "add", str(history)), env, folder / "stderr")
    rate = n_notes / run.whole
    return {
        "notes": n_notes, "seconds": run.whole, "rate": rate, "peak_bytes": run.peak_bytes
    }  # fmt: skip


def pooled(rows: tuple[int, ...], threads: int) -> list[dict[str, Any]]:
    """Seconds of ``tests.bench.pool`` by number of rows, at 384 + 512 numbers a row."""
    arguments = argparse.Namespace(rows=rows, widths=(512,), seconds=2.0)
    results, _ = pool.run_worker(threads, arguments)
    return [
        {
            "notes": count,
            "threads": threads,
            "seconds": {
                r.subject: r.seconds for r in results if r.n == count and r.subject in SHOWN
            },
        }
        for count in rows
    ]


def part(module: str, *options: object) -> Any:
    """What another benchmark prints: in a process of its own, so that this one stays small.

    A process begins as large as the one that starts it, by what Linux says of its memory.
    """
    say(module)
    command = [sys.executable, "-m", f"tests.bench.{module}", *map(str, options)]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)


def measure(sizes: Sizes, *, peers: bool = True) -> dict[str, Any]:
    """All figures of one run; without ``peers`` what this package alone can measure."""
    rounds = ("--rounds", sizes.rounds)
    figures: dict[str, Any] = {
        "sizes": asdict(sizes),
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0,
    }
    say("bench")
    figures["bench"] = bench(sizes)
    say("notes add")
    figures["bulk"] = [bulk(count) for count in sizes.bulk]
    figures["growth"] = part("growth", "--notes", *sizes.grown, *rounds)
    alone = [] if peers else ["--no-peers"]
    figures["kept_turns"] = part("kept_turns", "--notes", max(sizes.personas), *rounds)
    encoded = ("--notes", sizes.encoded, "--rounds", min(3, sizes.rounds))
    figures["encoding"] = part("encoding", *encoded, *alone)
    if peers:
        figures["prompts"] = part("prompts", "--notes", max(sizes.personas), *rounds)
        figures["second_run"] = part("second_run", "--notes", sizes.second, *rounds)
        say("pool")
        figures["pool"] = pooled(sizes.pooled, usable_cores())
        largest = figures["pool"][-1]
        read = ROW_BYTES * largest["notes"]
        figures["read_bytes_per_second"] = read / largest["seconds"]["floor f16"]
    return figures


def write_page(figures: dict[str, Any], path: Path) -> None:
    """Write the page, and its plots into ``img`` beside it."""
    images: dict[str, str] = {}
    text = page(figures, images)
    (path.parent / "img").mkdir(parents=True, exist_ok=True)
    for name, image in images.items():
        (path.parent / "img" / name).write_text(image, encoding="utf-8")
    path.write_text(text, encoding="utf-8")


def main() -> None:
    """Measure; print the page, or write it and the figures where that was asked for."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--docs", type=Path, help="write the page here, plots in img/ beside it")
    parser.add_argument("--quick", action="store_true", help="small sizes, one round")
    parser.add_argument("--no-peers", action="store_true", help="ppedge alone")
    parser.add_argument("--from-json", type=Path, help="take figures of an earlier run")
    arguments = parser.parse_args()
    os.environ["HF_HUB_OFFLINE"] = "1"
    if arguments.from_json:
        figures = json.loads(arguments.from_json.read_text("utf-8"))
    else:
        sizes = QUICK if arguments.quick else Sizes()
        figures = measure(sizes, peers=not arguments.no_peers)
    figures["bench"]["model"] = Path(figures["bench"]["model"]).name  # No path of this machine.
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    if arguments.docs:
        write_page(figures, arguments.docs)
    else:
        print(page(figures, {}))


if __name__ == "__main__":
    main()
