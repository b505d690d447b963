"""Training examples of synthetic people: a persona, some of its notes, and what else it writes.

    SyntheticPersonas(texts).draw(rng)

The history is other plain texts in the same persona, so what there is to take from it is the
persona. A prompt is answered, a plain text is said anew, or a few words are put as a title.

    python -m export.synthetic.dataset --corpus runs/corpus.json --out runs/personas --count 48

writes the questions of dev personas in the LaMP format, as task 7 has it (a person's texts, and a
prompt), for ``export.evaluate``.
"""

from __future__ import annotations

import argparse
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from export.data.lamp import Question, write_questions
from export.synthetic.corpus import CorpusText, read_corpus
from export.synthetic.personas import SyntheticPersona, draw_persona
from export.tools.commands import check_seed, one_line_errors, positive
from export.tools.draws import one_of
from ppedge.notes.reader import Note

TASK = 0  # beside LaMP's 1 to 7
RESTATE = (
    "Say this in my own words: {}",
    "Rewrite this the way I write: {}",
    "Put this in my style: {}",
    "Paraphrase: {}",
)
NAME = ("Write a title for this: {}", "Give this a heading: {}", "Subject line for: {}")
HELD_OUT = 8  # the answers to every so manyth prompt, by its hash, are for dev alone


class SyntheticPersonas:
    """Draws a synthetic person and what is asked of them."""

    def __init__(self, texts: Sequence[CorpusText], *, dev: bool = False) -> None:
        """Take the texts that are for training, or those that are for dev."""
        self.texts = [text for text in texts if _held_out(text) == dev]

    def draw(self, rng: np.random.Generator) -> Question:
        """One example, of a person who is drawn for it."""
        persona = draw_persona(rng)
        n_notes = int(rng.integers(3, 25))
        if rng.random() < 0.06:  # Of whom nothing is known, the model writes as it does.
            persona, n_notes = SyntheticPersona(), 0
        # A plain text has one place in an example: what is asked for is never among the notes.
        chosen = rng.choice(len(self.texts), n_notes + 1, replace=False)
        asked, *others = (self.texts[i] for i in chosen)
        kind = int(rng.choice(3, p=(0.65, 0.2, 0.15)))
        notes = []
        for text in others:
            # Mostly notes without an input, and of what is asked for some with one.
            of_kind = kind if rng.random() < 0.4 else -1
            prompt, said = write_as(text, persona, of_kind, rng)
            notes.append(Note(said, prompt))
        prompt, said = write_as(asked, persona, kind, rng)
        number = int(rng.integers(1 << 62))
        return Question(
            id=f"persona-{number}",
            user=f"persona-{number}",
            task=TASK,
            input=prompt,
            output=said,
            history=tuple(notes),
        )


def _held_out(text: CorpusText) -> bool:
    # By the prompt: one that is answered several times stays on one side.
    return zlib.crc32(text.prompt.encode()) % HELD_OUT == 0


def dev_questions(texts: Sequence[CorpusText], limit: int, seed: int) -> list[Question]:
    """Questions of personas and texts that training has not seen, always the same for a seed."""
    synthetic = SyntheticPersonas(texts, dev=True)
    return [synthetic.draw(np.random.default_rng([seed, 9, i])) for i in range(limit)]


def write_as(
    text: CorpusText, persona: SyntheticPersona, kind: int, rng: np.random.Generator
) -> tuple[str, str]:
    """What a person is asked and writes; of no kind (-1), the text stands by itself."""
    if kind == 2:
        topic = text.topic[:1].upper() + text.topic[1:]
        return one_of(rng, NAME).format(text.text), persona.title(topic, rng)
    said = persona.say(text.text, rng)
    if kind == 1:
        return one_of(rng, RESTATE).format(text.text), said
    return text.prompt if kind == 0 else "", said


def main(words: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m export.synthetic.dataset",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--corpus", type=Path, required=True, help="the file of export.corpus")
    add("--out", type=Path, required=True, metavar="DIR", help="folder of the two files")
    add(
        "--count",
        type=positive,
        default=48,
        help="questions, each of another persona (default: 48)",
    )
    add("--seed", type=int, default=0, help="of the personas (default: 0)")
    args = parser.parse_args(words)
    check_seed(parser, args.seed)
    with one_line_errors("export.synthetic.dataset"):
        questions = dev_questions(read_corpus(args.corpus), args.count, args.seed)
        write_questions(args.out, "LaMP_7_voices", questions)
        print(f"{len(questions)} questions: {args.out}")


if __name__ == "__main__":
    main()
