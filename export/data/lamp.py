"""LaMP files to questions, and answers to LaMP files.

    for question in open_questions(Path("dev_questions.json"), Path("dev_outputs.json.gz")): ...
    for question in read_questions(Path("LaMP_6_style"), "train"): ...
    write_predictions(Path("preds.json"), "LaMP_6", {"310": "fix leak"})

A *question* is what a person was asked, what they wrote, and their earlier notes. One reader serves
the official files (user-based: no ``user_id``, every question is its own user; time-based: records
of the profile have a ``date``) and the shared ones, packed by gzip or not. Questions stream: memory
holds the gold answers and the questions in hand, never the file.
"""

from __future__ import annotations

import json
import re
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from export.data.tasks import Task, task_of
from export.tools.commands import replacing
from export.tools.json_files import DataError, elements, kind, read
from ppedge.errors import HistoryError
from ppedge.notes.reader import Note, note_from_fields, parse_time

_TASK = re.compile(r"LaMP_([1-7])(?!\d)")
WINDOW = 64  # users whose histories `with_swaps` chooses from


@dataclass(frozen=True, slots=True)
class Question:
    """One thing asked of one person.

    Attributes:
        id: the file's.
        user: who was asked; the question's id where the file names no users.
        task: the LaMP task's number, 1 to 7.
        input: the prompt.
        output: the gold answer.
        history: the person's earlier notes, in the file's order.
    """

    id: str
    user: str
    task: int
    input: str
    output: str
    history: tuple[Note, ...]


# --- questions --------------------------------------------------------------------------------


def read_questions(folder: Path, split: str) -> Iterator[Question]:
    """Yield the questions of ``folder`` (``{split}_questions.json`` and ``_outputs.json``).

    Raises:
        DataError: as `open_questions`.
    """
    return open_questions(folder / f"{split}_questions.json", folder / f"{split}_outputs.json")


def open_questions(questions: Path, outputs: Path) -> Iterator[Question]:
    """Yield the questions of one pair of files, in the file's order.

    Args:
        questions: a JSON array of ``{"id", "input", "profile"}`` and perhaps ``"user_id"``; packed
            by gzip or not, whatever its name. ``NAME.gz`` is read where ``NAME`` is not there.
        outputs: ``{"task": "LaMP_N...", "golds": [{"id", "output"}]}``, likewise.

    Yields:
        One question a record. A profile record whose output is null or blank (a mail without a
        subject) is no note, and is left out.

    Raises:
        DataError: (while iterating) a file cannot be read, or a record is not as above.
    """
    return _open(questions, outputs, None)


def _open(questions: Path, outputs: Path, only: Collection[int] | None) -> Iterator[Question]:
    """`open_questions`, or of these the ones whose numbers (from 1) are in ``only``."""
    whole = _outputs(outputs)
    task, golds = _task(whole, outputs), _golds(whole, outputs)
    seen: set[str] = set()
    for number, record in elements(questions):
        if only is not None and number not in only:
            continue
        question = _question(record, task, golds, f"{questions}: question {number}", outputs)
        if question.id in seen:
            raise DataError(f"{questions}: question {number}: id {question.id!r} comes twice")
        seen.add(question.id)
        yield question
        if only is not None and len(seen) == len(only):
            return


def choose(questions: Path, outputs: Path, limit: int | None, seed: int) -> Iterator[Question]:
    """Yield a seeded subset of at most ``limit`` questions, in the file's order.

    The subset is spread over users: nobody has two questions in it before everybody has one. It
    depends on ``seed``, ``limit`` and the file alone, and a larger limit keeps what a smaller one
    chose. With a limit the file is read twice, the first time for its users.

    Raises:
        DataError: as `open_questions`; or ``limit`` is below 1.
    """
    if limit is None:
        yield from open_questions(questions, outputs)
        return
    if limit < 1:
        raise DataError(f"a limit of {limit} leaves no question; give 1 or more, or none at all")
    places: dict[str, list[int]] = {}
    for number, record in elements(questions):
        places.setdefault(_user(record, f"{questions}: question {number}"), []).append(number)
    yield from _open(questions, outputs, set(_spread(list(places.values()), seed)[:limit]))


def _spread(places: Sequence[list[int]], seed: int) -> list[int]:
    """All places in the order of choice: every user's first, then every user's second, ..."""
    rng = np.random.default_rng(seed)
    users = [rng.permutation(places[i]).tolist() for i in rng.permutation(len(places))]
    rounds = max(map(len, users), default=0)
    return [user[i] for i in range(rounds) for user in users if i < len(user)]


def _question(
    record: Any, task: Task, golds: Mapping[str, str], where: str, outputs: Path
) -> Question:
    user = _user(record, where)
    id_ = _text(record, "id", where)
    where = f"{where} (id {id_!r})"
    if id_ not in golds:
        raise DataError(f"{where} has no gold output in {outputs}")
    profile = record.get("profile")
    if not isinstance(profile, list):
        raise DataError(f"{where}: field 'profile' is {kind(profile)}; a list of records is wanted")
    notes = (
        _note(fields, task, f"{where}, profile record {i}") for i, fields in enumerate(profile, 1)
    )
    return Question(
        id=id_,
        user=user,
        task=task.number,
        input=_text(record, "input", where),
        output=golds[id_],
        history=tuple(note for note in notes if note is not None),
    )


def _user(record: Any, where: str) -> str:
    """Who is asked: the field ``user_id``, else the question's id."""
    if not isinstance(record, dict):
        raise DataError(f"{where} is {kind(record)}, not an object with id, input and profile")
    user = record.get("user_id")
    if user is None:
        return _text(record, "id", where)
    if isinstance(user, bool) or not isinstance(user, str | int):
        raise DataError(f"{where}: field 'user_id' is {kind(user)}; text or an integer is wanted")
    return str(user)


def _note(fields: Any, task: Task, where: str) -> Note | None:
    """The note of a profile record, by the task's own fields; None where nothing was written."""
    if not isinstance(fields, dict):
        raise DataError(f"{where} is {kind(fields)}, not an object")
    pair = next(((i, o) for i, o in task.note_fields if o in fields), None)
    if pair is None or pair[0] not in {"", *fields}:
        forms = " or ".join("{" + ", ".join(filter(None, form)) + "}" for form in task.note_fields)
        found = ", ".join(fields) or "none"
        raise DataError(f"{where} has the fields {found}; task {task.number} wants {forms}")
    asked, written = pair
    output = fields[written]
    if output is None or (isinstance(output, str) and not output.strip()):
        return None
    known: dict[str, object] = {"output": output if written != "score" else _score(output)}
    known["input"] = (fields[asked] or "") if asked else ""
    try:
        if fields.get("date") is not None:
            known["time"] = _moment(fields["date"])
        return note_from_fields(known | {"id": fields.get("id")})
    except HistoryError as error:
        # note_from_fields speaks of its own two fields; say the file's names.
        said = str(error).replace('"input"', f"'{asked}'").replace('"output"', f"'{written}'")
        raise DataError(f"{where}: {said}") from None


def _score(score: object) -> object:
    """A rating as text, should a file hold it as an integer."""
    return str(score) if isinstance(score, int) and not isinstance(score, bool) else score


def _moment(date: object) -> float:
    """Unix seconds of a profile's ``date``: a year, year-month or year-month-day, joined by "-".

    These are the forms that LaMP's own recency ranking reads. A number too large for a year is
    Unix seconds; anything else must be ISO 8601.
    """
    parts = re.fullmatch(r"(\d{4})(?:-(\d{1,2}))?(?:-(\d{1,2}))?", str(date).strip())
    if parts:
        year, month, day = parts[1], int(parts[2] or 1), int(parts[3] or 1)
        return parse_time(f"{year}-{month:02}-{day:02}", "date")
    whole = isinstance(date, str) and re.fullmatch(r"\d{5,}", date.strip())
    return parse_time(int(str(date)) if whole else date, "date")


# --- gold answers and predictions -------------------------------------------------------------


def task_name(outputs: Path) -> str:
    """The name of the task in an outputs file, such as "LaMP_6" or "LaMP_6_style".

    Raises:
        DataError: the file cannot be read, or names no LaMP task.
    """
    return _name(_outputs(outputs), outputs)


def read_golds(outputs: Path) -> dict[str, str]:
    """The gold answers of an outputs file by question id, in the file's order.

    Raises:
        DataError: the file cannot be read, or an id or output is missing, no text, or twice there.
    """
    return _golds(_outputs(outputs), outputs)


def write_predictions(path: Path, task_name: str, predictions: Mapping[str, str]) -> None:
    """Write answers as LaMP's evaluation script reads them.

    The script compares ids as sets, so it accepts the file only if every gold id has its answer.

    Args:
        path: a JSON file; replaced whole, or not at all.
        task_name: as in the outputs file, such as "LaMP_6".
        predictions: the answer to each question, by its id.
    """
    golds = [{"id": id_, "output": output} for id_, output in predictions.items()]
    with replacing(path, encoding="ascii") as file:
        file.write(json.dumps({"task": task_name, "golds": golds}) + "\n")


def write_questions(folder: Path, task_name: str, questions: Sequence[Question]) -> None:
    """Write dev_questions.json and dev_outputs.json, each whole or not at all.

    Args:
        folder: made if it is not there.
        task_name: such as "LaMP_7_voices"; its number says which fields a profile record has. What
            they do not hold of a note (task 7 has no input) is left out.
        questions: with ids that differ.
    """
    asked, written = _task_named(task_name).note_fields[0]
    records = [
        {
            "id": question.id,
            "user_id": question.user,
            "input": question.input,
            "profile": [
                {"id": str(i), **({asked: note.input} if asked else {}), written: note.output}
                for i, note in enumerate(question.history)
            ],
        }
        for question in questions
    ]
    golds = [{"id": question.id, "output": question.output} for question in questions]
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in (("questions", records), ("outputs", {"task": task_name, "golds": golds})):
        with replacing(folder / f"dev_{name}.json") as file:
            json.dump(value, file, indent=0)


def _outputs(path: Path) -> dict[str, Any]:
    """An outputs file; it is read whole, as golds come in any order and are small."""
    value = read(path)
    if not isinstance(value, dict):
        raise DataError(f"{path} is {kind(value)}, not an object with task and golds")
    return value


def _name(whole: Mapping[str, Any], path: Path) -> str:
    name = whole.get("task")
    if not isinstance(name, str) or not _TASK.search(name):
        raise DataError(f"{path}: field 'task' is {name!r}, not named LaMP_1 to LaMP_7")
    return name


def _task(whole: Mapping[str, Any], path: Path) -> Task:
    return _task_named(_name(whole, path))


def _task_named(name: str) -> Task:
    """The task of a name that ``_TASK`` finds a number in."""
    return task_of(int(_TASK.findall(name)[0]))


def _golds(whole: Mapping[str, Any], path: Path) -> dict[str, str]:
    found = whole.get("golds")
    if not isinstance(found, list):
        raise DataError(f"{path}: field 'golds' is {kind(found)}; a list is wanted")
    golds: dict[str, str] = {}
    for number, gold in enumerate(found, start=1):
        where = f"{path}: gold {number}"
        if not isinstance(gold, dict):
            raise DataError(f"{where} is {kind(gold)}, not an object with id and output")
        id_ = _text(gold, "id", where)
        if id_ in golds:
            raise DataError(f"{where}: id {id_!r} comes twice")
        golds[id_] = _text(gold, "output", f"{where} (id {id_!r})")
    return golds


def _text(fields: Mapping[str, Any], field: str, where: str) -> str:
    value = fields.get(field)
    if not isinstance(value, str):
        raise DataError(f"{where}: field '{field}' is {kind(value)}; text is wanted")
    return value


# --- other people's histories -----------------------------------------------------------------


def with_swaps(
    questions: Iterable[Question], seed: int
) -> Iterator[tuple[Question, tuple[Note, ...]]]:
    """Pair every question with the history of another user, chosen by ``seed``.

    Args:
        questions: of one task, in any order. They are read ahead by ``WINDOW``, and further only
            until a second user comes; the choice is among the last ``WINDOW`` users read.
        seed: the same questions and seed give the same pairs.

    Yields:
        (question, the other's history), in the order of ``questions``. Histories without a note
        are given to nobody.

    Raises:
        DataError: only one user has notes.
    """
    rng = np.random.default_rng(seed)
    donors: dict[str, tuple[Note, ...]] = {}  # of the last users read, the latest last
    waiting: deque[Question] = deque()
    ahead = iter(questions)
    ended = False
    while waiting or not ended:
        while not ended and (len(waiting) < WINDOW or len(donors) < 2):
            question = next(ahead, None)
            if question is None:
                ended = True
                break
            waiting.append(question)
            if question.history:
                donors.pop(question.user, None)
                donors[question.user] = question.history
                if len(donors) > WINDOW:
                    del donors[next(iter(donors))]
        if waiting:
            question = waiting.popleft()
            others = [history for user, history in donors.items() if user != question.user]
            if not others:
                raise DataError(f"no user but {question.user} has notes: nobody to swap with")
            yield question, others[int(rng.integers(len(others)))]


def swap_histories(questions: Sequence[Question], seed: int) -> list[tuple[Note, ...]]:
    """For each question, the history of another user of the same task (a seeded choice)."""
    rng = np.random.default_rng(seed)
    swapped = []
    for question in questions:
        others = [q for q in questions if q.task == question.task and q.user != question.user]
        if not others:
            raise ValueError(f"task {question.task} has one user only: nobody to swap with")
        swapped.append(others[int(rng.integers(len(others)))].history)
    return swapped
