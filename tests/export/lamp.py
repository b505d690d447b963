"""Small LaMP files of all seven tasks, in the official forms and in that of the shared files.

    folder = lamp.write(tmp_path, task=6)                        # LaMP_6_style/dev_*.json.gz
    folder = lamp.write(tmp_path, task=2, form="time", users=3)  # LaMP_2/dev_*.json

Everything is made up here, and is the same in every run: user ``u`` has an own manner, which
all notes and answers of ``u`` show, so that a method that reads the history has something to find.
"""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Literal

from export.data.tasks import MOVIE_TAGS

# shared: user_id, NAME_style, .json.gz. user: neither (the official user-based split).
# time: user_id, and a date in every profile record (the official time-based split).
Form = Literal["shared", "user", "time"]

TASKS = (1, 2, 3, 4, 5, 6, 7)
MATTERS = ("leak", "parser", "network", "kernel", "header", "driver", "cache", "clock", "table")
MANNERS = ("core: fix the {}", "[{}] - DONE", "Why the {} matters, and to whom", "{}?! oh no")


def manner(user: int) -> str:
    """How a user writes titles; ``{}`` stands for the matter."""
    return MANNERS[user % len(MANNERS)] + ("" if user < len(MANNERS) else f" ({user})")


def text(matter: str, item: int) -> str:
    """Running text about a matter, which names no person."""
    return f"The {matter} failed in run {item} of the tests. We looked at the {matter} again."


def profile_record(task: int, user: int, item: int) -> dict[str, object]:
    """Record ``item`` of a user's profile, with the task's official fields."""
    matter = MATTERS[item % len(MATTERS)]
    title, body = manner(user).format(matter), text(matter, item)
    return {
        1: {"title": f"{title} {item}", "abstract": ""},
        2: {"description": body, "tag": MOVIE_TAGS[(user + item % 2) % len(MOVIE_TAGS)]},
        3: {"text": body, "score": str(1 + (user + item % 2) % 5)},
        4: {"text": body, "title": title},
        5: {"title": title, "abstract": body},
        6: {"text": body, "title": title},
        7: {"text": f"{title} #{matter.title()} https://t.co/{item}"},
    }[task] | {"id": str(item)}


def asked(task: int, user: int, item: int) -> tuple[str, str]:
    """(input, gold output) of a question about item ``item``, in the official words."""
    record = profile_record(task, user, item)
    matter, other = MATTERS[item % len(MATTERS)], MATTERS[(item + 1) % len(MATTERS)]
    body = text(matter, item)
    if task == 1:
        pair = [f"On the {matter}", f"On the {other}"]
        if item % 2:
            pair.reverse()
        return (
            f'For an author who has written the paper with the title "{record["title"]}", which '
            "reference is related? Just answer with [1] or [2] without explanation. "
            f'[1]: "{pair[0]}" [2]: "{pair[1]}"'
        ), f"[{1 + item % 2}]"
    if task == 2:
        return (
            "Which tag does this movie relate to among the following tags? Just answer with the "
            f"tag name without further explanation. tags: [{', '.join(MOVIE_TAGS)}] "
            f"description: {body}"
        ), str(record["tag"])
    if task == 3:
        return (
            "What is the score of the following review on a scale of 1 to 5? just answer with 1, "
            f"2, 3, 4, or 5 without further explanation. review: {body}"
        ), str(record["score"])
    if task == 7:
        neutral = manner(user).format(matter).lower().translate({ord(c): None for c in "[],?!:()"})
        return (
            "Paraphrase the following text into tweet without any explanation before or after "
            f"it: {neutral}"
        ), manner(user).format(matter)
    words = {
        4: "Generate a headline for the following article: ",
        5: "Generate a title for the following abstract of a paper: ",
        6: "Generate a subject for the following commit message: ",
    }
    return words[task] + body, str(record["title"])


def records(
    task: int, form: Form, *, users: int = 3, each: int = 2, notes: int = 6
) -> tuple[list[dict[str, object]], dict[str, object]]:
    """The values of a questions and an outputs file: ``each`` questions of every user, together.

    Every user has ``notes`` profile records; the questions are about later items.
    """
    questions, golds = [], []
    for user in range(users):
        profile = [profile_record(task, user, item) for item in range(notes)]
        if form == "time":
            profile = [p | {"date": f"2014-0{1 + i % 9}-07"} for i, p in enumerate(profile)]
        for item in range(notes, notes + each):
            prompt, gold = asked(task, user, item)
            id_ = f"{user}{item:03}"
            owner = {} if form == "user" else {"user_id": f"user-{user}"}
            questions.append({"id": id_, **owner, "input": prompt, "profile": profile})
            golds.append({"id": id_, "output": gold})
    name = f"LaMP_{task}" + ("_style" if form == "shared" else "")
    return questions, {"task": name, "golds": golds}


def write_json(path: Path, value: object) -> Path:
    """Write a value as JSON, packed if the name ends with .gz; returns the path."""
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "wt", encoding="utf-8") as file:
        json.dump(value, file)
    return path


def write(
    root: Path,
    task: int,
    form: Form = "shared",
    *,
    split: str = "dev",
    users: int = 3,
    each: int = 2,
    notes: int = 6,
) -> Path:
    """Write one task's questions and outputs below ``root``; returns their folder."""
    questions, outputs = records(task, form, users=users, each=each, notes=notes)
    folder = root / str(outputs["task"])
    folder.mkdir(parents=True, exist_ok=True)
    end = ".json.gz" if form == "shared" else ".json"
    write_json(folder / f"{split}_questions{end}", questions)
    write_json(folder / f"{split}_outputs{end}", outputs)
    return folder
