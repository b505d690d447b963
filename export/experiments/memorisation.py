"""Does a plug say its training texts by heart? Samples answers and looks for long word runs.

    python -m export.experiments.memorisation --data DATA --tasks 4 5 6 7 --answers 200 --seed 0

Half of the answers are to dev questions and half to general writing prompts, all with dev users'
own notes, sampled as the command line does. A run of ``--words`` words counts if a training text
has it (a note, a question's text or its answer) and neither the prompt nor that user's own notes
do. Letter case and punctuation do not count.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from export.data.lamp import Question, choose, read_questions
from export.evaluation.methods import Asked, Bench, parse_method
from export.synthetic.corpus import prompts
from export.tools.commands import (
    check_output,
    check_seed,
    later_seed,
    one_line_errors,
    positive,
    replacing,
)
from export.tools.progress import Bar
from ppedge.defaults import find_model, find_plug
from ppedge.fitting import ensure_fits
from ppedge.llm.llm import LLM
from ppedge.llm.sampling import Sampling
from ppedge.plug.plug import Plug

Run = tuple[str, ...]  # of words
MAX_TOKENS = 128
TEMPERATURE = 0.7  # so that what it knows has a chance to come up


@dataclass(frozen=True)
class Sampled:
    """An answer, and the runs of words in it that are the model's own choice."""

    prompt: str
    answer: str
    runs: set[Run]


def runs_of(text: str, n_words: int) -> set[Run]:
    """Every run of ``n_words`` words of a text, in lower case."""
    words = re.findall(r"\w+", text.lower())
    return {tuple(words[i : i + n_words]) for i in range(len(words) - n_words + 1)}


def sample(
    bench: Bench, asked: Sequence[Question], n_words: int, seed: int, bar: Bar
) -> Iterator[Sampled]:
    """Answer every question with its user's notes, each with a seed of its own."""
    method = parse_method("persona")
    for number, question in enumerate(asked):
        bar(number, f"task {question.task}", worked=number)
        each = Asked(question, ())
        bench.warm(method, each)
        composed = bench.compose(method, each)
        sampling = Sampling(
            temperature=TEMPERATURE, seed=later_seed(seed, number), max_tokens=MAX_TOKENS
        )
        answer = bench.llm.generate(
            composed.segments, sampling, processor=composed.processor
        ).read()
        runs = runs_of(answer, n_words) - runs_of(question.input, n_words)
        for note in question.history:
            for text in (note.input, note.output):
                runs -= runs_of(text, n_words)
        yield Sampled(question.input, answer, runs)


def search(sampled: Sequence[Sampled], texts: Iterable[str], n_words: int) -> set[Run]:
    """The runs of the answers that some text has; texts are read once and not kept."""
    wanted = set[Run]().union(*(each.runs for each in sampled))
    found: set[Run] = set()
    for text in texts:
        found |= runs_of(text, n_words) & wanted
    return found


def questions(data: Path, tasks: Sequence[int], count: int, seed: int) -> list[Question]:
    """Dev questions, half of them with a general writing prompt in place of their own."""
    per_task = -(-count // len(tasks))
    asked = []
    for task in tasks:
        folder = data / f"LaMP_{task}_style"
        files = (folder / f"dev_{kind}.json" for kind in ("questions", "outputs"))
        asked += choose(*files, per_task, seed)
    order = np.random.default_rng([seed, 12]).permutation(len(asked))[:count]
    general = prompts(count, seed + 1)  # not those that voices are made of
    return [
        replace(asked[i], input=general[number][0]) if number % 2 else asked[i]
        for number, i in enumerate(order.tolist())
    ]


def training_texts(data: Path, tasks: Sequence[int]) -> Iterator[str]:
    """All texts of the training files."""
    for task in tasks:
        for question in read_questions(data / f"LaMP_{task}_style", "train"):
            yield question.input
            yield question.output
            for note in question.history:
                yield note.input
                yield note.output


def main(words: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m export.experiments.memorisation",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--data", type=Path, required=True, help="folder of LaMP_N_style folders")
    add("--tasks", type=int, nargs="+", default=[4, 5, 6, 7], choices=range(1, 8), metavar="TASK")
    add("--plug", type=Path, help="folder or .zip (default: the one ppedge ships)")
    add("--llm", type=Path, help="GGUF file (default: the packaged model)")
    add("--answers", type=positive, default=200, help="how many to sample (default: 200)")
    add("--words", type=positive, default=9, help="length of a run that counts (default: 9)")
    add("--seed", type=int, default=0, help="of questions and answers (default: 0)")
    add("--threads", type=positive, help="CPU threads of the model (default: chosen)")
    add("--json", type=Path, help="also write answers and findings to this file")
    args = parser.parse_args(words)
    check_seed(parser, args.seed)
    check_output(parser, args.json)
    with one_line_errors("export.experiments.memorisation"):
        asked = questions(args.data, args.tasks, args.answers, args.seed)
        plug = Plug(find_plug(args.plug), n_threads=args.threads)
        with (
            LLM(find_model(args.llm), n_ctx=4096, n_threads=args.threads) as llm,
            Bar(len(asked)) as bar,
        ):
            ensure_fits(plug, llm)
            sampled = list(sample(Bench(llm, plug), asked, args.words, args.seed, bar))
        found = search(sampled, training_texts(args.data, args.tasks), args.words)
        told = [
            {
                "prompt": each.prompt,
                "answer": each.answer,
                "found": sorted(" ".join(run) for run in each.runs & found),
            }
            for each in sampled
        ]
        if args.json:
            with replacing(args.json) as file:
                json.dump(told, file, indent=1)
    n_said = sum(bool(each["found"]) for each in told)
    print(
        f"{n_said} of {len(told)} answers hold {len(found)} runs of {args.words} words that "
        "training texts hold, and neither the prompt nor the user's notes:"
    )
    for run in sorted(found):
        print(f"- {' '.join(run)}")


if __name__ == "__main__":
    main()
