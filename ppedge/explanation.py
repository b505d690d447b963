"""Why an answer comes out as it does: which of a person's notes bear on it, and how much.

No answer is written to find out. What an answer would be without a note is found by writing it
with a persona that does not hold the note (`without_note`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from ppedge.notes.reader import Note
from ppedge.plug.conditioning import Conditioning
from ppedge.plug.no_plug import NoPlug
from ppedge.plug.plug import Plug
from ppedge.store.persona import MUTE, PIN, Persona, Sample, handle
from ppedge.store.temporary import temporary_folder
from ppedge.style.manner import SAMPLED_NOTES
from ppedge.turns.choose import choose_notes, keep_last


@dataclass(frozen=True, slots=True)
class Explanation:
    """Which notes bear on the answer to one prompt. Muted notes are nowhere in it.

    Attributes:
        turns: the notes that stand before the prompt as earlier turns, in that order, each with
            its attention weight, 0 to 1 (None without a plug). They bear on the answer. Long
            notes are cut before the model reads them; here they are whole.
        heaviest: the notes that weigh most by the plug's attention, heaviest first, with their
            weights, 0 to 1; none without a plug.
        null_weight: attention weight of the null note, 0 to 1; the weights of all notes and this
            one add up to 1. None without a plug.
        attention: whether these weights bear on the answer: the plug's soft tokens are given, or
            its n-gram cache is blended in.
        n_notes: how many notes the persona holds (a view: are in its scope), muted ones included.
        n_manner: how many notes the person's shapes and rules are made of, no one of them much;
            0 where neither bears on the answer.
    """

    turns: list[tuple[Note, float | None]]
    heaviest: list[tuple[Note, float]]
    null_weight: float | None
    attention: bool
    n_notes: int
    n_manner: int

    @property
    def foremost(self) -> Note | None:
        """The note that bears most on the answer; None of somebody without notes.

        Where attention bears on the answer, the heaviest; else the heaviest of the turns, or the
        first of them without a plug.
        """
        if self.turns and not (self.attention and self.heaviest):
            return max(self.turns, key=lambda turn: turn[1] or 0.0)[0]
        return self.heaviest[0][0] if self.heaviest else None

    def fields(self, named: Callable[[Note], dict[str, Any]]) -> dict[str, Any]:
        """All of it as JSON has it.

        Args:
            named: what is said of a note beside its weight.
        """
        return {
            "turns": [{"weight": weight, **named(note)} for note, weight in self.turns],
            "heaviest": [{"weight": weight, **named(note)} for note, weight in self.heaviest],
            "null_weight": self.null_weight,
            "bears": {
                "turns": bool(self.turns),
                "attention": self.attention,
                "manner": bool(self.n_manner),
            },
            "notes": self.n_notes,
            "manner_notes": self.n_manner,
        }


def turn_notes(sample: Sample, count: int, n_turns: int) -> list[Note]:
    """The notes that turns were made of, in order.

    Args:
        sample: those to choose from, as ``ppedge.turns.prefix.make_turns`` had them.
        count: how many turns were asked for.
        n_turns: how many there was room for.
    """
    chosen = choose_notes(sample.notes, count, sample.pinned)
    return [sample.notes[i] for i in keep_last(chosen, sample.pinned, n_turns)]


def explanation(
    persona: Persona,
    weighed: Conditioning | None,
    turns: Sequence[Note],
    heaviest: int,
    *,
    attention: bool,
    n_manner: int,
) -> Explanation:
    """Put together what is known of a prompt's notes.

    Args:
        persona: whose notes.
        weighed: what the plug says, every note named with its weight; None without a plug.
        turns: the notes that stand before the prompt, in order.
        heaviest: how many of the heaviest notes to name, 0 or more.
        attention: whether their weights bear on the answer.
        n_manner: how many notes the shapes and rules are made of.

    Raises:
        StoreError: the store cannot be read.
    """
    named = weighed.heaviest if weighed else []
    weights = {handle(note): weight for note, weight in named}
    return Explanation(
        [(note, weights.get(handle(note))) for note in turns],
        named[:heaviest],
        weighed.null_weight if weighed else None,
        attention,
        len(persona),
        n_manner,
    )


@contextmanager
def without_note(
    persona: Persona, note: Note, plug: Plug | NoPlug, *, attention: bool
) -> Iterator[Persona]:
    """The same person without one note, in a temporary folder; their own store stays as it is.

    Args:
        persona: whose notes.
        note: the one to leave out.
        plug: encodes the others, where ``attention`` asks for it.
        attention: whether attention bears on the answers that this persona is for. If so, all
            notes are encoded anew. If not, it holds those that turns, shapes and rules would be
            made of, and no vectors.

    Raises:
        PlugError: the plug's graphs fail.
        StoreError: a store cannot be read, or the temporary one not be written.
    """
    left_out = handle(note)
    notes: Iterable[Note]
    if attention:
        encoder, notes, marks = plug, persona.notes(), persona.marks()
    else:
        sample = persona.sample(SAMPLED_NOTES)
        encoder, notes = NoPlug(), sample.notes
        marks = {handle(notes[i]): PIN for i in sample.pinned}
    marks.pop(left_out, None)
    with temporary_folder() as home, Persona.open(home / "persona", encoder.space) as other:
        other.add((each for each in notes if handle(each) != left_out), encoder.encode_notes)
        other.pin(*(name for name, mark in marks.items() if mark == PIN))
        other.mute(*(name for name, mark in marks.items() if mark == MUTE))
        yield other
