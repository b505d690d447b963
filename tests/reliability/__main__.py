"""What breaks ppedge: kills, damaged input, full disks, many clients; counted on the real program.

    python -m tests.reliability --docs docs/reliability.md      # everything; an hour or two
    python -m tests.reliability --quick                         # a little of each, seconds
    python -m tests.reliability --only kills --json found.json  # one part, added to others'
    python -m tests.reliability --no-run --json found.json --docs docs/reliability.md

The exit code is 1 where anything was lost, crashed, or came out that may not.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from tests.reliability.page import page
from tests.reliability.setting import Found


@dataclass(frozen=True)
class Part:
    """One of the things that are tried.

    Attributes:
        module: of this package; its ``run`` takes a count.
        full: the count of the page.
        quick: the count of the test suite; 0 where it has this in a test of its own.
    """

    module: str
    full: int
    quick: int

    def run(self, count: int) -> Found:
        """Do it so many times."""
        run: Callable[[int], Found] = import_module(f"tests.reliability.{self.module}").run
        return run(count)


PARTS = {
    part.module: part
    for part in (
        Part("kills", 500, 2),
        Part("interrupts", 40, 2),
        Part("native", 1_000_000, 0),
        Part("readers", 100_000, 20),
        Part("forgetting", 100, 1),
        Part("clients", 200, 10),
        Part("openings", 1_000, 20),
        Part("many_notes", 1_000_000, 0),
    )
}


def main(words: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.reliability", description=__doc__.split("\n")[0]
    )
    add = parser.add_argument
    add("--only", choices=PARTS, action="append", help="a part; may be given again")
    add("--count", type=int, help="how many times, instead of the part's own count")
    add("--quick", action="store_true", help="a few times each")
    add("--json", type=Path, metavar="OUT", help="write the figures; those of other parts stay")
    add("--docs", type=Path, metavar="PAGE", help="write the page")
    add("--no-run", action="store_true", help="only write the page, of the figures in --json")
    args = parser.parse_args(words)
    told: dict[str, Any] = {}
    if args.json and args.json.exists():
        told = json.loads(args.json.read_text())
    for name in () if args.no_run else args.only or PARTS:
        part = PARTS[name]
        count = args.count or (part.quick if args.quick else part.full)
        if not count:
            continue
        began = time.monotonic()
        found = part.run(count)
        told[name] = {**asdict(found), "seconds": round(time.monotonic() - began)}
        print(f"{name}: {json.dumps(told[name])}", flush=True)
        if args.json:
            args.json.write_text(json.dumps(told, indent=1) + "\n")
    if args.docs:
        ordered = {name: told[name] for name in PARTS if name in told}
        args.docs.write_text(page(ordered, _machine()), encoding="utf-8")
    return int(any(part["wrong"] for part in told.values()))


def _machine() -> str:
    return f"{platform.system()}, Python {platform.python_version()}, {os.cpu_count()} processors"


if __name__ == "__main__":
    sys.exit(main())
