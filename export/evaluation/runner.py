"""A run of an evaluation: what it works with, and the questions one after the other.

with open_setup(args) as setup:
    run = evaluate(setup)
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from export.data.lamp import choose, read_golds, task_name, with_swaps
from export.evaluation.answers import answer, answer_by_lora
from export.evaluation.instruction import digest, read_instruction
from export.evaluation.methods import Asked, Bench, Method, check_plug
from export.evaluation.records import Journal, Run
from export.tools.progress import Bar
from ppedge.closable import Closable
from ppedge.defaults import find_model, find_plug
from ppedge.fitting import ensure_fits
from ppedge.llm.llm import LLM
from ppedge.llm.segments import Soft
from ppedge.plug.plug import Plug

if TYPE_CHECKING:
    from export.baselines.methods import TunedUser


@dataclass(frozen=True, eq=False)
class Setup(Closable):
    """What a run works with, opened and found to fit together.

    Attributes:
        args: the command line.
        task_name: as in the outputs file.
        golds: gold answers by question id.
        plug: fits the model.
        llm: the model.
        instruction: a soft instruction, or None.
    """

    args: argparse.Namespace
    task_name: str
    golds: dict[str, str]
    plug: Plug
    llm: LLM
    instruction: Soft | None

    def close(self) -> None:
        """Free the model."""
        self.llm.close()

    @property
    def methods(self) -> list[Method]:
        """The methods, as ordered by the user."""
        return list(self.args.methods)

    def settings(self) -> dict[str, Any]:
        """Whatever an answer or its seconds depend on; file names without their folders."""
        args = self.args
        return {
            "questions": args.questions.name,
            "golds_sha256": _sha256(json.dumps(self.golds).encode()),
            "plug": self.plug.manifest.name,
            "plug_sha256": self.plug.sha256,
            "llm": self.llm.path.name,
            "llm_embedding_sha256": self.llm.fingerprint.embedding_sha256,
            "instruction_sha256": None if self.instruction is None else digest(self.instruction),
            "limit": args.limit,
            "seed": args.seed,
            "decode": args.decode,
            "dry_multiplier": args.dry_multiplier,
            "sample_users": args.sample_users,
            "context": self.llm.n_ctx,
            "threads": args.threads,
        }

    def asked(self) -> Iterator[Asked]:
        """The chosen questions, streamed; with another user's history if a method wants that."""
        args = self.args
        questions = choose(args.questions, args.outputs, args.limit, args.seed)
        if not any(method.soft == "swapped" for method in self.methods):
            return (Asked(question) for question in questions)
        return (Asked(*pair) for pair in with_swaps(questions, args.seed))

    def sampled_users(self) -> set[str]:
        """The users that something is trained for: a seeded choice, whatever the files' order."""
        if not any(method.tuned for method in self.methods):
            return set()
        args = self.args
        users = sorted(
            {q.user for q in choose(args.questions, args.outputs, args.limit, args.seed)}
        )
        drawn = np.random.default_rng([args.seed, 1]).permutation(len(users))[: args.sample_users]
        return {users[i] for i in drawn}


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def open_setup(args: argparse.Namespace) -> Setup:
    """Open everything, and refuse what does not fit, before anything long begins.

    Raises:
        PpedgeError, ValueError, OSError: one line that says what is wrong.
    """
    name = task_name(args.outputs)
    tuned = [method.name for method in args.methods if method.tuned]
    if tuned and "LaMP_1" in name:
        raise ValueError(
            f"{tuned[0]}: the notes of {name} are titles without a question, so there is nothing "
            "to tune on; leave the method out for task 1"
        )
    golds = read_golds(args.outputs)
    plug = Plug(find_plug(args.plug), n_threads=args.threads)
    for method in args.methods:
        check_plug(method, plug)
    llm = LLM(find_model(args.llm), n_ctx=args.context, n_threads=args.threads)
    try:
        ensure_fits(plug, llm)
        instruction = None
        if args.instruction:
            instruction = read_instruction(args.instruction, llm.n_embd, llm.n_layer)
        return Setup(args, name, golds, plug, llm, instruction)
    except BaseException:
        llm.close()
        raise


class Evaluation:
    """A run under way: every question by every method, but for what the journal holds already.

    Attributes:
        inputs: what was asked, by question id, in order.
        shortened: how many prompts did not fit the context as they were, by method.
    """

    def __init__(self, setup: Setup, journal: Journal) -> None:
        self._setup, self._journal = setup, journal
        self._done = journal.done()
        self._users = setup.sampled_users()
        self._worked = 0
        self.inputs: dict[str, str] = {}
        self.shortened: dict[str, int] = {}

    def run(self) -> None:
        """Ask what is left to ask."""
        setup, seed = self._setup, self._setup.args.seed
        plain = [method for method in setup.methods if not method.tuned]
        total = min(setup.args.limit or len(setup.golds), len(setup.golds))
        bench = Bench(setup.llm, setup.plug, instruction=setup.instruction, seed=seed)
        sample: list[Asked] = []
        with Bar(total * len(plain)) as bar:
            for number, asked in enumerate(setup.asked(), 1):
                self.inputs[asked.question.id] = asked.question.input
                if asked.question.user in self._users:
                    sample.append(asked)
                for place, method in enumerate(plain):
                    bar(
                        (number - 1) * len(plain) + place,
                        f"question {number} of {total}, {method.name}",
                        worked=self._worked,
                    )
                    self._ask(bench, method, asked)
        if sample:
            self._run_tuned(sample)

    def _run_tuned(self, sample: Sequence[Asked]) -> None:
        """The methods that train for a user: one user after the other, so that each is once."""
        from export.baselines.methods import TunedUser

        setup, seed = self._setup, self._setup.args.seed
        # LoRA last: it changes the model that the others are tuned for.
        methods = sorted(
            (method for method in setup.methods if method.tuned), key=lambda m: m.name == "lora"
        )
        users = sorted(self._users)
        sample = sorted(sample, key=lambda asked: users.index(asked.question.user))
        self._worked = 0
        n_soft = setup.plug.manifest.projector.n_soft
        with (
            TunedUser(setup.llm.path, setup.plug.manifest.template, n_soft, setup.instruction,
                      seed=seed, n_threads=setup.args.threads) as tuned,
            Bar(len(sample) * len(methods)) as bar,
        ):  # fmt: skip
            bench = Bench(
                setup.llm, setup.plug, instruction=setup.instruction, tuned=tuned, seed=seed
            )
            for number, asked in enumerate(sample):
                for place, method in enumerate(methods):
                    bar(
                        number * len(methods) + place,
                        f"sampled question {number + 1} of {len(sample)}, {method.name}",
                        worked=self._worked,
                    )
                    self._ask(bench, method, asked, tuned)

    def _ask(
        self, bench: Bench, method: Method, asked: Asked, tuned: TunedUser | None = None
    ) -> None:
        if (asked.question.id, method.name) in self._done:
            # The journal holds answers only; what they lost on the way is seen again.
            shortened = method.name != "lora" and bench.shortens(method, asked)
        elif method.name == "lora":
            assert tuned is not None  # Only `_run_tuned` asks by it.
            self._journal.add(answer_by_lora(tuned.lora(asked.question), asked))
            shortened = False
        else:
            args = self._setup.args
            record, shortened = answer(bench, method, asked, args.decode, args.dry_multiplier)
            self._journal.add(record)
        self._worked += (asked.question.id, method.name) not in self._done
        if shortened:
            self.shortened[method.name] = self.shortened.get(method.name, 0) + 1


def evaluate(setup: Setup) -> Run:
    """Answer all that is left to answer, and gather the run.

    Raises:
        PpedgeError, ValueError, OSError: one line that says what is wrong.
    """
    settings = setup.settings()
    with Journal(setup.args.json, settings) as journal:
        try:
            evaluation = Evaluation(setup, journal)
            evaluation.run()
        finally:
            if not journal.records:  # Nothing to go on from, and the next try may be another.
                journal.path.unlink()
    names = [method.name for method in setup.methods]
    records = {(record.method, record.id): record for record in journal.records}
    return Run(
        settings={**settings, "methods": names, "shortened": evaluation.shortened},
        task_name=setup.task_name,
        golds={id_: setup.golds[id_] for id_ in evaluation.inputs},
        # In the command's order and the files', whatever was answered first.
        records=[
            records[name, id_]
            for name in names
            for id_ in evaluation.inputs
            if (name, id_) in records
        ],
        inputs=evaluation.inputs,
    )
