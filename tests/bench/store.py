"""How the persona store grows: time and peak memory of its operations, vectors given.

    python -m tests.bench.store              # 1k, 10k and 100k notes
    python -m tests.bench.store --notes 1000 --repeats 3

Every operation runs in a process of its own on the same store, warm, and the median of its
repeats is shown. Its peer is the least that plain files could do: float16 ``.npy`` rows and a
JSON Lines text, where every change writes the files anew and syncs them to the disk (numpy 2
``np.load(mmap_mode="r")``, ``np.delete``, ``np.save``), and where pooling is float32 numpy.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from ppedge.notes.reader import Note, note_line, read_notes
from ppedge.store.history_cache import sync_history
from ppedge.store.persona import Persona, Space

D_KEY, D_VALUE = 384, 512
SCALE = D_KEY**-0.5
OPERATIONS = ("open", "add one", "sync, one line changed", "pool", "forget one")
GIVEN = np.random.default_rng(0).standard_normal((1024, D_KEY + D_VALUE), np.float32)
QUERY = np.random.default_rng(1).standard_normal(D_KEY, np.float32)
SPACE = Space(
    D_KEY, D_VALUE, "e" * 64, "p" * 64, np.zeros(D_KEY, np.float16), np.zeros(D_VALUE, np.float16)
)


def encode(notes: Sequence[Note]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for note in notes:
        row = GIVEN[int(note.digest[:8], 16) % len(GIVEN)]
        yield row[:D_KEY], row[D_KEY:]


def make_note(i: int, edit: str = "") -> Note:
    """About 200 bytes of text, as in a short mail."""
    return Note(f"Note {i}{edit}. " + "Thanks for the long walk and the tea. " * 5, id=str(i))


def write_history(path: Path, n_notes: int, edit: str = "") -> None:
    middle = n_notes // 2
    with path.open("w", encoding="utf-8") as out:
        for i in range(n_notes):
            out.write(note_line(make_note(i, edit if i == middle else "")) + "\n")


def median_seconds(repeats: int, run: Callable[[int], object], reset=lambda turn: None) -> float:
    found = []
    for turn in range(repeats):
        reset(turn)
        began = time.perf_counter()
        run(turn)
        found.append(time.perf_counter() - began)
    return statistics.median(found)


# --- the store ---


def build_store(folder: Path, n_notes: int) -> float:
    began = time.perf_counter()
    with Persona.open(folder / "persona", SPACE) as persona:
        persona.add((make_note(i) for i in range(n_notes)), encode)
    return time.perf_counter() - began


def measure_store(operation: str, folder: Path, n_notes: int, repeats: int) -> float:
    path, history = folder / "persona", folder / "notes.jsonl"
    if operation == "open":
        return median_seconds(10 * repeats, lambda _: Persona.open(path, SPACE).close())
    with Persona.open(path, SPACE) as persona:
        if operation == "add one":
            return median_seconds(repeats, lambda i: persona.add([make_note(n_notes + i)], encode))
        if operation == "pool":
            persona.pool(QUERY, scale=SCALE)
            return median_seconds(10 * repeats, lambda _: persona.pool(QUERY, scale=SCALE))
        if operation == "forget one":
            return median_seconds(repeats, lambda i: persona.forget(ids=[str(i * 7 + 3)]))
        sync_file(persona, history)
        if operation == "sync, file unchanged":
            return median_seconds(repeats, lambda _: sync_file(persona, history))
        if operation == "sync, nothing changed":
            return median_seconds(repeats, lambda _: persona.sync(read_notes(history), encode))
        return median_seconds(
            repeats,
            lambda _: persona.sync(read_notes(history), encode),
            lambda turn: write_history(history, n_notes, f" edit {turn}"),
        )


def sync_file(persona: Persona, history: Path) -> None:
    """Sync as the commands do, which read no file again that has not changed."""
    with history.open("rb") as file:
        sync_history(persona, read_notes(file), file, encode, lambda done, total: None)


# --- the peer ---


def save_durably(path: Path, rows: np.ndarray) -> None:
    with path.with_suffix(".new").open("wb") as out:
        np.save(out, rows)
        out.flush()
        os.fsync(out.fileno())
    path.with_suffix(".new").replace(path)


def rewrite_text(folder: Path, dropped: int | None) -> None:
    """Copy the history without one line (or with one more), as an edited file would be."""
    with (folder / "text.jsonl").open("rb") as old, (folder / "text.new").open("wb") as new:
        new.writelines(line for i, line in enumerate(old) if i != dropped)
        if dropped is None:
            new.write(note_line(make_note(-1)).encode() + b"\n")
        new.flush()
        os.fsync(new.fileno())
    (folder / "text.new").replace(folder / "text.jsonl")


def build_peer(folder: Path, n_notes: int) -> None:
    write_history(folder / "text.jsonl", n_notes)
    rows = GIVEN[np.arange(n_notes) % len(GIVEN)].astype(np.float16)
    save_durably(folder / "keys.npy", rows[:, :D_KEY])
    save_durably(folder / "values.npy", rows[:, D_KEY:])


def peer_pool(keys: np.ndarray, values: np.ndarray) -> np.ndarray:
    scores = SCALE * (keys.astype(np.float32) @ QUERY)
    weights = np.exp(scores - scores.max())
    return (weights / weights.sum()) @ values.astype(np.float32)


def measure_peer(operation: str, folder: Path, n_notes: int, repeats: int) -> float:
    paths = folder / "keys.npy", folder / "values.npy"

    def load(_: int) -> list[np.ndarray]:
        return [np.load(path, mmap_mode="r") for path in paths]

    def change(edit: Callable[[np.ndarray], np.ndarray], dropped: int | None) -> None:
        for path in paths:
            save_durably(path, edit(np.load(path, mmap_mode="r")))
        rewrite_text(folder, dropped)

    def edit_one(turn: int) -> None:
        # The line that changed is found by comparing the two texts.
        old, new = ((folder / name).read_bytes() for name in ("text.jsonl", "notes.jsonl"))
        sum(a != b for a, b in zip(old.split(b"\n"), new.split(b"\n"), strict=False))
        change(lambda rows: np.concatenate([rows[:5], rows[:1], rows[6:]]), None)

    runs = {
        "open": (10 * repeats, load),
        "add one": (repeats, lambda _: change(lambda r: np.concatenate([r, r[:1]]), None)),
        "sync, one line changed": (repeats, edit_one),
        "pool": (repeats, lambda turn: peer_pool(*load(turn))),
        "forget one": (repeats, lambda turn: change(lambda r: np.delete(r, turn, axis=0), turn)),
    }
    times, run = runs[operation]
    return median_seconds(times, run)


# --- the table ---


def in_process(who: str, operation: str, folder: Path, n_notes: int, repeats: int):
    """(median seconds, peak resident MiB over that of the bare interpreter with its imports)."""
    arguments = [who, operation, str(folder), str(n_notes), str(repeats)]
    command = [sys.executable, "-m", "tests.bench.store", "--child", *arguments]
    found = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(found.stdout)


def child(who: str, operation: str, folder: str, n_notes: str, repeats: str) -> None:
    before = peak_mib()
    measure = measure_store if who == "store" else measure_peer
    seconds = measure(operation, Path(folder), int(n_notes), int(repeats))
    print(json.dumps([seconds, peak_mib() - before]))


def peak_mib() -> float:
    """Peak resident memory, pages of mapped files included."""
    status = Path("/proc/self/status")
    if status.exists():  # On Linux ru_maxrss begins at the parent's peak.
        return next(int(w.split()[1]) for w in status.open() if w.startswith("VmHWM")) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20)


def report(sizes: Sequence[int], repeats: int) -> None:
    print("| operation | notes | store | peak memory | plain files | peak memory | store/plain |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    for n_notes in sizes:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            write_history(folder / "notes.jsonl", n_notes)
            seconds = build_store(folder, n_notes)
            print(f"| build | {n_notes:,} | {seconds * 1e3:,.0f} ms | | | | |")
            build_peer(folder, n_notes)
            for operation in OPERATIONS:
                ours, our_peak = in_process("store", operation, folder, n_notes, repeats)
                plain, plain_peak = in_process("peer", operation, folder, n_notes, repeats)
                print(
                    f"| {operation} | {n_notes:,} | {ours * 1e3:,.2f} ms | {our_peak:,.0f} MiB "
                    f"| {plain * 1e3:,.2f} ms | {plain_peak:,.0f} MiB | {ours / plain:.2f} |",
                    flush=True,
                )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--notes", type=int, nargs="+", default=[1_000, 10_000, 100_000])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--child", nargs=5, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        child(*arguments.child)
    else:
        report(arguments.notes, arguments.repeats)


if __name__ == "__main__":
    main()
