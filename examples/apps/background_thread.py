"""Write an answer on a worker thread while the main thread stays free, and may cancel it.

python examples/apps/background_thread.py
python examples/apps/background_thread.py my-notes.jsonl --store my-store --cancel-after 0.5

The main thread stands for the event loop of an app. Ctrl-C ends the answer at once.
"""

import argparse
import sys
import tempfile
import time
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path

from ppedge import Answer, Personalizer, PpedgeError, Sampling, read_notes

NOTES = Path(__file__).parents[1] / "notes.jsonl"


def follow(answer: Answer, work: Future[str], seconds: float) -> None:
    """Show what has come so far, and so on; cancel the answer when the time is up."""
    shown, end = 0, time.monotonic() + seconds
    while not work.done() or shown < len(answer.generation.text):
        text = answer.generation.text
        print(text[shown:], end="", flush=True)
        shown = len(text)
        if time.monotonic() > end:
            answer.cancel()
        wait([work], timeout=0.05)  # An app would look after its window here.


def main() -> None:
    """Run the program."""
    parser = argparse.ArgumentParser(description="Write an answer in the background.")
    parser.add_argument("notes", nargs="?", default=NOTES, help="JSON Lines, one note a line")
    parser.add_argument("--store", help="folder that keeps the encoded notes")
    parser.add_argument("--cancel-after", type=float, default=60.0, metavar="SECONDS")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(1) as worker:
        store = given.store or Path(folder) / "persona"
        with Personalizer.open() as personalizer, personalizer.persona(store) as persona:
            persona.sync(read_notes(given.notes), personalizer.plug.encode_notes)
            prompt = "Write a short note about the rain"
            answer = personalizer.stream(prompt, persona, Sampling(max_tokens=24))
            work = worker.submit(answer.read)
            try:
                follow(answer, work, given.cancel_after)
            finally:
                answer.cancel()
                wait([work])
            work.result()  # Raises what went wrong, if anything did.
            print(f"\n({answer.generation.finish})")


if __name__ == "__main__":
    try:
        main()
    except (PpedgeError, KeyboardInterrupt) as error:
        sys.exit(f"Error: {error}" if isinstance(error, PpedgeError) else 130)
