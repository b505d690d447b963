"""How long a person waits: the first token behind a persona's kept turns, against a bare prompt.

    python -m tests.bench.first_token [--history NOTES.jsonl] [--rounds 6] [--threads 2]

Prompts of both kinds take turns in one process, so that what else the machine does meets them
alike. The turns are read before the clock starts, as they are in every use but the first.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path

from ppedge.blend import Blend
from ppedge.cli.measuring import PROMPTS, ask
from ppedge.notes.reader import read_notes
from ppedge.personalizer import Personalizer

HISTORY = Path(__file__).parents[2] / "examples" / "notes.jsonl"
BARE = "bare"
WAYS: dict[str, Blend | None] = {
    BARE: None,
    "4 turns": Blend(turns=4),
    "8 turns (default)": Blend(),
    "8 turns, no soft tokens": Blend(soft=False),
    "8 turns, nothing else": Blend(soft=False, style=0, rules=False, topic=0),
}


def measure(history: Path, rounds: int, threads: int) -> dict[str, tuple[list[float], list[float]]]:
    """Return seconds to the first token and seconds a token, of each way."""
    found: dict[str, tuple[list[float], list[float]]] = {way: ([], []) for way in WAYS}
    with (
        Personalizer.open(n_threads=threads) as personalizer,
        tempfile.TemporaryDirectory() as folder,
        personalizer.persona(Path(folder) / "me") as persona,
    ):
        persona.add(list(read_notes(history)), personalizer.plug.encode_notes)
        for _ in range(rounds):
            for way, blend in WAYS.items():
                who = persona if blend else None
                ask(personalizer, who, "Say hello.", 2, blend)  # holds what comes before
                for prompt in PROMPTS:
                    first, each = ask(personalizer, who, prompt, 24, blend)
                    found[way][0].append(first)
                    found[way][1].append(each)
    return found


def main() -> None:
    """Measure and print a table of medians, and ratios to the bare prompt."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--history", type=Path, default=HISTORY)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    found = measure(args.history, args.rounds, args.threads)
    bare = [statistics.median(values) for values in found[BARE]]
    print("| | first token, ms | ratio | a token after it, ms | ratio |\n|---|---|---|---|---|")
    for way, values in found.items():
        first, each = (statistics.median(of) for of in values)
        ratios = f"{first / bare[0]:.2f}", f"{each / bare[1]:.2f}"
        print(f"| {way} | {1000 * first:.0f} | {ratios[0]} | {1000 * each:.1f} | {ratios[1]} |")


if __name__ == "__main__":
    main()
