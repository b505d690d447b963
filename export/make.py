"""A plug for a GGUF, from training data to scores: the other commands, one after another.

    python -m export.make --data DATA --llm MODEL.gguf --out PLUG_DIR

Lets the model write a corpus for synthetic people (``export.corpus``), trains (``export.train``),
writes the plug (``export.onnx``), fits its n-gram cache (``export.ngrams``), and asks dev users
(``export.population``, ``export.evaluate``); the scores go into PLUG_DIR/plug.json. Each command is
shown before it runs. Stopped, it goes on with the same command. What follows ``--`` goes to
``export.train``: ``-- --batch 8 --dtype float32``.

A plug made so is trained in one run from nothing. The one that ships came about otherwise, in five
runs, each from the weights of the one before: docs/default-plug.md.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from export.evaluation.records import Run
from export.evaluation.summary import series_of
from export.onnx import read_about
from export.package.golden_vectors import write_manifest
from export.tools.commands import one_line_errors, positive, renamed, replacing
from export.tools.json_files import Source
from export.training.options import RENAMED
from export.training.sampler import SHARES
from ppedge.llm.fingerprint import fingerprint
from ppedge.plug.plug import Plug

# For one run from nothing. Of the five runs behind the plug that ships all had the first of these
# options, the last alone the control vector, and the last two the others: docs/default-plug.md.
RECIPE = ("--style", "64", "--control", "64",
          "--style-transfer", "0.25", "--choices", "0.25", "--notes-in-prompt", "0.25")  # fmt: skip
STEPS = 2180  # as many as the first four of those runs together; the fifth had 600
SYNTHETIC_SHARE = 0.3  # of the examples, as in the last two of those runs
CONTRAST = ("--contrast", "0.3")  # in the last quarter; there, at the end of the last three
CORPUS_TEXTS = 1600
METHODS = ("none", "instruction", "persona", "swapped")


@dataclass(frozen=True)
class Step:
    """One command of the way.

    Attributes:
        words: of the command, behind the interpreter.
        done: whether its work is there already.
        env: what its environment has besides.
    """

    words: tuple[str, ...]
    done: bool
    env: Mapping[str, str]


def step(*words: object, done: bool = False, **env: str) -> Step:
    """A step of words that may be paths and numbers."""
    return Step(tuple(map(str, words)), done, env)


def steps(args: argparse.Namespace) -> Iterator[Step]:
    """The commands in their order; each is made when those before it have run."""
    work, out, data = args.work, args.out, ("--data", args.data)
    llm, tasks, limit = ("--llm", args.llm), ("--tasks", *args.tasks), ("--limit", args.limit)
    if not args.corpus:
        corpus = work / "corpus.json"
        yield step("-m", "export.corpus", *llm, "--out", corpus, "--count", CORPUS_TEXTS,
                   *given("--template", args.template), done=corpus.exists())  # fmt: skip
    yield train_step(args)
    yield step("-m", "export.onnx", work / "run" / "plug.pt", out, *llm, "--name", args.name,
               "--licence", args.licence, "--about", work / "about.json",
               *given("--encoder", args.encoder), done=out.exists())  # fmt: skip
    manifest = Plug(out).manifest
    yield step("-m", "export.ngrams", out, *data, *llm, *tasks, *limit,
               done=manifest.ngram_cache is not None)  # fmt: skip
    asked = "scores" in manifest.about
    for task in args.tasks:
        population, folder = work / f"population{task}.npz", args.data / f"LaMP_{task}_style"
        yield step("-m", "export.population", out, *data, "--task", task, "--out", population,
                   done=asked or population.exists())  # fmt: skip
        yield step("-m", "export.evaluate", "--plug", out, *llm, *limit,
                   "--questions", folder / "dev_questions.json",
                   "--outputs", folder / "dev_outputs.json", "--methods", ",".join(METHODS),
                   "--instruction", population, "--against", "instruction",
                   "--json", work / f"task{task}.json", done=asked)  # fmt: skip


def train_step(args: argparse.Namespace) -> Step:
    """The training, by as many processes as were asked for."""
    run, corpus = args.work / "run", args.corpus or args.work / "corpus.json"
    whole = sum(SHARES[task] for task in args.tasks)
    shares = {task: (1 - SYNTHETIC_SHARE) * SHARES[task] / whole for task in args.tasks}
    shares[0] = SYNTHETIC_SHARE
    words = [
        "-m", "export.train", "--data", args.data, "--llm", args.llm, "--out", run,
        "--features", args.work / "features.pt", "--corpus", corpus,
        "--tasks", *args.tasks, "--shares", ",".join(f"{t}={s:.4f}" for t, s in shares.items()),
        "--steps", args.steps, *RECIPE, *CONTRAST, "--contrast-from", args.steps * 3 // 4,
        *given("--template", args.template), *given("--encoder", args.encoder), *args.train,
    ]  # fmt: skip
    done = args.out.exists()  # Before that, the training itself knows best whether it has ended.
    if args.processes == 1:
        return step(*words, done=done)
    launch = ("-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", args.processes)
    return step(*launch, *words, done=done, **processes_env(args.processes))


def processes_env(count: int) -> dict[str, str]:
    """What ``count`` processes need on a machine without a GPU: docs/training.md."""
    if torch.cuda.is_available():
        return {}
    threads = str(max(1, (os.cpu_count() or 1) // count))
    return {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": threads, "GOMP_SPINCOUNT": "0"}


def given(option: str, value: object) -> tuple[object, ...]:
    """An option and its value, or nothing where it has none."""
    return () if value is None else (option, value)


def run_step(one: Step) -> None:
    """Show a command and run it.

    Raises:
        SystemExit: it failed, and has said why.
    """
    shown = shlex.join(("python", *one.words))
    if one.done:
        print(f"# done before: {shown}", flush=True)
        return
    print(f"$ {shown}", flush=True)
    env = {**os.environ, **one.env}
    if code := subprocess.run([sys.executable, *one.words], env=env, check=False).returncode:
        print(f"export.make: stopped by {one.words[1]} (exit {code})", file=sys.stderr)
        raise SystemExit(2 if code == 2 else 1)


# --- what the manifest says of it -----------------------------------------------------------------


def scores(run: Run) -> dict[str, Any]:
    """A task's figures for the manifest: for people, and rounded for them."""
    found = series_of(run)
    persona = found["persona"]
    users, questions = len(set(persona.users)), len(persona.ids)
    told: dict[str, Any] = {"task": run.task, "users": users, "questions": questions}
    for name in persona.metrics:
        told[name] = {
            method: round(series.figure(name, 0).value, 4) for method, series in found.items()
        }
        for other in ("instruction", "swapped"):
            gap = persona.minus(found[other], name, 0)
            told[name][f"persona-{other}"] = round(gap.value, 4)
            told[name][f"persona-{other} 95%"] = [round(gap.low, 4), round(gap.high, 4)]
    return told


def write_scores(args: argparse.Namespace) -> None:
    """Put the scores of all tasks into the plug's manifest."""
    manifest = Plug(args.out).manifest
    if "scores" in manifest.about:
        return
    told = {
        "what": "dev users; nll: nats a target token, lower is better; instruction: a population",
        "tasks": [scores(Run.load(args.work / f"task{task}.json")) for task in args.tasks],
    }
    write_manifest(args.out, replace(manifest, about={**manifest.about, "scores": told}))


def command(args: argparse.Namespace) -> str:
    """The command for the manifest, without this machine's folders."""
    words = ["python", "-m", "export.make", "--data", args.data.name, "--llm", args.llm.name]
    words += ["--tasks", *map(str, args.tasks), "--steps", str(args.steps)]
    for option in ("template", "encoder", "corpus"):
        if (value := getattr(args, option)) is not None:
            words += [f"--{option}", value.name]
    return shlex.join([*words, *(["--", *args.train] if args.train else [])])


# --- the command ----------------------------------------------------------------------------------


def parse(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line, checked as far as that goes without opening a file."""
    given_words = list(sys.argv[1:] if words is None else words)
    cut = given_words.index("--") if "--" in given_words else len(given_words)
    parser = argparse.ArgumentParser(
        prog="python -m export.make",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--data", type=Path, required=True, help="folder of LaMP_N_style folders")
    add("--llm", type=Path, required=True, help="GGUF file that the plug is for")
    add("--out", type=Path, required=True, metavar="PLUG_DIR", help="folder of the plug")
    add("--work", type=Path, metavar="DIR",
        help="folder of what is kept on the way (default: PLUG_DIR-work)")  # fmt: skip
    add("--name", help="what the plug is called (default: the GGUF's name)")
    add("--licence", default="Apache-2.0", help="SPDX expression (default: Apache-2.0)")
    add("--about", type=Path, metavar="FILE", help="JSON object that goes into the manifest")
    add("--tasks", type=int, nargs="+", default=[4, 5, 6, 7], choices=range(1, 8), metavar="TASK")
    add("--steps", type=positive, default=STEPS, help=f"of training (default: {STEPS})")
    add("--template", type=Path, metavar="FILE", help="JSON (default: SmolLM2's ChatML)")
    add("--encoder", type=Path, help="BERT folder (default: the packaged MiniLM)")
    add("--corpus", type=Path, metavar="FILE", help="plain texts made before, by export.corpus")
    add("--limit", type=positive, default=48,
        help="questions a task, for n-gram cache and scores (default: 48)")  # fmt: skip
    add("--processes", type=positive, default=1, metavar="N", help="that train (default: 1)")
    args = parser.parse_args(renamed(given_words[:cut], RENAMED))
    args.train = given_words[cut + 1 :]
    if not (name := args.out.absolute().name):
        parser.error(f"--out {args.out}: name a folder for the plug")
    args.work = args.work or args.out.parent / f"{name}-work"
    args.name = args.name or args.llm.stem
    if len(set(args.tasks)) < len(args.tasks):
        parser.error("--tasks names a task twice")
    return args


def check(args: argparse.Namespace) -> None:
    """Find now what would stop the work hours later.

    Raises:
        PpedgeError, ValueError, OSError, SystemExit: one line that says what is wrong.
    """
    fingerprint(args.llm)
    for task in args.tasks:
        for kind in ("train_questions", "train_outputs", "dev_questions", "dev_outputs"):
            with Source(args.data / f"LaMP_{task}_style" / f"{kind}.json"):
                pass
    about = read_about(args.about)
    if args.out.exists():
        made_by = Plug(args.out).manifest.about.get("command")
        if made_by != command(args):
            raise ValueError(
                f"{args.out} holds a plug that another command made ({made_by}); name another "
                f"--out, or remove it"
            )
    args.work.mkdir(parents=True, exist_ok=True)
    with replacing(args.work / "about.json") as file:
        json.dump({**about, "command": command(args)}, file, indent=1)


def main(words: Sequence[str] | None = None) -> None:
    """The command line."""
    args = parse(words)
    with one_line_errors("export.make", stopped="the same command goes on"):
        check(args)
        for each in steps(args):
            run_step(each)
        write_scores(args)
        plug, model = shlex.quote(str(args.out)), shlex.quote(str(args.llm))
        print(f"made {args.out}; try it:")
        print(f'ppedge personalize --model {model} --plug {plug} --history notes.jsonl "…"')


if __name__ == "__main__":
    main()
