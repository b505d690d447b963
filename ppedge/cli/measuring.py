"""What `ppedge bench` measures within one process: encoding, syncing, first tokens, speed."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ppedge.blend import Blend
from ppedge.cli.made_notes import LEAST_ENCODED, history_file, made_notes, write_history
from ppedge.defaults import history_dir
from ppedge.llm.sampling import Sampling
from ppedge.notes.reader import Note, read_notes
from ppedge.personalizer import Personalizer
from ppedge.plug.no_plug import NoPlug
from ppedge.plug.plug import Plug
from ppedge.store.persona import Persona

KeyValue = tuple[NDArray[np.float32], NDArray[np.float32]]

PROMPTS: Final = (
    "What should I cook tonight?",
    "Write a short e-mail to my landlord about the heating.",
    "How was your weekend?",
    "Tell me about a book you like.",
)
_TEMPERATURE: Final = 0.2
_SLICE: Final = 32


@dataclass(frozen=True, slots=True)
class Settings:
    """What is asked for.

    Attributes:
        model: a GGUF file; None takes the default.
        plug: a plug's folder or .zip, or "none"; None takes the default.
        threads: CPU threads; None chooses as the commands do.
        rounds: of which medians are taken.
        notes: sizes of the personas.
        max_tokens: length of each answer.
    """

    model: str | None
    plug: str | None
    threads: int | None
    rounds: int
    notes: tuple[int, ...]
    max_tokens: int


# --- encoding and syncing ---


class Encoded:
    """Notes that were encoded once, so that stores of several sizes can be made of them.

    Attributes:
        notes_per_second: median over slices of the notes.
    """

    def __init__(self, plug: Plug | NoPlug, notes: Sequence[Note]) -> None:
        """Encode ``notes``."""
        self._vectors: dict[str, KeyValue] = {}
        list(plug.encode_notes(notes[:2]))
        rates = []
        for start in range(0, len(notes), _SLICE):
            part = notes[start : start + _SLICE]
            began = time.perf_counter()
            pairs = list(plug.encode_notes(part))
            rates.append(len(part) / (time.perf_counter() - began))
            self._vectors |= {note.id: pair for note, pair in zip(part, pairs, strict=True)}
        self.notes_per_second = statistics.median(rates)

    def again(self, notes: Sequence[Note]) -> Iterator[KeyValue]:
        """Yield the vectors of notes that were encoded before."""
        yield from (self._vectors[note.id] for note in notes)


def sync_seconds(persona: Persona, history: Path, encoded: Encoded, rounds: int) -> float:
    """Median seconds to find that a file holds the very notes of the store."""
    persona.sync(read_notes(history), encoded.again)
    found = []
    for _ in range(rounds):
        began = time.perf_counter()
        persona.sync(read_notes(history), encoded.again)
        found.append(time.perf_counter() - began)
    return statistics.median(found)


# --- answers ---


def ask(
    personalizer: Personalizer,
    persona: Persona | None,
    prompt: str,
    max_tokens: int,
    blend: Blend | None = None,
) -> tuple[float, float]:
    """Seconds to the first piece of an answer, and seconds a token behind it."""
    sampling = Sampling(temperature=_TEMPERATURE, max_tokens=max_tokens, seed=1)
    began = time.perf_counter()
    answer = personalizer.stream(prompt, persona, sampling, blend=blend)
    pieces = iter(answer)
    next(pieces, None)
    first = time.perf_counter() - began
    for _ in pieces:
        pass
    rest = time.perf_counter() - began - first
    return first, rest / max(1, answer.generation.new_tokens - 1)


def answers(
    personalizer: Personalizer, personas: Mapping[str, Persona | None], rounds: int, max_tokens: int
) -> dict[str, list[tuple[float, float]]]:
    """What `ask` says of every persona and prompt, taking turns, so that noise meets all alike.

    Each is asked for two tokens first, untimed: what stands before the prompt is then held, as in
    every use but the first.
    """
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in personas}
    for turn in range(-1, rounds):
        prompt = PROMPTS[turn % len(PROMPTS)]
        for name, persona in personas.items():
            ask(personalizer, persona, "Say hello.", 2)
            times = ask(personalizer, persona, prompt, max_tokens)
            if turn >= 0:  # The first round only warms up.
                found[name].append(times)
    return found


def compared(times: Mapping[str, list[tuple[float, float]]], base: str) -> list[dict[str, Any]]:
    """Medians of each, and the median of what they are of ``base`` in the same round."""
    rows = []
    for name, found in times.items():
        firsts = [first / other for (first, _), (other, _) in zip(found, times[base], strict=True)]
        rows.append(
            {
                "persona": name,
                "first_token_seconds": statistics.median(first for first, _ in found),
                "ratio": statistics.median(firsts),
                "tokens_per_second": 1 / max(1e-9, statistics.median(each for _, each in found)),
            }
        )
    return rows


# --- all of it ---

BARE: Final = "bare"


def measure(settings: Settings, folder: Path) -> dict[str, Any]:
    """Measure everything that one process can.

    Leaves histories in ``folder`` as ``history_file`` names them, each with its store.

    Raises:
        ModelError, PlugError: as `Personalizer.open`.
    """
    opened = Personalizer.open(settings.model, settings.plug, n_threads=settings.threads)
    with opened as personalizer:
        plug = personalizer.plug
        notes = made_notes(max(LEAST_ENCODED, *settings.notes))
        encoded = Encoded(plug, notes)
        personas: dict[str, Persona | None] = {BARE: None}
        sync: dict[str, float] = {}
        try:
            for count in settings.notes:
                name = f"{count} notes"
                history = history_file(folder, count)
                write_history(history, notes[:count])
                # Where `personalize --history` looks for it.
                store = history_dir(history, without_plug=plug.manifest is None)
                persona = personas[name] = personalizer.persona(store)
                sync[name] = sync_seconds(persona, history, encoded, settings.rounds)
            times = answers(personalizer, personas, settings.rounds, settings.max_tokens)
        finally:
            for each in personas.values():
                if each is not None:
                    each.close()
        return {
            "model": str(personalizer.llm.path),
            "plug": plug.name,
            "encoded_notes_per_second": None if plug.manifest is None else encoded.notes_per_second,
            "sync_unchanged_seconds": sync,
            "answers": compared(times, BARE),
        }
