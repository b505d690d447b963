"""Write an answer to the terminal as it comes; Ctrl-C ends it and keeps what was written.

python examples/apps/stream_to_terminal.py
python examples/apps/stream_to_terminal.py my-notes.jsonl --store my-store --prompt "Dear Ann,"

Without --store the notes are encoded anew each time and leave nothing behind. Ctrl-C is seen
between two calls into the model; background_thread.py shows how to see it at once.
"""

import argparse
import signal
import sys
import tempfile
from pathlib import Path

from ppedge import Personalizer, PpedgeError, Sampling, read_notes

NOTES = Path(__file__).parents[1] / "notes.jsonl"


def main() -> int:
    """Run the program; return its exit code."""
    parser = argparse.ArgumentParser(description="Write as the author of some notes would.")
    parser.add_argument("notes", nargs="?", default=NOTES, help="JSON Lines, one note a line")
    parser.add_argument("--store", help="folder that keeps the encoded notes")
    parser.add_argument("--prompt", default="Write a short note about the rain")
    parser.add_argument("--max-tokens", type=int, default=24)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        store = given.store or Path(folder) / "persona"
        with Personalizer.open() as personalizer, personalizer.persona(store) as persona:
            persona.sync(read_notes(given.notes), personalizer.plug.encode_notes)
            sampling = Sampling(max_tokens=given.max_tokens)
            answer = personalizer.stream(given.prompt, persona, sampling)
            signal.signal(signal.SIGINT, lambda *_: answer.cancel())
            for piece in answer:
                print(piece, end="", flush=True)
            print()
            return 130 if answer.generation.finish == "cancelled" else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except PpedgeError as error:
        sys.exit(f"Error: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
