"""The first token as a persona, beside llama-cpp-python with the notes that a search found.

    python -m tests.bench.prompts [--notes 1000] [--rounds 8] [--threads 2]

One GGUF, one process, in turns. *plain* is the prompt alone in llama-cpp-python's own ``Llama``;
*BM25-4* and *dense-4* put the four notes before it that the search found, as LaMP does, and their
time includes the search. ``Llama`` keeps what two prompts have in common, as ppedge does.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ppedge.cli.made_notes import made_notes
from ppedge.cli.measuring import PROMPTS, Encoded, ask
from ppedge.personalizer import Personalizer
from ppedge.processors import usable_cores
from ppedge.store.persona import Persona
from tests.bench.encoding import fastembed_peer

K = 4
MAX_TOKENS = 8
Search = Callable[[str], Sequence[int]]
"""Prompt -> the notes to put before it."""


def chat(prompt: str, notes: Sequence[str] = ()) -> str:
    """A prompt in the default model's template, after the notes that were found."""
    before = "".join(f'"{note}"\n' for note in notes)
    given = f"These are notes that I wrote:\n{before}\nIn my manner: {prompt}" if notes else prompt
    return f"<|im_start|>user\n{given}<|im_end|>\n<|im_start|>assistant\n"


def bm25(texts: Sequence[str]) -> Search:
    import bm25s

    index = bm25s.BM25()
    index.index(bm25s.tokenize(list(texts), show_progress=False), show_progress=False)

    def search(prompt: str) -> Sequence[int]:
        words = bm25s.tokenize([prompt], show_progress=False)
        found, _ = index.retrieve(words, k=K, show_progress=False)
        return [int(i) for i in found[0]]

    return search


def dense(texts: Sequence[str], threads: int, folder: Path) -> Search:
    """Cosine of MiniLM's vectors, which fastembed makes; those of the notes are made before."""
    encode = fastembed_peer(threads, folder)
    matrix = encode(texts)
    return lambda prompt: [int(i) for i in np.argsort(matrix @ encode([prompt])[0])[::-1][:K]]


def plain_model(path: Path, threads: int) -> Any:
    from llama_cpp import Llama

    return Llama(str(path), n_ctx=2048, n_threads=threads, verbose=False)


def first_token(llama: Any, prompt: str, texts: Sequence[str], search: Search | None) -> float:
    """Seconds to the first token of ``Llama``, the search included."""
    began = time.perf_counter()
    notes = [texts[i] for i in search(prompt)] if search else []
    pieces = llama.create_completion(
        chat(prompt, notes), max_tokens=MAX_TOKENS, temperature=0.2, seed=1, stream=True
    )
    next(iter(pieces))
    first = time.perf_counter() - began
    for _ in pieces:
        pass
    return first


def ours(personalizer: Personalizer, persona: Persona | None, prompt: str) -> float:
    ask(personalizer, persona, "Say hello.", 2)  # Holds what comes before.
    return ask(personalizer, persona, prompt, MAX_TOKENS)[0]


def measure(n_notes: int, rounds: int, threads: int) -> dict[str, Any]:
    """Median seconds to the first token of each way, and what ppedge's are of each."""
    notes = made_notes(n_notes)
    texts = [note.output for note in notes]
    with (
        tempfile.TemporaryDirectory() as name,
        Personalizer.open(n_threads=threads) as personalizer,
        personalizer.persona(Path(name) / "persona") as persona,
    ):
        encoded = Encoded(personalizer.plug, notes)
        persona.add(notes, encoded.again)
        folder = Path(name) / "minilm"
        folder.mkdir()
        searches = {"BM25-4": bm25(texts), "dense-4": dense(texts, threads, folder)}
        llama = plain_model(personalizer.llm.path, threads)
        ways: dict[str, Callable[[str], float]] = {
            "ppedge, bare": lambda prompt: ours(personalizer, None, prompt),
            "ppedge, persona": lambda prompt: ours(personalizer, persona, prompt),
            "Llama, plain": lambda prompt: first_token(llama, prompt, texts, None),
        }
        for who, search in searches.items():
            ways[f"Llama, {who}"] = lambda prompt, search=search: first_token(
                llama, prompt, texts, search
            )
        found: dict[str, list[float]] = {way: [] for way in ways}
        for turn in range(-1, rounds):
            for way, call in ways.items():
                seconds = call(PROMPTS[turn % len(PROMPTS)])
                if turn >= 0:  # The first round only warms up.
                    found[way].append(seconds)
    persona_times = found["ppedge, persona"]
    return {
        "notes": n_notes,
        "rounds": rounds,
        "first_token_seconds": {way: statistics.median(times) for way, times in found.items()},
        "ratio": {
            way: statistics.median(a / b for a, b in zip(persona_times, times, strict=True))
            for way, times in found.items()
        },
    }


def main() -> None:
    """Measure and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--notes", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--threads", type=int, default=usable_cores())
    arguments = parser.parse_args()
    print(json.dumps(measure(arguments.notes, arguments.rounds, arguments.threads), indent=1))


if __name__ == "__main__":
    main()
