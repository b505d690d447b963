"""Very many notes: kept, found, answered from and forgotten, by the program, with its memory."""

from __future__ import annotations

import resource
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.reliability.setting import Found, scratch, tiny_command, write_lines

TENTH = 10
LONGEST = 3600
"""Seconds that one command may take on a busy machine."""


def run(count: int) -> Found:
    """A tenth of so many notes with a plug, which encodes each; all of them without one."""
    found = Found()
    with scratch() as folder:
        command = tiny_command(folder)
        command.seconds = LONGEST
        for notes, plug in ((count // TENTH, {}), (count, {"PPEDGE_PLUG": "none"})):
            name = f"of{notes}"
            file = write_lines(folder / "notes.jsonl", _made(notes))
            keeps: tuple[str | Path, ...] = ("--persona", name)
            middle = str(notes // 2)
            steps: dict[str, tuple[str | Path, ...]] = {
                "add": ("notes", "add", file, *keeps),
                "answer": ("personalize", *keeps, "--max-tokens", "4", "--seed", "1", "hi"),
                "find": ("notes", "list", "--text", f"number {middle}.", *keeps),
                "forget": ("notes", "forget", "--yes", middle, *keeps),
                "verify": ("notes", "verify", "--json", *keeps),
            }
            seconds: dict[str, Any] = {}
            for step, words in steps.items():
                began = time.monotonic()
                told = command.good(*words, **plug)
                seconds[step] = round(time.monotonic() - began, 1)
                if step == "find" and f"number {middle}." not in told:
                    found.wrong.append(f"{notes} notes: one was not found")
            stats = command.json("notes", "stats", *keeps, **plug)
            if stats["notes"] != notes - 1:
                found.wrong.append(f"{notes} notes: {stats['notes']} are left, not one less")
            found.figures[f"{notes} notes, seconds"] = seconds
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    found.figures["most memory of a command, MiB"] = round(peak / 1024)
    return found


def _made(count: int) -> Iterator[dict[str, str]]:
    for i in range(count):
        yield {"id": str(i), "text": f"number {i}. the bread is out, and the rain is not."}
