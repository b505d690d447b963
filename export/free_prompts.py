"""Which form of personalisation answers everyday prompts best?

    python -m export.free_prompts --json runs/free.json
    python -m export.free_prompts --json runs/free.json --data DATA --methods bare@0.2,soft
    python -m export.free_prompts --json runs/all.json --scored runs/free.json runs/more.json

People written by hand (``export/people/dev``), and with ``--data`` real ones of dev files, are each
asked a few of thirty prompts by every method (``free_methods.py`` of ``export/evaluation``). No
answer is right, so answers are measured (``free_measures.py``, ``free_scores.py``):

- voice: is the right person the nearest of eight, by n-grams of characters? chance is 0.125;
- voice2: the same by punctuation, case, lengths and function words, without any n-gram;
- sense: cosine of prompt and answer by all-MiniLM-L6-v2; who only says back what was asked has most
  of all, so see it beside
- echo: share of an answer's words in runs of three or more that the prompt has too;
- nats: loss per token of the answer under the bare model;
- words: how many there are;
- copies, loops, short: shares that repeat eight words of a note, go in circles, or have no four
  words;
- first, total: seconds to the first piece of text and to the end, medians.

The last row is what the two voices say of the people's own notes: what a perfect answer may reach.
The table is printed; answers and everything else go to the JSON file. A run that is stopped goes on
where it was: finished answers wait in a file beside it.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import time
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import IO

import numpy as np

from export.evaluation.free_methods import DEFAULT, Method, Stage, parse, split
from export.evaluation.free_people import DEV, Person, read_folder, read_real
from export.evaluation.free_scores import GIVEN, Record, score, summary, table
from export.tools.commands import check_output, check_seed, one_line_errors, positive, replacing
from ppedge import Personalizer
from ppedge.llm.sampling import MAX_SEED

PROMPTS = (
    "What should I cook tonight?",
    "Write a short e-mail to my landlord about the broken heating.",
    "How did you spend the weekend?",
    "Write a card for a friend who turns forty.",
    "Tell my boss that I am ill and will not come in today.",
    "Say thank you to the neighbour who fed the cat.",
    "What do you think of the weather lately?",
    "Turn down an invitation to a wedding politely.",
    "Complain to a restaurant about a cold meal.",
    "Recommend me a film for a quiet evening.",
    "How was your holiday?",
    "Invite a few friends to a barbecue on Sunday.",
    "Apologise to a colleague for missing the meeting.",
    "What are your plans for next year?",
    "Describe the best meal you ever had.",
    "Ask the school when the term starts.",
    "What makes a good morning?",
    "Cheer up a friend who failed an exam.",
    "Tell me something funny that happened to you.",
    "Should I buy a car or a bicycle?",
    "Write an advertisement for an old sofa that I want to sell.",
    "How do you relax after a long day?",
    "Leave a note for the person who delivers the parcels.",
    "What was your first job like?",
    "Ask my sister whether she can look after the children on Friday.",
    "What would you change about your street?",
    "Write a review of a hotel where you stayed.",
    "What are you reading at the moment?",
    "Tell the team that the project is finished.",
    "Give me some advice for moving house.",
)
CONTEXT = 4096  # positions: room for eight long notes


def prompts_of(person: Person, count: int, seed: int) -> list[str]:
    """The ``count`` prompts that a person is asked, drawn by seed."""
    rng = np.random.default_rng([seed, 22, zlib.crc32(person.name.encode())])
    return [PROMPTS[i] for i in rng.permutation(len(PROMPTS))[:count].tolist()]


def seed_of(person: Person, prompt: str, seed: int) -> int:
    """The seed of an answer: the same for all methods."""
    return zlib.crc32(f"{seed}\n{person.name}\n{prompt}".encode()) % (MAX_SEED + 1)


# --- answers that are kept while others are made ----------------------------------------------


class Kept:
    """Finished answers, one a line of a file beside the one to be written.

    Args:
        path: the file that is written at the end.
        settings: all that answers depend on; those made with others are refused.

    Raises:
        ValueError: there is such a file, of other settings.
    """

    def __init__(self, path: Path, settings: Record) -> None:
        self.path = path.with_name(path.name + ".partial")
        self.answers: dict[tuple[str, str, str], Record] = {}
        lines = self.path.read_text("utf-8").split("\n") if self.path.exists() else []
        if not lines[1:]:
            self.path.write_text(json.dumps(settings) + "\n", "utf-8")
            return
        if json.loads(lines[0]) != settings:
            raise ValueError(f"{self.path}: is of a run with other settings; remove it to begin")
        for line in lines[1:-1]:  # What stands behind the last line break was cut off.
            answer = json.loads(line)
            self.answers[_key(answer)] = answer
        if lines[-1]:
            self.path.write_text("\n".join(lines[:-1]) + "\n", "utf-8")

    def opened(self) -> IO[str]:
        """The file, to add lines to."""
        return self.path.open("a", encoding="utf-8")


def _key(answer: Record) -> tuple[str, str, str]:
    return answer["method"], answer["person"], answer["prompt"]


def answer_all(
    stage: Stage, methods: Sequence[str], asked: dict[Person, list[str]], seed: int, kept: Kept
) -> Iterator[Record]:
    """Answers of every method, person and prompt, those that were kept among them."""
    total, made, begun = len(methods) * sum(map(len, asked.values())), 0, time.monotonic()
    done = 0
    with kept.opened() as file:
        for name in methods:
            method = parse(name, stage)
            for person, prompts in asked.items():
                entered = False
                for prompt in prompts:
                    done += 1
                    if (answer := kept.answers.get((name, person.name, prompt))) is None:
                        if not entered:
                            stage.enter(person)
                            entered = True
                        answer = _ask(method, person, prompt, seed_of(person, prompt, seed))
                        print(json.dumps(answer), file=file, flush=True)
                        made += 1
                    yield answer
                minutes = (time.monotonic() - begun) / 60
                print(
                    f"{done}/{total} answers, {made} now, {minutes:.1f} min: {name}, {person.name}",
                    file=sys.stderr,
                    flush=True,
                )


def _ask(method: Method, person: Person, prompt: str, seed: int) -> Record:
    where = {"method": method.name, "person": person.name, "prompt": prompt, "seed": seed}
    return where | asdict(method(person, prompt, seed))


# --- the command ------------------------------------------------------------------------------


def main(words: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m export.free_prompts",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--json", type=Path, required=True, help="JSON file to write")
    add("--people", type=Path, default=DEV, help="folder of NAME.jsonl (default: the packaged one)")
    add("--data", type=Path, help="folder of LaMP_N_style folders, for real people")
    add("--real", type=positive, default=8, help="real people of each kind (default: 8)")
    names = ",".join(DEFAULT)
    add("--methods", default=names, help=f"in the table's order, any with @T (default: {names})")
    add("--prompts", type=positive, default=10, help="prompts a person (default: 10, most 30)")
    add("--limit", type=positive, help="ask only so many people of each kind")
    add("--tokens", type=positive, default=80, help="longest answer (default: 80)")
    add("--scored", type=Path, nargs="+", metavar="ANSWERS", help="only score what these hold")
    add("--plug", type=Path, help="folder or .zip (default: the one ppedge ships)")
    add("--llm", type=Path, help="GGUF file (default: the packaged model)")
    add("--seed", type=int, default=0, help="of people, prompts and answers (default: 0)")
    add("--threads", type=positive, help="CPU threads of the model (default: chosen)")
    args = parser.parse_args(words)
    check_seed(parser, args.seed)
    check_output(parser, args.json)
    if args.prompts > len(PROMPTS):
        parser.error(f"--prompts must be at most {len(PROMPTS)}, not {args.prompts}")
    methods = list(dict.fromkeys(args.methods.split(",")))
    try:
        for name in methods:
            split(name)
    except ValueError as error:
        parser.error(f"--methods: {error}")
    with one_line_errors("export.free_prompts", "run it again to go on"):
        _run(args, methods)


def _run(args: argparse.Namespace, methods: Sequence[str]) -> None:
    people = read_folder(args.people)
    if args.data:
        people += read_real(args.data, args.real, args.seed)
    kept = None
    with Personalizer.open(
        args.llm, args.plug, n_ctx=CONTEXT, n_threads=args.threads
    ) as personalizer:
        settings = _settings(args, people, personalizer)
        if args.scored:
            answers = [each for path in args.scored for each in read_answers(path)]
        else:
            asked = {
                person: prompts_of(person, args.prompts, args.seed)
                for person in limited(people, args.limit)
            }
            kept = Kept(args.json, settings)
            with Stage(personalizer, args.tokens) as stage:
                answers = list(answer_all(stage, methods, asked, args.seed, kept))
        scored = score(answers, people, personalizer)
    told = summary(scored, people, args.seed)
    with replacing(args.json) as file:
        whole = {"settings": settings, "summary": told, "answers": scored}
        json.dump(whole, file, indent=1, ensure_ascii=False)
    if kept:
        kept.path.unlink()
    print(table(told), end="")


def limited(people: Sequence[Person], limit: int | None) -> list[Person]:
    """The first ``limit`` people of each kind."""
    kinds = dict.fromkeys(person.kind for person in people)
    return [
        person
        for kind in kinds
        for person in [each for each in people if each.kind == kind][:limit]
    ]


def _settings(
    args: argparse.Namespace, people: Sequence[Person], personalizer: Personalizer
) -> Record:
    """What an answer depends on, beside method, person and prompt."""
    notes = hashlib.sha256()
    for person in people:
        notes.update("\n".join([person.name, *(note.digest for note in person.notes)]).encode())
    return {
        "seed": args.seed,
        "tokens": args.tokens,
        "notes": notes.hexdigest(),
        "plug": personalizer.plug.space.plug_sha256,
        "llm": personalizer.llm.path.name,
    }


def read_answers(path: Path) -> list[Record]:
    """The answers of a file of this command.

    Raises:
        ValueError: it is not such a file.
    """
    try:
        answers: list[Record] = json.loads(path.read_text("utf-8"))["answers"]
        return [{name: each[name] for name in GIVEN} for each in answers]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: not a file of export.free_prompts: {error!r}") from None


if __name__ == "__main__":
    main()
