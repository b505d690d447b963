"""Several answers of a plug to everyday prompts, each judged: what `export.chosen` learns from.

    python -m export.preferences --data DATA --corpus runs/corpus.json --out runs/preferences.jsonl
    python -m export.preferences … --dev --people 12 --out runs/dev_preferences.jsonl

People as in a training with turns, synthetic ones and people of free text, are asked everyday
prompts (``export/synthetic/corpus.py``, none of those that answers are measured on), and answered
for as ``ppedge personalize --best-of N`` does. One line of JSON a person: notes, turns, and of each
prompt the answers with their judgements (``export/training/preference.py`` reads it). The same
command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
import zlib
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from export.data.authors import read_authors
from export.data.lamp import read_questions
from export.evaluation.records import differing
from export.synthetic.corpus import MOST, prompts, read_corpus
from export.synthetic.dataset import SyntheticPersonas
from export.synthetic.personas import draw_persona
from export.tools.commands import check_output, check_seed, number, one_line_errors, positive
from export.tools.draws import one_of
from export.training.sampler import Sampler
from export.training.turn_sampler import RUNNING_TEXT, free_text, said_by, some
from export.training.turns import TURNS
from ppedge import Note, Persona, Personalizer, Sampling
from ppedge.answer import BestOf
from ppedge.fitting import chat_form
from ppedge.plug.no_plug import NoPlug
from ppedge.plug.plug import Plug
from ppedge.turns.prefix import make_turns

SYNTHETIC = 0.55  # of the people
NOTES = (5, 24)  # of a synthetic one
LONGEST = 64  # tokens of an answer
HELD_OUT = 8  # of so many prompts, one is dev's
Rng = np.random.Generator


class People:
    """Draws people and what they are asked; dev's share neither with those to train on.

    Args:
        args: the command line.
    """

    def __init__(self, args: argparse.Namespace) -> None:
        split = "dev" if args.dev else "train"
        questions = [
            question
            for task in args.tasks
            for question in read_questions(args.data / f"LaMP_{task}_style", split)
        ]
        self.synthetic = SyntheticPersonas(read_corpus(args.corpus), dev=args.dev)
        authors = read_authors(args.authors) if args.authors else []
        sampler = Sampler(questions, 1, args.seed)
        self.writers = free_text(sampler, authors, dev=args.dev)
        self.prompts = asked_of(args)

    def draw(self, rng: Rng) -> tuple[str, list[Note]]:
        """Somebody's kind and notes."""
        if not self.writers or rng.random() < SYNTHETIC:
            return "persona", said_by(draw_persona(rng), self._texts(rng), rng)
        source = one_of(rng, list(self.writers))
        return source, list(some(one_of(rng, self.writers[source]), rng))

    def _texts(self, rng: Rng) -> list[Any]:
        texts = self.synthetic.texts
        count = min(int(rng.integers(NOTES[0], NOTES[1] + 1)), len(texts))
        return [texts[i] for i in rng.choice(len(texts), count, replace=False)]

    def ask(self, count: int, rng: Rng) -> list[str]:
        """What somebody is asked."""
        return [self.prompts[i] for i in rng.choice(len(self.prompts), count, replace=False)]


def asked_of(args: argparse.Namespace) -> list[str]:
    """All prompts that people are asked, or all that dev's are; by a hash, whatever the seed."""
    asked = dict.fromkeys(prompt for prompt, _ in prompts(MOST, args.seed))
    return [p for p in asked if (zlib.crc32(p.encode()) % HELD_OUT == 0) == args.dev]


def answered(
    personalizer: Personalizer, persona: Persona, prompt: str, args: argparse.Namespace, seed: int
) -> list[dict[str, Any]]:
    """The answers to one prompt, each with its judgement."""
    sampling = Sampling(max_tokens=LONGEST, temperature=args.temperature, seed=seed)
    answer = personalizer.stream(prompt, persona, sampling, best_of=args.answers)
    answer.read()
    written = answer.generation
    assert isinstance(written, BestOf)  # More than one answer of somebody with notes.
    bare = bare_logprobs(personalizer, prompt, [each.text for each in written.candidates])
    return [
        {
            "text": candidate.text,
            "tokens": candidate.tokens,
            "end": candidate.end,
            "bare": logprob,
            **asdict(judgement),
        }
        for candidate, judgement, logprob in zip(
            written.candidates, written.judgements, bare, strict=True
        )
    ]


def bare_logprobs(personalizer: Personalizer, prompt: str, texts: Sequence[str]) -> list[float]:
    """Log-probability a token of each text behind the prompt without a persona; 0 of an empty one.

    It is what `export.free_prompts` tells of answers, with its sign turned round.
    """
    scored = [text for text in texts if text]
    found = personalizer.llm.score(personalizer.segments(prompt, None), scored)
    mean = {score.option: score.mean for score in found}
    return [mean.get(text, 0.0) for text in texts]


def record(
    personalizer: Personalizer, people: People, number: int, args: argparse.Namespace
) -> dict[str, Any]:
    """All that is kept of one person."""
    rng = np.random.default_rng([args.seed, number, 31, int(args.dev)])
    kind, notes = people.draw(rng)
    asked = []
    with (
        tempfile.TemporaryDirectory() as folder,
        personalizer.persona(Path(folder) / "store") as persona,
    ):
        persona.add(notes, personalizer.plug.encode_notes)
        for prompt in people.ask(args.prompts, rng):
            seed = int(rng.integers(1 << 31))
            answers = answered(personalizer, persona, prompt, args, seed)
            asked.append({"prompt": prompt, "answers": answers})
    form = chat_form(personalizer.llm, personalizer.plug, _nobody)
    turns = make_turns(personalizer.llm, form, notes, TURNS)
    return {
        "kind": kind,
        "notes": [[note.input, note.output] for note in notes],
        "turns": [[turn.ask, turn.answer] for turn in turns],
        "asked": asked,
    }


def _nobody(line: str) -> None:
    """A plug's own template leaves nothing to tell."""


def settings(args: argparse.Namespace, plug: Plug | NoPlug) -> dict[str, str]:
    """What answers hang on, as text; it stands in every line."""
    names = ("dev", "tasks", "prompts", "answers", "temperature", "seed")
    told = {name: str(getattr(args, name)) for name in names}
    return {"plug": plug.sha256 if isinstance(plug, Plug) else plug.name, **told}


def done_lines(path: Path, wanted: dict[str, str]) -> int:
    """How many lines there are; what stands behind the last line break is cut off.

    Raises:
        ValueError: the file is not of this command, or of a run with other settings; it is as it
            was.
    """
    data = path.read_bytes() if path.exists() else b""
    if not data:
        return 0
    whole = data[: data.rfind(b"\n") + 1]
    try:
        begun = dict(json.loads(whole.split(b"\n")[0])["settings"])
    except (ValueError, KeyError, TypeError):
        raise ValueError(
            f"{path}: holds no line of export.preferences to go on from; name another file"
        ) from None
    if names := differing(begun, wanted):
        raise ValueError(
            f"{path}: begun with other settings ({', '.join(names)}); run with those, or name "
            "another file"
        )
    if len(whole) < len(data):
        path.write_bytes(whole)
    return whole.count(b"\n")


def parse(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m export.preferences",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--plug", help="the plug (default: the one that ppedge uses)")
    add("--llm", help="GGUF file (default: the one that ppedge uses)")
    add("--data", type=Path, required=True, help="folder of LaMP_N_style folders")
    add("--corpus", type=Path, required=True, help="file of export.corpus")
    add("--authors", type=Path, metavar="FILE", help="of export.authors")
    add("--tasks", type=int, nargs="+", default=[*RUNNING_TEXT], choices=RUNNING_TEXT,
        metavar="TASK", help="whose people are writers (default: 5 to 7)")  # fmt: skip
    add("--out", type=Path, required=True, help="JSON Lines file to write")
    add("--dev", action="store_true", help="ask dev people, and other prompts")
    add("--people", type=positive, default=100, help="(default: 100)")
    add("--prompts", type=positive, default=8, help="that each is asked (default: 8)")
    add("--answers", type=positive, default=6, help="to each prompt (default: 6)")
    add("--temperature", type=number("'{}' is no temperature", 0), default=0.45,
        help="of the answers (default: 0.45)")  # fmt: skip
    add("--threads", type=positive, help="of the model")
    add("--seed", type=int, default=0)
    args = parser.parse_args(words)
    check_seed(parser, args.seed)
    check_output(parser, args.out)
    if args.answers < 2:
        parser.error("--answers must be 2 or more: one is preferred over another")
    return args


def ask_all(personalizer: Personalizer, people: People, args: argparse.Namespace) -> None:
    """Ask everybody who was not asked yet, and write a line of each."""
    told = settings(args, personalizer.plug)
    done, begun = done_lines(args.out, told), time.time()
    with args.out.open("a", encoding="utf-8") as file:
        for number in range(done, args.people):
            found = {"settings": told, **record(personalizer, people, number, args)}
            print(json.dumps(found, ensure_ascii=False), file=file, flush=True)
            print(f"{number + 1} of {args.people}, {time.time() - begun:.0f} s", flush=True)


def main(words: Sequence[str] | None = None) -> None:
    """The command line."""
    args = parse(words)
    with one_line_errors("export.preferences", stopped="the same command goes on"):
        people = People(args)
        with Personalizer.open(args.llm, args.plug, n_threads=args.threads) as personalizer:
            ask_all(personalizer, people, args)


if __name__ == "__main__":
    main(sys.argv[1:])
