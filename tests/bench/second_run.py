"""A second `ppedge personalize` on an unchanged history, beside plain llama-cpp-python.

    python -m tests.bench.second_run [--notes 10000] [--rounds 5]

Both are new processes that write the same number of tokens, in turns. The history's vectors are
random: what they say does not matter to the time.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from ppedge.cli.made_notes import history_file, made_notes, write_history
from ppedge.cli.processes import PPEDGE, timed
from ppedge.defaults import find_model
from tests.bench.growth import given_store

PROMPT = "Write a short note about the rain"
MAX_TOKENS = 64


def measure(n_notes: int, rounds: int) -> dict[str, Any]:
    """Median seconds of each, and the median of their ratio in each round."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        env = {**os.environ, "PPEDGE_HOME": str(folder / "home")}
        history = history_file(folder, n_notes)
        write_history(history, made_notes(n_notes))
        given_store(history, folder / "home")
        ask = ["personalize", PROMPT, f"--history={history}", f"--max-tokens={MAX_TOKENS}"]
        ours = (*PPEDGE, *ask, "--seed=1")
        errors = folder / "stderr"
        tokens = json.loads(timed((*ours, "--json"), env, errors).out)["tokens"]["new"]
        plain = (sys.executable, "-m", "tests.bench.plain_llama")
        plain = (*plain, str(find_model()), PROMPT, str(tokens))
        timed(plain, env, errors)
        pairs = [
            (timed(ours, env, errors).whole, timed(plain, env, errors).whole) for _ in range(rounds)
        ]
    return {
        "notes": n_notes,
        "tokens": tokens,
        "ppedge_seconds": statistics.median(a for a, _ in pairs),
        "plain_seconds": statistics.median(b for _, b in pairs),
        "ratio": statistics.median(a / b for a, b in pairs),
    }


def main() -> None:
    """Measure and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--notes", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    print(json.dumps(measure(arguments.notes, arguments.rounds), indent=1))


if __name__ == "__main__":
    main()
