"""The options of ``export.train``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from export.tools.commands import number, positive, renamed
from export.training.sampler import SHARES

RENAMED = {"--voices": "--corpus", "--habits": "--style-transfer", "--choosers": "--choices"}
"""Options by their names up to 0.1, which go on working for one release."""


def parse_shares(text: str) -> dict[int, float]:
    """``6=0.4,5=0.2`` -> {6: 0.4, 5: 0.2}."""
    shares = {}
    for entry in text.split(","):
        task, _, share = entry.partition("=")
        if task.strip() not in map(str, SHARES):
            raise argparse.ArgumentTypeError(f"'{entry}' is not TASK=SHARE with a task of 0 to 8")
        try:
            shares[int(task)] = float(share)
        except ValueError:
            raise argparse.ArgumentTypeError(f"'{share}' in '{entry}' is not a number") from None
        if not 0 < shares[int(task)] < float("inf"):
            raise argparse.ArgumentTypeError(f"the share in '{entry}' must be above 0")
    return shares


def whole(word: str) -> int:
    """A whole number, 0 or above."""
    if not word.isdecimal():
        raise argparse.ArgumentTypeError(f"must be a whole number, not '{word}'")
    return int(word)


fraction = number("'{}' is not a share, a number from 0 to 1", 0, 1)


def add_plug_options(parser: argparse.ArgumentParser) -> dict[str, str]:
    """Options that end in the ``PlugConfig``; left out, the default form's or the paper's holds.

    Returns:
        The option of each field.
    """
    add = parser.add_argument_group("the plug's form").add_argument
    first = "input, output or both; the first that is not empty"
    add("--paper", action="store_true", help="the paper's form; the options below still override")
    options = (
        add(
            "--persona-tokens",
            dest="n_persona",
            type=int,
            metavar="N",
            help="0: the instruction alone",
        ),
        add("--instruction-tokens", dest="n_instruction", type=int, metavar="N"),
        add(
            "--style", dest="d_style", type=int, metavar="N", help="width of the byte-level channel"
        ),
        add(
            "--control",
            dest="d_control",
            type=int,
            metavar="N",
            help="numbers that a control vector for every layer is made of; 0: none",
        ),
        add(
            "--value-width", dest="d_value", type=int, metavar="N", help="of a note's cached value"
        ),
        add(
            "--scale", dest="initial_scale", type=float, metavar="X", help="of the attention scores"
        ),
        add("--fixed-scale", dest="learn_scale", action="store_const", const=False),
        add("--no-null-note", dest="null_note", action="store_const", const=False),
        add("--raw-vectors", dest="key_head", action="store_const", const=False),
        add("--recency", action="store_const", const=True, help="learn to weigh newer notes more"),
        add("--query-encoder", choices=("shared", "separate")),
        add("--key-fields", nargs="+", metavar="FIELD", help=first),
        add("--value-fields", nargs="+", metavar="FIELD", help=first),
        add("--soft", choices=("after", "before"), help="soft tokens' place, from the prompt"),
    )
    return {option.dest: option.option_strings[0] for option in options}


def parser() -> argparse.ArgumentParser:
    """The command line's parser."""
    options = argparse.ArgumentParser(
        prog="export.train", description="Train a plug against a frozen LLM."
    )
    add = options.add_argument
    add("--data", type=Path, required=True, help="folder of LaMP_N_style folders")
    add("--llm", required=True, help="GGUF file, Hugging Face folder or name")
    add("--encoder", type=Path, help="BERT folder (default: the packaged MiniLM)")
    add("--template", type=Path, metavar="FILE", help="JSON (default: SmolLM2's ChatML)")
    add("--out", type=Path, required=True, help="checkpoint and log go here")
    add("--features", type=Path, help="file that keeps the text vectors")
    add("--tasks", type=int, nargs="+", default=[4, 5, 6, 7], choices=range(1, 8), metavar="TASK")
    add("--corpus", type=Path, help="file of export.corpus: also train on synthetic personas")
    add("--start", type=Path, metavar="PLUG", help="begin with the weights of this plug's folder")
    add("--shares", type=parse_shares, help="of the examples, by task, such as 6=0.4,5=0.2")
    add("--steps", type=int, default=1500)
    add("--stop-at", type=int, help="end here; the same command goes on later")
    add("--minutes", type=number("'{}' is not a number of minutes above 0", 0.01), metavar="M",
        help="end after so many, the rate falling with the time and not with --steps")  # fmt: skip
    add("--save-every", type=positive, metavar="STEPS",
        help="write a checkpoint between evaluations too")  # fmt: skip
    add("--batch", type=int, default=16)
    add("--lr", type=float, default=2e-3)
    add("--style-lr", type=float, default=1e-3)
    add("--encoder-lr", type=float, default=1e-4, help="of a separate query encoder")
    add("--warmup", type=int, default=50)
    add(
        "--contrast",
        type=float,
        default=0.0,
        metavar="WEIGHT",
        help="see export/training/contrast.py",
    )
    add("--contrast-from", type=int, default=0, metavar="STEP")
    add("--contrast-margin", type=float, default=0.0, metavar="NATS", help="per target token")
    add("--style-transfer", type=fraction, default=0.0, metavar="SHARE",
        help="of the tasks' examples, rewritten in a synthetic person's style")  # fmt: skip
    add("--choices", type=fraction, default=0.0, metavar="SHARE",
        help="of the synthetic people, who label texts and write none")  # fmt: skip
    add("--notes-in-prompt", type=fraction, default=0.0, metavar="SHARE",
        help="of the examples, with one or two of the notes in the prompt as well")  # fmt: skip
    add("--turns", type=whole, default=0, metavar="K",
        help="notes of the person before every prompt, as earlier turns of the chat")  # fmt: skip
    add("--authors", type=Path, metavar="FILE",
        help="of export.authors: with --turns, also train on their texts, as task 8")  # fmt: skip
    add("--no-leave-one-out", dest="leave_one_out", action="store_false",
        help="ask the files' questions only, not for notes")  # fmt: skip
    add("--no-dropout", dest="dropout", action="store_false", help="of notes from a history")
    add("--dtype", choices=("bfloat16", "float32"), default="bfloat16", help="of the frozen models")
    add("--device", choices=("auto", "cpu", "cuda"), default="auto",
        help="where to compute (default: a GPU, if there is one)")  # fmt: skip
    add("--workers", type=whole, default=0, metavar="N",
        help="processes that draw batches ahead; worth it beside a GPU (default: 0)")  # fmt: skip
    add("--eval-every", type=int, default=100)
    add("--eval-limit", type=int, default=48, help="dev questions a task")
    add("--seed", type=int, default=0)
    add_plug_options(options)
    return options


def defaults() -> dict[str, object]:
    """Every option's default, by name."""
    required = ("--data", ".", "--llm", ".", "--out", ".")
    return vars(parser().parse_args(required))


def parse(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    options = parser()
    args = options.parse_args(renamed(sys.argv[1:] if words is None else words, RENAMED))
    if args.choices and not args.corpus:
        options.error("--choices: there are no synthetic people without --corpus")
    if args.authors and not args.turns:
        options.error("--authors: their free text is trained on with --turns only")
    if args.turns and (args.notes_in_prompt or args.style_transfer or args.choices):
        options.error("--turns goes with none of --notes-in-prompt, --style-transfer and --choices")
    if args.turns and args.template:
        options.error("--turns knows ChatML alone; leave --template out")
    return args
