"""Every reader of what others wrote, given mutants of good input: notes, exports, plugs, requests.

    python -m tests.reliability.readers TARGET COUNT

reads so many mutants in this process, and prints what came of it as one line of JSON.
"""

from __future__ import annotations

import json
import os
import random
import resource
import subprocess
import sys
import time
import traceback
from collections import Counter
from pathlib import Path
from typing import Any

from ppedge.errors import PpedgeError
from ppedge.server.errors import ApiError
from tests.reliability.mutation import mutant
from tests.reliability.setting import Found, scratch
from tests.reliability.targets import TARGETS

MEMORY_BYTES = 4 << 30
"""A reader that asks for more than that has no bound."""

FEW = 1000
SHOWN = 5
ROOT = Path(__file__).parents[2]


def run(count: int) -> Found:
    """Give each target so many mutants, each in a process of its own where they are many."""
    found = Found({"executions": 0, "refused": 0, "crashes": 0, "tracebacks": 0, "targets": {}})
    for name in TARGETS:
        told = read_mutants(name, count) if count < FEW else _in_a_process(name, count, found)
        if told:
            for key in ("executions", "refused", "tracebacks"):
                found.figures[key] += told[key]
            found.figures["targets"][name] = told
            found.wrong += [f"{name}: {error}" for error in told["errors"]]
    return found


def _in_a_process(name: str, count: int, found: Found) -> dict[str, Any] | None:
    """What `read_mutants` tells, from a process of its own; None where that crashed."""
    done = subprocess.run(
        [sys.executable, "-m", __name__, name, str(count)],
        capture_output=True,
        cwd=ROOT,
        check=False,
    )
    if done.returncode == 0:
        told: dict[str, Any] = json.loads(done.stdout)
        return told
    found.figures["crashes"] += 1
    said = done.stderr.decode(errors="replace")[-400:]
    found.wrong.append(f"{name}: the process ended with {done.returncode}: {said}")
    return None


def read_mutants(name: str, count: int) -> dict[str, Any]:
    """Read so many mutants; what else than one of ppedge's errors comes out is a traceback."""
    with scratch(memory=True) as folder:
        target = TARGETS[name](folder)
        samples = target.samples
        for sample in samples:
            target.read(sample)  # What is mutated must be good to begin with.
        outcomes, errors = Counter[str](), []
        slowest, began = 0.0, time.perf_counter()
        for seed in range(count):
            data = mutant(samples, random.Random(f"{name} {seed}"))
            start = time.perf_counter()
            try:
                target.read(data)
                outcomes["read"] += 1
            except (PpedgeError, ApiError) as error:
                outcomes["refused"] += 1
                if "\n" in str(error):
                    outcomes["tracebacks"] += 1
                    errors.append(f"seed {seed}: an error of several lines: {error}")
            except Exception:
                outcomes["tracebacks"] += 1
                if len(errors) < SHOWN:
                    errors.append(f"seed {seed}: {traceback.format_exc(limit=-3)}")
            slowest = max(slowest, time.perf_counter() - start)
        seconds = time.perf_counter() - began
    counts = {key: outcomes[key] for key in ("read", "refused", "tracebacks")}
    return {
        "executions": count,
        **counts,
        "seconds": round(seconds, 1),
        "slowest_ms": round(1000 * slowest),
        "errors": errors[:SHOWN],
    }


def _main() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    os.environ["PPEDGE_HOME"] = os.devnull  # Nothing read may be kept anywhere.
    print(json.dumps(read_mutants(sys.argv[1], int(sys.argv[2]))))


if __name__ == "__main__":
    _main()
