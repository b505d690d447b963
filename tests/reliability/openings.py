"""Open, answer and close, over and over, in one process: memory and file descriptors stay flat."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

from ppedge.llm.sampling import Sampling
from ppedge.notes.reader import Note
from ppedge.personalizer import Personalizer
from tests.reliability.setting import Found, scratch, tiny_command

ROOT = Path(__file__).parents[2]
MOST_GROWTH = 8 << 20
"""Bytes that may come between the first fifth of the openings and the last: pools that libraries
fill for good, and pieces between allocations. One leaked context of the tiny model is as much."""


def run(count: int) -> Found:
    """Open and close so many times, in a process of its own."""
    with scratch() as folder:
        command = tiny_command(folder)
        done = subprocess.run(
            [sys.executable, "-m", __name__, str(count), folder / "anna"],
            env=command.environment(),
            capture_output=True,
            cwd=ROOT,
            check=False,
        )
    if done.returncode:
        return Found({"openings": 0}, [done.stderr.decode()[-500:]])
    samples = json.loads(done.stdout)
    early, late = samples[len(samples) // 5], samples[-1]
    found = Found(
        {
            "openings": count,
            "memory early, MiB": round(early["rss"] / 2**20, 1),
            "memory at the end, MiB": round(late["rss"] / 2**20, 1),
            "file descriptors early": early["files"],
            "file descriptors at the end": late["files"],
            "threads early": early["threads"],
            "threads at the end": late["threads"],
        }
    )
    for what in ("files", "threads"):
        if late[what] > early[what]:
            found.wrong.append(f"{what}: {early[what]} early, {late[what]} at the end")
    if late["rss"] - early["rss"] > MOST_GROWTH:
        found.wrong.append(f"memory grew by {late['rss'] - early['rss']} bytes")
    return found


def open_and_close(count: int, persona: Path) -> list[dict[str, int]]:
    """What the process has after each of so many openings."""
    samples = []
    for turn in range(count):
        with Personalizer.open(n_threads=1, n_ctx=256) as opened, opened.persona(persona) as anna:
            anna.sync([Note(f"note {i} of {turn}", id=str(i)) for i in range(3)],
                      opened.plug.encode_notes)  # fmt: skip
            opened.stream("rain", anna, Sampling(max_tokens=2, seed=1)).read()
        samples.append(_now())
    return samples


def _now() -> dict[str, int]:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return {
        "rss": pages * os.sysconf("SC_PAGE_SIZE"),
        "files": len(os.listdir("/proc/self/fd")),
        "threads": threading.active_count(),
    }


if __name__ == "__main__":
    print(json.dumps(open_and_close(int(sys.argv[1]), Path(sys.argv[2]))))
