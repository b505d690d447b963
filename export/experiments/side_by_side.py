"""Answers with a person's notes beside ones without: what the run time does, unselected.

    python -m export.experiments.side_by_side --count 40 --out docs/examples.md \\
        --notes examples/notes.jsonl examples/people/*.jsonl

Prompts, files and seeds are dealt out by ``--seed`` alone, one answer each, and every answer is
printed as it came. A pair shares its prompt and the seed of its sampling.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from export.tools.commands import (
    check_output,
    check_seed,
    later_seed,
    one_line_errors,
    positive,
    replacing,
)
from ppedge.llm.sampling import Sampling
from ppedge.notes.reader import Note, read_notes
from ppedge.personalizer import Personalizer

PROMPTS = (
    "Write a short post about the rain",
    "Write a note to the neighbours about the broken lift.",
    "Reply to this message: Can you come on Saturday?",
    "Tell me about your day.",
    "Write a birthday greeting for Sam.",
    "What do you think of the new kettle?",
    "Write a short post about a marathon.",
    "Explain why the report is late.",
    "Describe your town in two sentences.",
    "Write a message about the lost umbrella.",
)
SHOWN = 2  # notes of each file that are printed
MAX_TOKENS = 80


@dataclass(frozen=True)
class Pair:
    """One prompt, answered twice."""

    prompt: str
    notes: str  # name of the file
    seed: int
    without: str
    answer: str


def make(
    personalizer: Personalizer,
    histories: dict[str, list[Note]],
    seed: int,
    count: int = len(PROMPTS),
) -> list[Pair]:
    """Answer every prompt without a persona and with one.

    Args:
        personalizer: model and plug.
        histories: notes by the name of their file; prompts are dealt to them in turn.
        seed: of the dealing and of every answer.
        count: of pairs; beyond the number of prompts they come round again, to others.
    """
    order = np.random.default_rng([seed, 11]).permutation(len(PROMPTS))
    pairs = []
    for number in range(count):
        name = list(histories)[number % len(histories)]
        prompt = PROMPTS[order[number % len(PROMPTS)]]
        sampling = Sampling(seed=later_seed(seed, number), max_tokens=MAX_TOKENS)
        with (
            tempfile.TemporaryDirectory() as folder,
            personalizer.persona(folder) as persona,
        ):
            persona.add(histories[name], personalizer.plug.encode_notes)
            answer = personalizer.stream(prompt, persona, sampling).read()
        without = personalizer.stream(prompt, None, sampling).read()
        pairs.append(Pair(prompt, name, sampling.seed or 0, without, answer))
    return pairs


def show(pairs: Sequence[Pair], histories: dict[str, list[Note]], about: str) -> str:
    """A Markdown page."""
    lines = [
        f"# {len(pairs)} pairs, unselected",
        "",
        f"Made by `{about}`: prompts, notes and seeds are dealt out by its seed, and every answer",
        "stands here as it came, good or bad. The notes were written by hand for this page, and no",
        "plug was trained on them.",
        "",
        "## Whose notes",
        "",
    ]
    for name, notes in histories.items():
        lines += [f"`{name}`, {len(notes)} notes, the first:", ""]
        lines += [_block(note.output) for note in notes[:SHOWN]]
    lines += ["## The pairs", ""]
    for number, pair in enumerate(pairs, 1):
        lines += [
            f"### {number}. {pair.prompt}",
            "",
            f"With `{pair.notes}`, seed {pair.seed}:",
            "",
            _block(pair.answer),
            "Without notes:",
            "",
            _block(pair.without),
        ]
    return "\n".join(lines).rstrip() + "\n"


def _block(text: str) -> str:
    """Text as it is, fenced; the fence is longer than any in it."""
    fence = "```"
    while fence in text:
        fence += "`"
    return f"{fence}text\n{text}\n{fence}\n"


def main(words: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m export.experiments.side_by_side",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--notes", type=Path, nargs="+", required=True, help="files of notes, .jsonl")
    add("--out", type=Path, required=True, help="Markdown file to write")
    add("--plug", type=Path, help="folder or .zip (default: the one ppedge ships)")
    add("--llm", type=Path, help="GGUF file (default: the packaged model)")
    add("--count", type=positive, default=len(PROMPTS), help="pairs (default: one a prompt)")
    add("--seed", type=int, default=0, help="of the dealing and the answers (default: 0)")
    add("--json", type=Path, help="also write the pairs to this file")
    args = parser.parse_args(words)
    check_seed(parser, args.seed)
    for path in (args.out, args.json):
        check_output(parser, path)
    with one_line_errors("export.experiments.side_by_side"):
        histories = {str(path): list(read_notes(path)) for path in args.notes}
        for name in (name for name, notes in histories.items() if not notes):
            raise ValueError(f"{name}: holds no notes; give a file with one a line")
        files = " ".join(histories)
        command = f"python -m export.experiments.side_by_side --notes {files}"
        about = f"{command} --count {args.count} --seed {args.seed}"
        with Personalizer.open(args.llm, args.plug) as personalizer:
            pairs = make(personalizer, histories, args.seed, args.count)
        with replacing(args.out) as file:
            file.write(show(pairs, histories, about))
        if args.json:
            with replacing(args.json) as file:
                json.dump([vars(pair) for pair in pairs], file, indent=1)
        print(f"{len(pairs)} pairs: {args.out}")


if __name__ == "__main__":
    main()
