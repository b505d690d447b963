"""A control that was trained as the plug was and knows nobody: what it says of a population.

    python -m export.population PLUG --data DATA --task 6 --out population6.npz
    python -m export.evaluate … --methods instruction,persona --instruction population6.npz

One note each of many training users is pooled as if one person had written them all, from the
prompts of other training users; the mean of the soft tokens, and of the control vectors of a plug
that has them, is what the plug knows of the task without knowing anybody. It is a soft instruction
with all of the plug's training in it, where one that is trained by itself (``--persona-tokens 0``)
has its own run's alone.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from export.data.lamp import Question, read_questions
from export.evaluation.instruction import mean, write_instruction
from export.evaluation.persona_methods import attend, project
from export.models.note_vectors import NoteVectors
from export.tools.commands import check_output, check_seed, one_line_errors, positive, replacing
from export.tools.draws import one_of
from ppedge.llm.segments import Soft
from ppedge.plug.plug import Plug


def population(
    plug: Plug, questions: Sequence[Question], *, notes: int, prompts: int, seed: int
) -> Soft:
    """The mean of what a plug says to one history that a population wrote.

    Args:
        plug: says them.
        questions: of many people; one note is drawn of each of ``notes`` of them, and the prompts
            are those of others where there are enough people, else of the same.
        notes: how many, at most.
        prompts: how many, at most.
        seed: of the draws.

    Raises:
        ValueError: nobody has a note.
        PlugError: the plug's graphs fail.
    """
    rng = np.random.default_rng([seed, 12])
    by_user = {question.user: question for question in questions if question.history}
    if not by_user:
        raise ValueError("nobody here has a note; a population needs some")
    people = [list(by_user.values())[i] for i in rng.permutation(len(by_user))]
    written = [one_of(rng, person.history) for person in people[:notes]]
    rows = NoteVectors(plug).rows(written)
    asked = (people[notes:] or people)[:prompts]
    return mean([project(plug, attend(plug, each.input, rows)) for each in asked])


def main(words: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m export.population",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("plug", type=Path, metavar="PLUG", help="folder or .zip")
    add("--data", type=Path, required=True, help="folder of LaMP_N_style folders")
    add("--task", type=int, required=True, choices=range(1, 8), metavar="TASK")
    add("--out", type=Path, required=True, metavar="FILE", help="the .npz to write")
    add("--notes", type=positive, default=64, help="one of each of so many users (default: 64)")
    add("--prompts", type=positive, default=16, help="that soft tokens are averaged over")
    add("--seed", type=int, default=0, help="of users, notes and prompts (default: 0)")
    args = parser.parse_args(words)
    check_seed(parser, args.seed)
    check_output(parser, args.out)
    with one_line_errors("export.population"):
        plug = Plug(args.plug)
        questions = list(read_questions(args.data / f"LaMP_{args.task}_style", "train"))
        said = population(plug, questions, notes=args.notes, prompts=args.prompts, seed=args.seed)
        with replacing(args.out, encoding=None) as file:
            write_instruction(file, said)
        print(f"float32 {list(said.vectors.shape)}: {args.out}")


if __name__ == "__main__":
    main()
