"""Stream an answer in an event loop that stays free, under a limit of time; then two at once.

python examples/apps/async_answers.py
python examples/apps/async_answers.py my-notes.jsonl --store my-store --timeout 2

A thread does the work. Leaving the loop early, by break or by cancelling the task, ends the answer.
"""

import argparse
import asyncio
import sys
import tempfile
from pathlib import Path

from ppedge import Persona, Personalizer, PpedgeError, Sampling, read_notes

NOTES = Path(__file__).parents[1] / "notes.jsonl"
SHORT = Sampling(max_tokens=24)


async def stream(personalizer: Personalizer, persona: Persona, timeout: float) -> None:
    """Print an answer as it comes."""
    answer = await personalizer.astream("Write about the rain", persona, SHORT, timeout=timeout)
    async for piece in answer:
        print(piece, end="", flush=True)
    print(f"\n({answer.finish})")


async def write(personalizer: Personalizer, persona: Persona, prompt: str) -> str:
    """Return the whole of an answer."""
    answer = await personalizer.astream(prompt, persona, SHORT)
    return await answer.aread()


async def main() -> None:
    """Run the program."""
    parser = argparse.ArgumentParser(description="Write answers in an event loop.")
    parser.add_argument("notes", nargs="?", default=NOTES, help="JSON Lines, one note a line")
    parser.add_argument("--store", help="folder that keeps the encoded notes")
    parser.add_argument("--timeout", type=float, default=60.0, metavar="SECONDS")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        store = given.store or Path(folder) / "persona"
        with (
            await asyncio.to_thread(Personalizer.open) as personalizer,
            personalizer.persona(store) as persona,
        ):
            encode = personalizer.plug.encode_notes
            await asyncio.to_thread(persona.sync, read_notes(given.notes), encode)
            await stream(personalizer, persona, given.timeout)
            asked = ("How is the bread?", "And the weather?")
            both = (write(personalizer, persona, prompt) for prompt in asked)
            print(*await asyncio.gather(*both), sep="\n")


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except (PpedgeError, KeyboardInterrupt) as error:
        sys.exit(f"Error: {error}" if isinstance(error, PpedgeError) else 130)
