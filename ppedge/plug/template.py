"""Prompt template to segments; the run time and ``export/`` both walk through here.

A template is a list of parts: ``{"text": ...}`` is the plug author's own text, in which the
model's control tokens are recognised; ``{"slot": "prompt"}`` is what the person typed, in which
they are not (a typed ``<|im_end|>`` stays plain characters); ``{"slot": "soft"}`` is where the
persona's soft tokens go. Each part is tokenized by itself, so no token spans two parts and
training and run time agree on the token list.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ppedge.llm.segments import Segment, Soft, Text
from ppedge.notes.reader import Note

Slot = Literal["prompt", "soft"]


@dataclass(frozen=True, slots=True)
class Part:
    """One part of a template: literal ``text``, or the ``slot`` that is filled at run time."""

    text: str = ""
    slot: Slot | None = None


def list_parts(template: Sequence[Part]) -> list[dict[str, str]]:
    """A template as JSON holds it, in ``plug.json`` and elsewhere."""
    return [{"slot": part.slot} if part.slot else {"text": part.text} for part in template]


def render(template: Sequence[Part], prompt: str, soft: Soft | None) -> list[Segment]:
    """Fill ``template`` with ``prompt`` and soft tokens.

    Args:
        template: the plug's prompt template.
        prompt: what the person asked; may be empty.
        soft: what fills the soft slot, or None for no persona (it is left out).

    Returns:
        The segments in order; empty text is dropped.
    """
    segments: list[Segment] = []
    for part in template:
        if part.slot == "soft":
            if soft is not None:
                segments.append(soft)
        elif text := prompt if part.slot == "prompt" else part.text:
            segments.append(Text(text, special=part.slot is None))
    return segments


def note_text(note: Note, fields: Sequence[str]) -> str:
    """The first of a note's ``fields`` ("input", "output", "both") that is not empty.

    A note's key is made from what was asked (``["input", "output"]``) and its value from what
    was written (``["output"]``); a note without an input is asked for by its own text. "both" is
    input and output joined by a newline, or the one of them that is not empty.
    """
    return next((text for field in fields if (text := _field_text(note, field))), "")


def _field_text(note: Note, field: str) -> str:
    if field == "both":
        return "\n".join(text for text in (note.input, note.output) if text)
    return str(getattr(note, field))
