"""Ask the questions of a LaMP file by several methods, and say what they differ by.

    python -m export.evaluate --questions dev_questions.json --outputs dev_outputs.json \\
        --plug PLUG --instruction instruction.npy --limit 60 --seed 0 \\
        --methods none,instruction,bm25-4,persona,swapped --json OUT.json --html REPORT.html

Prints a table: every metric with its 95 % interval (bootstrap over users), nats per target token,
prompt tokens, seconds. Every answer is kept as soon as it is there: a run that was stopped goes on
with the same command, and so does one that is given more methods. docs/evaluation.md has results.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from export.data.lamp import write_predictions
from export.data.tasks import task_of
from export.evaluation.methods import KNOWN, parse_method
from export.evaluation.records import Run
from export.evaluation.runner import evaluate, open_setup
from export.evaluation.summary import show, summarise
from export.tools.commands import (
    check_output,
    check_seed,
    number,
    one_line_errors,
    positive,
    replacing,
)
from ppedge.llm.sampling import DRY_MULTIPLIER


def parse(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line, checked as far as that goes without opening a file."""
    parser = argparse.ArgumentParser(
        prog="python -m export.evaluate",
        description=__doc__,
        epilog=f"methods: {', '.join(KNOWN)}; K is a number of notes, S a strength",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--questions", type=Path, required=True, help="LaMP questions file, .json or .json.gz")
    add("--outputs", type=Path, required=True, help="the outputs (gold answers) file to it")
    add("--methods", required=True, help="names, separated by commas (see below)")
    add("--json", type=Path, required=True, help="the run is saved here, its journal beside it")
    add("--plug", type=Path, help="folder or .zip (default: the one ppedge ships)")
    add("--llm", type=Path, help="GGUF file (default: the packaged model)")
    add(
        "--instruction",
        type=Path,
        help="instruction.npy of a training with --persona-tokens 0, or export.population's file",
    )
    add("--limit", type=positive, help="ask this many questions, a seeded choice (default: all)")
    add("--seed", type=int, default=0, help="of choices, swaps, tuning, intervals (default: 0)")
    add("--decode", choices=("greedy", "beam", "both"), default="greedy",
        help="how open tasks are answered; beam has width 4 (default: greedy)")  # fmt: skip
    add("--dry-multiplier", type=number("must be a number, 0 or more, not '{}'", 0),
        default=DRY_MULTIPLIER, metavar="X",
        help="of greedy answers, against loops; 0: none (default: %(default)s)")  # fmt: skip
    add("--sample-users", type=positive, default=12, metavar="N",
        help="users that usertuned and lora are trained for (default: 12)")  # fmt: skip
    add("--against", metavar="METHOD", help="what the others are set against (default: none)")
    add("--html", type=Path, help="also write a self-contained page")
    add("--predictions", type=Path, metavar="DIR", help="also write the official predictions files")
    add("--context", type=positive, default=4096, help="positions of the model (default: 4096)")
    add("--threads", type=positive, help="CPU threads of the model (default: chosen)")
    args = parser.parse_args(words)
    try:
        args.methods = [parse_method(name.strip()) for name in args.methods.split(",")]
    except ValueError as error:
        parser.error(str(error))
    _check(args, parser)
    return args


def _check(args: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    names = [method.name for method in args.methods]
    if twice := next((name for name in names if names.count(name) > 1), None):
        parser.error(f"--methods names '{twice}' twice")
    if args.against is None and "none" in names:
        args.against = "none"
    if args.against is not None and args.against not in names:
        parser.error(f"--against {args.against}: not among the --methods")
    check_seed(parser, args.seed)
    needy = [method.name for method in args.methods if method.needs_instruction]
    if needy and args.instruction is None:
        parser.error(f"{needy[0]} needs --instruction, the instruction.npy of a training")
    for path in (args.json, args.html):
        check_output(parser, path)


def write_all_predictions(run: Run, folder: Path, n_golds: int) -> None:
    """The official predictions file of each method: METHOD.json, and METHOD.beam.json of beams.

    Args:
        run: what was answered.
        folder: where to; made.
        n_golds: how many questions the outputs file has; fewer predictions are warned of.
    """
    folder.mkdir(parents=True, exist_ok=True)
    alone = run.settings["decode"] == "beam" and task_of(run.task).kind == "text"
    short = n_golds
    for method in run.methods:
        records = [record for record in run.records if record.method == method]
        answers = {record.id: record.prediction for record in records}
        path = folder / f"{method}{'.beam' if alone else ''}.json"
        write_predictions(path, run.task_name, answers)
        beams = {record.id: record.beam for record in records if record.beam is not None}
        if beams:
            write_predictions(folder / f"{method}.beam.json", run.task_name, beams)
        short = min(short, len(answers))
    if short < n_golds:
        print(
            f"export.evaluate: some files in {folder} have {short} of {n_golds} ids; LaMP's own "
            "script takes a file with all of them only",
            file=sys.stderr,
        )


def main(words: Sequence[str] | None = None) -> None:
    """The command line."""
    args = parse(words)
    with one_line_errors("export.evaluate", stopped=f"the same command goes on from {args.json}l"):
        with open_setup(args) as setup:
            run = evaluate(setup)
            n_golds = len(setup.golds)
        run.save(args.json)
        rows = summarise(run, args.against, args.seed)
        print(show(rows))
        length = run.settings["context"]
        for method, count in run.settings["shortened"].items():
            print(f"- {method}: {count} prompts were cut to fit {length} tokens.")
        if args.predictions:
            write_all_predictions(run, args.predictions, n_golds)
        if args.html:
            from export.report import report

            with replacing(args.html) as file:
                file.write(report(run, rows, seed=args.seed))


if __name__ == "__main__":
    main()
