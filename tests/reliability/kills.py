"""SIGKILL at random moments of add, sync, forget, import and watch, always on the same stores.

What was stored before and was to stay is looked for after each kill, and so is every byte of it:
a store's own check reads all its files.
"""

from __future__ import annotations

import itertools
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

from ppedge.store.persona import Persona
from tests.command import SECONDS, Command
from tests.reliability.setting import Found, scratch, tiny_command, write_lines

FRESH = 300
"""Notes that an operation brings at most; as many as are encoded in some tenths of a second."""

LIFE = (0.5, 1.15)
"""Shares of the time that a command of its kind takes, within which it is killed; what that time is
follows the machine: shorter after a command that ended by itself, longer after a kill."""

MOST = 900
"""Notes of a store, from which on it is made smaller."""

Texts = dict[str, str]
KINDS = ("add", "sync", "forget", "import", "watch")


@dataclass
class Stores:
    """The two stores, and what is in them: one that commands change, one that follows a folder."""

    command: Command
    folder: Path
    chance: random.Random
    kept: Texts = field(default_factory=dict)
    watched: Texts = field(default_factory=dict)
    made: int = 0

    @property
    def vault(self) -> Path:
        """The folder that is watched."""
        return self.folder / "vault"

    def fresh(self) -> Texts:
        """Notes that never were, by id."""
        begin, self.made = self.made, self.made + self.chance.randint(1, FRESH)
        return {f"n{i}": self.text(i) for i in range(begin, self.made)}

    def text(self, number: int) -> str:
        """What a note says; the same number says something else each time."""
        return f"note {number}, {self.chance.getrandbits(64):x}." + " rain and bread" * (number % 7)

    def edited(self, texts: Texts, share: float) -> Texts:
        """The same notes, some with another text."""
        return {
            name: self.text(int(name[1:])) if self.chance.random() < share else text
            for name, text in texts.items()
        }

    def smaller(self, texts: Texts, share: float) -> Texts:
        """Some of the notes."""
        return {name: text for name, text in texts.items() if self.chance.random() < share}


@dataclass(frozen=True)
class Operation:
    """One command: its words, what it leads to, and whether it is done wholly or not at all."""

    words: list[str | Path]
    target: Texts
    whole: bool = False


def make(kind: str, stores: Stores) -> Operation:
    """An operation of a kind, drawn."""
    kept, chance = stores.kept, stores.chance
    if kind == "watch":
        return _watch(stores)
    if kind == "answer":
        words = ["personalize", "--max-tokens", "400", "--seed", str(len(kept)), "rain"]
        return Operation([*words], kept)
    if kind == "forget" and kept:
        gone = [name for name in kept if chance.random() < 0.3] or [next(iter(kept))]
        left = {name: text for name, text in kept.items() if name not in gone}
        return Operation(["notes", "forget", "--yes", *gone], left, whole=True)
    file = stores.folder / "notes.jsonl"
    if kind == "sync":
        base = stores.smaller(kept, 0.9 if len(kept) < MOST else 0.3)
        target = stores.edited(base, 0.1) | stores.fresh()
        whole = not kept.items() <= target.items()
        write_lines(file, ({"text": text, "id": name} for name, text in target.items()))
        return Operation(["notes", "sync", file], target, whole)
    given = stores.edited(stores.smaller(kept, 0.1), 0.5) | stores.fresh()
    if kind == "import":
        file = stores.folder / "notes.csv"
        rows = (f'{name},"{text}"\n' for name, text in given.items())
        file.write_text("id,text\n" + "".join(rows))
    else:
        write_lines(file, ({"text": text, "id": name} for name, text in given.items()))
    return Operation(["notes", kind, file], kept | given)


def _watch(stores: Stores) -> Operation:
    """Change the folder, and have it followed."""
    vault, rest = stores.vault, time.time() - 60  # What has just been written would be waited for.
    vault.mkdir(exist_ok=True)
    there = {path.name.removesuffix(".txt"): path.read_text() for path in vault.iterdir()}
    target = stores.smaller(there, 0.9 if len(there) < MOST else 0.3)
    target = stores.edited(target, 0.1) | stores.fresh()
    for name in there.keys() - target.keys():
        (vault / f"{name}.txt").unlink()
    for name, text in target.items():
        if there.get(name) != text:
            (vault / f"{name}.txt").write_text(text)
            os.utime(vault / f"{name}.txt", (rest, rest))
    ids = {f"vault/{name}.txt": text for name, text in target.items()}
    return Operation(["watch", vault, "--persona", "watched", "--once"], ids)


def run(kills: int) -> Found:
    """Kill so many times; each kill hits a command that was still at work."""
    with scratch() as folder:
        stores = Stores(tiny_command(folder), folder, random.Random(23))
        found, outcomes = Found(), Counter[str]()
        long = {kind: whole_seconds(kind, stores) for kind in KINDS}
        for kind in itertools.cycle(KINDS):
            if outcomes.total() == kills:
                break
            outcome = kill_one(kind, stores, long, found)
            if outcome:
                outcomes[outcome] += 1
        notes = len(stores.kept) + len(stores.watched)
        found.wrong += _told_by_the_program(stores)
    found.figures = {
        "kills": outcomes.total(),
        "kinds": dict.fromkeys(KINDS, 0) | Counter(found.figures.pop("kinds", [])),
        "left as before": outcomes["before"],
        "left in between": outcomes["between"],
        "left as after": outcomes["after"],
        "notes at the end": notes,
        "notes lost": sum("lost" in line for line in found.wrong),
        "half-written files read": sum("half" in line for line in found.wrong),
    }
    return found


def whole_seconds(kind: str, stores: Stores) -> float:
    """How long a command of a kind takes, run to its end."""
    operation = make(kind, stores)
    began = time.monotonic()
    stores.command.good(*operation.words)
    if kind == "watch":
        stores.watched = operation.target
    else:
        stores.kept = operation.target
    return time.monotonic() - began


def kill_one(
    kind: str,
    stores: Stores,
    long: dict[str, float],
    found: Found,
    number: int = signal.SIGKILL,
    codes: Collection[int] = (-signal.SIGKILL,),
) -> str:
    """Run one command and end it; how it left its store, "" where it had ended by itself.

    Args:
        kind: of the command.
        stores: that it works on; brought up to date.
        long: how long commands of each kind take; brought up to date.
        found: what is wrong is added.
        number: of the signal.
        codes: exit codes that a command may end with because of it.
    """
    operation = make(kind, stores)
    process = stores.command.start(*operation.words)
    time.sleep(stores.chance.uniform(*LIFE) * long[kind])
    ended = process.poll() is not None
    process.send_signal(number)
    _, told = process.communicate(timeout=SECONDS)
    if not ended and process.returncode not in (0, *codes):
        found.wrong.append(f"{kind} ended with {process.returncode}: {told.decode()[-300:]}")
    if ended:
        if process.returncode:
            found.wrong.append(f"{kind} failed: {told.decode()[-300:]}")
        long[kind] *= 0.85
    else:
        long[kind] *= 1.1
        found.figures.setdefault("kinds", []).append(kind)
    before = stores.watched if kind == "watch" else stores.kept
    now, problems = look(stores, kind)
    found.wrong += problems + compare(before, operation, now, ended=ended)
    if kind == "watch":
        stores.watched = now
    else:
        stores.kept = now
    if ended:
        return ""
    return "before" if now == before else "after" if now == operation.target else "between"


def look(stores: Stores, kind: str) -> tuple[Texts, list[str]]:
    """What a store holds after a kill, and what is wrong with its files."""
    folder = stores.command.home / "personas" / ("watched" if kind == "watch" else "default")
    if not (folder / "notes.db").exists() or not (folder / "notes.db").stat().st_size:
        return {}, []
    with Persona.open(folder, create=False) as persona:
        texts = {note.id: note.output for note in persona.notes()}
        wrong = [f"{kind}: half-written: {problem.message}" for problem in persona.verify()]
    return texts, wrong


def compare(before: Texts, operation: Operation, now: Texts, *, ended: bool) -> list[str]:
    """What may not be: a note that is gone, or that says what nobody wrote."""
    target, wrong = operation.target, []
    for name in before.keys() & target.keys():
        if name not in now:
            wrong.append(f"{operation.words[:2]}: lost {name}")
    for name, text in now.items():
        if text not in (before.get(name), target.get(name)):
            wrong.append(f"{operation.words[:2]}: half of {name}: {text[:60]!r}")
    if operation.whole and now not in (before, target):
        wrong.append(f"{operation.words[:2]}: half done")
    if ended and now != target:
        wrong.append(
            f"{operation.words[:2]}: ended well and lost {len(target.keys() - now.keys())}"
        )
    return wrong


def _told_by_the_program(stores: Stores) -> list[str]:
    """The same, once more, as a person would see it."""
    wrong = []
    for name in ("default", "watched"):
        if (stores.command.home / "personas" / name).is_dir():
            report = stores.command.json("notes", "verify", "--persona", name)
            wrong += [f"{name}: half-written: {problem}" for problem in report["problems"]]
    return wrong
