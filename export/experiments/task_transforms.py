"""Questions that nobody was trained on, to see whether a plug knows people or four tasks.

    python -m export.experiments.task_transforms --data DATA --out runs/recast --count 48

writes, in the LaMP format and for ``export.evaluate``, what dev users would be asked if their notes
had another use: folders ``summary`` (task 4 backwards: an article's description from its headline),
``body`` (task 6 backwards: a commit's message from its subject), ``rest`` (the second half of a
tweet) and ``mention`` (a tweet from three of its words).
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from export.data.lamp import Question, choose, write_questions
from export.data.leave_one_out import neutralise
from export.data.tasks import task_of
from export.tools.commands import check_seed, one_line_errors, positive
from ppedge.notes.reader import Note

# Folder: the task whose people are asked, the task in whose fields a note is kept, and the words.
FORMS = {
    "summary": (4, 4, "Write a short summary of the article with this headline: {}"),
    "body": (6, 4, "Write the body of the commit message with this subject: {}"),
    "rest": (7, 7, "Continue: {}"),
    "mention": (7, 7, "Post something for my followers. It should mention: {}"),
}
LEAST = 8  # words of a text that can be cut in half
WORDS = 60  # of a text asked for; what is longer is cut
MENTIONED = 3


def recast(form: str, questions: Iterable[Question]) -> Iterator[Question]:
    """Ask the same people otherwise.

    Args:
        form: one of ``FORMS``.
        questions: of its task.

    Yields:
        A question for each of ``questions`` whose text is long enough to be asked for so.
    """
    _, kept_as, words = FORMS[form]
    for question in questions:
        given, wanted = _split(form, question)
        if given and wanted:
            history = question.history if kept_as == 7 else tuple(_backwards(question.history))
            yield replace(
                question, task=kept_as, input=words.format(given), output=wanted, history=history
            )


def _split(form: str, question: Question) -> tuple[str, str]:
    """What is given of a text, and what is wanted; "" where there is too little of it."""
    words = question.output.split()
    if form == "rest":
        half = len(words) // 2 if len(words) >= LEAST else 0
        return " ".join(words[:half]), " ".join(words[half:])
    if form == "mention":
        long = [word for word in neutralise(question.output).split() if len(word) > 4]
        rng = np.random.default_rng(list(question.id.encode()))
        named = [long[i] for i in rng.permutation(len(long))[:MENTIONED]]
        return ", ".join(named) if len(named) == MENTIONED else "", question.output
    return question.output, _cut(task_of(question.task).source(question.input))


def _backwards(history: Iterable[Note]) -> Iterator[Note]:
    """Notes with what was shown and what was written changed over; others are left out."""
    for note in history:
        if note.input:
            yield replace(note, input=note.output, output=_cut(note.input))


def _cut(text: str) -> str:
    return " ".join(text.split()[:WORDS])


def main(words: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m export.experiments.task_transforms",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--data", type=Path, required=True, help="folder of LaMP_N_style folders")
    add("--out", type=Path, required=True, metavar="DIR", help="a folder for each form goes here")
    add("--count", type=positive, default=48, help="questions asked otherwise (default: 48)")
    add("--seed", type=int, default=0, help="of the choice of questions (default: 0)")
    args = parser.parse_args(words)
    check_seed(parser, args.seed)
    with one_line_errors("export.experiments.task_transforms"):
        chosen = {}
        for task in sorted({task for task, _, _ in FORMS.values()}):
            folder = args.data / f"LaMP_{task}_style"
            files = folder / "dev_questions.json", folder / "dev_outputs.json"
            chosen[task] = list(choose(*files, args.count, args.seed))
        for form, (task, kept_as, _) in FORMS.items():
            questions = list(recast(form, chosen[task]))
            write_questions(args.out / form, f"LaMP_{kept_as}_{form}", questions)
            print(f"{len(questions)} questions: {args.out / form}")


if __name__ == "__main__":
    main()
