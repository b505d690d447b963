"""Ways to answer an everyday prompt as somebody would: the rows of ``export.free_prompts``.

    with Stage(personalizer, max_tokens=80) as stage:
        method = parse("listed@0.2", stage)
        answer = method(person, "What should I cook tonight?", seed=0)

A row's name may end in ``@T``, the temperature; without, it is the run time's default. To add a
row, write a function (stage, person, prompt, sampling) -> pieces of text and put it into ``ROWS``.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from export.evaluation.free_people import Person
from ppedge import LLM, Blend, Note, Persona, Personalizer, Sampling
from ppedge.blend import PARTS
from ppedge.closable import Closable

LISTED = 8  # notes that "listed" puts into the prompt, the latest
NEAREST = 4  # notes that "bm25-4" does, the nearest to what is asked


@dataclass(frozen=True)
class Answer:
    """What a method answered.

    Attributes:
        text: the answer.
        first: seconds from the question to the first piece of text; the whole time if none came.
        total: seconds to the end.
    """

    text: str
    first: float
    total: float


@dataclass(frozen=True)
class Method:
    """A row of the table."""

    name: str
    answer: Callable[[Person, str, int], Answer]

    def __call__(self, person: Person, prompt: str, seed: int) -> Answer:
        """Answer ``prompt`` for ``person``; the same seed writes the same text."""
        return self.answer(person, prompt, seed)


class Stage(Closable):
    """A model, a plug, and the persona store of whoever is asked.

    Attributes:
        personalizer: model and plug; stays open.
        sampling: settings that all methods share; seed and temperature are set for each answer.
    """

    def __init__(self, personalizer: Personalizer, max_tokens: int) -> None:
        self.personalizer = personalizer
        self.sampling = Sampling(max_tokens=max_tokens)
        self._folder = tempfile.TemporaryDirectory(prefix="free-prompts-")
        self._store: Persona | None = None
        self._whose = ""

    @property
    def llm(self) -> LLM:
        """The model."""
        return self.personalizer.llm

    def enter(self, person: Person) -> None:
        """Make ready for a person: their notes stored, and nothing in the model's context."""
        self.llm.clear()
        if self._whose == person.name:
            return
        self._leave()
        self._store = self.personalizer.persona(Path(self._folder.name) / person.name)
        self._store.sync(person.notes, self.personalizer.plug.encode_notes)
        self._whose = person.name

    @property
    def persona(self) -> Persona:
        """The store of the person entered last."""
        assert self._store is not None  # No method is asked before somebody entered.
        return self._store

    def _leave(self) -> None:
        if self._store is not None:
            self._store.close()
        self._store, self._whose = None, ""

    def close(self) -> None:
        """Remove the stores; safe to call twice."""
        self._leave()
        self._folder.cleanup()


# --- the rows ---------------------------------------------------------------------------------

Row = Callable[[Stage, Person, str, Sampling], Iterable[str]]


def _bare(stage: Stage, person: Person, prompt: str, sampling: Sampling) -> Iterable[str]:
    """The model alone."""
    return stage.personalizer.stream(prompt, None, sampling)


def _blended(blend: Blend, best_of: int = 1) -> Row:
    """The run time with some parts of a persona."""

    def row(stage: Stage, person: Person, prompt: str, sampling: Sampling) -> Iterable[str]:
        return stage.personalizer.stream(
            prompt, stage.persona, sampling, blend=blend, best_of=best_of
        )

    return row


def _listed(stage: Stage, person: Person, prompt: str, sampling: Sampling) -> Iterable[str]:
    """The latest notes in the prompt."""
    return _bare(stage, person, with_notes(prompt, person.notes[-LISTED:]), sampling)


def _bm25(stage: Stage, person: Person, prompt: str, sampling: Sampling) -> Iterable[str]:
    """The notes nearest to what is asked in the prompt, the nearest last."""
    # Here, not above: the other rows do without the retrieval's packages.
    from export.baselines.retrieval import rank_bm25
    from export.data.lamp import Question

    nearest = rank_bm25(Question("", person.name, 7, prompt, "", person.notes), NEAREST)
    return _bare(stage, person, with_notes(prompt, nearest[::-1]), sampling)


_NOTHING = Blend().without(*PARTS)
_TURNS = _NOTHING.with_parts("turns")
_TRAINED = ("soft", "control")

ROWS: dict[str, Row] = {
    "bare": _bare,
    "listed": _listed,
    "bm25-4": _bm25,
    "soft": _blended(_NOTHING.with_parts(*_TRAINED)),
    "plug": _blended(_NOTHING.with_parts(*_TRAINED, "ngrams")),
    "turns": _blended(_TURNS),
    "turns+ngrams": _blended(_TURNS.with_parts("ngrams")),
    "turns+plug": _blended(_TURNS.with_parts(*_TRAINED, "ngrams")),
    "turns+style": _blended(_TURNS.with_parts("style")),
    "default": _blended(Blend()),
    "default-soft": _blended(Blend().without("soft")),
    "default+control": _blended(Blend().with_parts("control")),
    "everything": _blended(Blend().with_parts(*PARTS)),
    "best-of-4": _blended(Blend(), best_of=4),
}
"""Parts of a persona (``ppedge.blend``): *soft* is soft tokens and control vector, *plug* these and
the n-gram cache, *turns* notes as earlier turns, *style* the shapes; *default* is what the run
time does when it is told nothing, *default-soft* that without the plug, *default+control* that with
its control vector, *everything* all of it."""

DEFAULT = (
    *("bare@0.2", "bare@0.7", "listed", "bm25-4", "soft", "plug"),
    *("turns", "turns+ngrams", "turns+plug", "turns+style", "default", "everything", "best-of-4"),
)


def with_notes(prompt: str, notes: Sequence[Note]) -> str:
    """A prompt that shows notes first."""
    shown = "\n".join(f'- "{note.output}"' for note in notes)
    return f"Texts that I wrote:\n{shown}\n\nAnswer as I would write it. {prompt}"


def parse(name: str, stage: Stage) -> Method:
    """The method of a row's name, such as "soft" or "bare@0.2".

    Raises:
        ValueError: there is no such row, or the temperature is none.
    """
    row, temperature = split(name)
    return Method(name, partial(_timed, stage, ROWS[row], temperature))


def split(name: str) -> tuple[str, float | None]:
    """A row's name and its temperature, if one is named.

    Raises:
        ValueError: as `parse`.
    """
    row, at, word = name.partition("@")
    if row not in ROWS:
        raise ValueError(f"no method is called '{row}'; there are {', '.join(ROWS)}, each with @T")
    try:
        temperature = float(word) if at else None
    except ValueError:
        temperature = math.nan
    if temperature is not None and not (temperature >= 0 and math.isfinite(temperature)):
        raise ValueError(f"'{name}': after @ comes a temperature, such as {row}@0.7")
    return row, temperature


def _timed(
    stage: Stage, row: Row, temperature: float | None, person: Person, prompt: str, seed: int
) -> Answer:
    sampling = replace(stage.sampling, seed=seed)
    if temperature is not None:
        sampling = replace(sampling, temperature=temperature)
    begun = time.perf_counter()
    pieces: list[str] = []
    first: float | None = None
    for piece in row(stage, person, prompt, sampling):
        first = first or time.perf_counter() - begun
        pieces.append(piece)
    total = time.perf_counter() - begun
    return Answer("".join(pieces), total if first is None else first, total)
