"""After ``forget``, no eight bytes in a row of a note in any file below the data folder.

The program keeps notes, answers from them (which leaves states of the model that it was in behind
them) and forgets some, again and again; a database that others have open keeps its log meanwhile.
"""

from __future__ import annotations

import hashlib
import random
from pathlib import Path
from typing import Any

import numpy as np

from ppedge.notes.reader import Note
from ppedge.store.sql_read import identity
from tests.command import Command
from tests.reliability.setting import Found, letters, plug_of, scratch, tiny_command, write_lines

WINDOW = 8
"""Bytes in a row: of random letters, so that no two places have the same by chance."""

NOTES = 120
Notes = list[dict[str, str]]


def run(rounds: int) -> Found:
    """Forget in so many rounds, by id, by words and by a change of the history that was read."""
    found = Found(
        {"rounds": rounds, "notes forgotten": 0, "kept states removed": 0, "bytes searched": 0}
    )
    with scratch() as folder:
        command, chance = tiny_command(folder), random.Random(7)
        plug = plug_of(command)
        kept = _notes(NOTES, chance)
        command.good("notes", "add", write_lines(folder / "notes.jsonl", kept))
        for turn in range(rounds):
            if len(kept) < NOTES // 2:
                more = _notes(NOTES, chance)
                command.good("notes", "add", write_lines(folder / "notes.jsonl", more))
                kept += more
            gone = chance.sample(kept, chance.choice((1, 2, 10)))
            kept = [note for note in kept if note not in gone]
            states = _answered(command)
            _forget(command, folder, gone, kept, way=turn % 3)
            traces = [trace for note in gone for trace in _traces(note, plug)]
            _search(command.home, gone, traces, states, found)
        _ensure_the_search_finds(command.home, kept, found)
    found.figures["notes of which something was left"] = len(found.wrong)
    return found


def _notes(count: int, chance: random.Random) -> Notes:
    return [
        {
            "id": letters(chance, 12),
            "input": letters(chance, 20),
            "output": letters(chance, chance.choice((30, 300, 6000))),
            "source": letters(chance, 12),
        }
        for _ in range(count)
    ]


def _answered(command: Command) -> set[str]:
    """Answer from the notes, and return hashes of the states that were kept."""
    command.good("personalize", "--max-tokens", "2", "--seed", "1", "rain")
    states = [*command.home.rglob("prefix.*"), *command.home.rglob("manner.*")]
    assert states, "a state should have been kept"
    return {hashlib.sha256(path.read_bytes()).hexdigest() for path in states}


def _forget(command: Command, folder: Path, gone: Notes, kept: Notes, *, way: int) -> None:
    if way == 0:
        command.good("notes", "forget", "--yes", *(note["id"] for note in gone))
    elif way == 1:
        for note in gone:
            command.good("notes", "forget", "--yes", "--text", note["output"][:20])
    else:
        command.good("notes", "sync", write_lines(folder / "notes.jsonl", kept))


def _traces(fields: dict[str, str], plug: Any) -> list[bytes]:
    """What is made of a note: its vectors as they are kept, its hashes."""
    note = Note(**fields)
    [(key, value)] = plug.encode_notes([note])
    rows = [vector.astype("<f2").tobytes() for vector in (key, value)]
    return [*rows, identity(note), bytes.fromhex(note.digest)]


def _search(home: Path, gone: Notes, traces: list[bytes], states: set[str], found: Found) -> None:
    texts = [value.encode() for note in gone for value in note.values()]
    wanted = np.unique(np.concatenate([_windows(text) for text in texts]))
    for path in home.rglob("*"):
        if not path.is_file():
            continue
        data, where = path.read_bytes(), path.relative_to(home)
        found.figures["bytes searched"] += len(data)
        if np.isin(_windows(data), wanted).any():
            found.wrong.append(f"{where} holds bytes of a forgotten note")
        if any(trace in data for trace in traces):
            found.wrong.append(f"{where} holds a vector or a hash of a forgotten note")
        if hashlib.sha256(data).hexdigest() in states:
            found.wrong.append(f"{where} is a state of the model behind a forgotten note")
    found.figures["notes forgotten"] += len(gone)
    found.figures["kept states removed"] += len(states)


def _windows(data: bytes) -> np.ndarray:
    """Each `WINDOW` bytes in a row, as a number; uint64 [len - WINDOW + 1]."""
    if len(data) < WINDOW:
        return np.zeros(0, np.uint64)
    view = np.lib.stride_tricks.sliding_window_view(np.frombuffer(data, np.uint8), WINDOW)
    return np.ascontiguousarray(view).view(np.uint64)[:, 0]


def _ensure_the_search_finds(home: Path, kept: Notes, found: Found) -> None:
    """It must find what is there: otherwise what it does not find means nothing."""
    probe = Found({"bytes searched": 0, "notes forgotten": 0, "kept states removed": 0})
    _search(home, kept[:1], [], set(), probe)
    if not probe.wrong:
        found.wrong.append("the search does not find a note that is kept")
