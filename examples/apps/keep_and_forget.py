"""Keep notes in a store that lasts: add, list, forget, verify.

python examples/apps/keep_and_forget.py
python examples/apps/keep_and_forget.py my-notes.jsonl --store my-store --forget "old address"

Without --store the notes are kept in a temporary folder, which goes when the program ends.
"""

import argparse
import sys
import tempfile
from itertools import islice
from pathlib import Path

from ppedge import Persona, Personalizer, PpedgeError, read_notes

NOTES = Path(__file__).parents[1] / "notes.jsonl"


def show(persona: Persona) -> None:
    """List the first notes, one a line."""
    print(f"{len(persona)} notes are kept:")
    for note in islice(persona.notes(), 3):
        print(f"  {' '.join(note.output.split())[:60]}")


def main() -> int:
    """Run the program; return its exit code."""
    parser = argparse.ArgumentParser(description="Keep notes, and forget some of them.")
    parser.add_argument("notes", nargs="?", default=NOTES, help="JSON Lines, one note a line")
    parser.add_argument("--store", help="folder that keeps the encoded notes")
    parser.add_argument("--forget", default="rain", metavar="WORDS", help="forget notes with these")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        store = given.store or Path(folder) / "persona"
        with Personalizer.open() as personalizer, personalizer.persona(store) as persona:
            # Adding a file again does nothing; a known id with new content replaces the old note.
            report = persona.add(read_notes(given.notes), personalizer.plug.encode_notes)
            print(f"added {report.added}, encoded {report.encoded}")
            show(persona)
            receipt = persona.forget(text=given.forget)
            print(f"forgot {len(receipt.ids)} notes that hold {given.forget!r}")
            print(f"the store is now {receipt.store_after[:12]}")
            show(persona)
            problems = persona.verify()
            for problem in problems:
                print(problem.message)
            return 1 if problems else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except PpedgeError as error:
        sys.exit(f"Error: {error}")
