"""Ctrl-C at random moments of add, sync, import and an answer; the stores are whole after each."""

from __future__ import annotations

import itertools
import random
import signal
from collections import Counter

from tests.reliability.kills import Stores, kill_one, whole_seconds
from tests.reliability.setting import Found, scratch, tiny_command

KINDS = ("add", "sync", "import", "answer")

# 130, as a shell expects; or the signal's own, where it came before or behind the command, while
# Python itself was starting or ending.
CODES = (130, -signal.SIGINT)


def run(interrupts: int) -> Found:
    """Interrupt so many commands, each still at work."""
    with scratch() as folder:
        stores, found = Stores(tiny_command(folder), folder, random.Random(5)), Found()
        long = {kind: whole_seconds(kind, stores) for kind in KINDS}
        outcomes = Counter[str]()
        for kind in itertools.cycle(KINDS):
            if outcomes.total() == interrupts:
                break
            outcome = kill_one(kind, stores, long, found, signal.SIGINT, CODES)
            if outcome:
                outcomes[outcome] += 1
        notes = stores.command.json("notes", "verify")["notes"]
    kinds = Counter(found.figures.pop("kinds", []))
    found.figures = {
        "interrupts": outcomes.total(),
        "kinds": {kind: kinds[kind] for kind in KINDS},
        "notes at the end": notes,
        "notes lost or half-written": len(found.wrong),
    }
    return found
