"""How turns and a prompt are written for a model: in its plug's form, or in that of its own chat.

A conversation is a fixed part, the turns, and what hangs on the prompt. What a template wrote is
read with control tokens; a note or a prompt is not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from ppedge.errors import ModelError
from ppedge.llm.chat_template import ChatTemplate
from ppedge.llm.segments import Segment, Soft, Text
from ppedge.plug.template import Part, render


@dataclass(frozen=True, slots=True)
class Turn:
    """An earlier prompt and what the person wrote."""

    ask: str
    answer: str


class ChatForm(Protocol):
    """A way to write conversations."""

    def opening(self) -> list[Segment]:
        """What every conversation begins with; may be empty."""

    def turns(
        self, turns: Sequence[Turn], soft: Soft | None = None, said: Sequence[Turn] = ()
    ) -> list[Segment]:
        """What stands before a prompt, to the place where that begins; empty without any turns.

        Args:
            turns: of the person's notes, the fixed part.
            soft: kept soft tokens, which stand behind these; None for none.
            said: what was asked and answered before.
        """

    def prompt(self, prompt: str, soft: Soft | None, *, after_turns: bool) -> list[Segment]:
        """The part that hangs on the prompt, to the place where the answer begins."""


class PlugForm:
    """The plug's prompt template, each turn closed as the model's own template closes one.

    Args:
        template: of the plug.
        chat: of the model.
    """

    def __init__(self, template: Sequence[Part], chat: ChatTemplate) -> None:
        """Find out what stands before a prompt and behind an answer."""
        self._template = template
        begins = bool(template) and template[0].slot is None
        self._opening, self._rest = (template[:1], template[1:]) if begins else ((), template)
        self._close = _closing(template, chat)

    def opening(self) -> list[Segment]:
        """See `ChatForm`."""
        return render(self._opening, "", None)

    def turns(
        self, turns: Sequence[Turn], soft: Soft | None = None, said: Sequence[Turn] = ()
    ) -> list[Segment]:
        """See `ChatForm`."""
        segments = [*self._written(turns), *([soft] if soft else []), *self._written(said)]
        # What stands before every prompt need not be read with each of them.
        return [*segments, *self.opening()] if turns or said else []

    def prompt(self, prompt: str, soft: Soft | None, *, after_turns: bool) -> list[Segment]:
        """See `ChatForm`."""
        return render(self._rest if after_turns else self._template, prompt, soft)

    def _written(self, turns: Sequence[Turn]) -> list[Segment]:
        segments: list[Segment] = []
        for turn in turns:
            segments += render(self._template, turn.ask, None)
            segments += _texts(turn.answer, self._close)
        return segments


class TemplateForm:
    """The model's own chat template; a plain form for a model without one."""

    def __init__(self, chat: ChatTemplate) -> None:
        """Try the template.

        Raises:
            ModelError: it cannot be used.
        """
        self._chat = chat
        self._alone = chat.pieces(0)
        chat.pieces(1)  # Some take a prompt and refuse what comes after it.

    def opening(self) -> list[Segment]:
        """See `ChatForm`."""
        return _texts("", self._alone[0])

    def turns(
        self, turns: Sequence[Turn], soft: Soft | None = None, said: Sequence[Turn] = ()
    ) -> list[Segment]:
        """See `ChatForm`; without a plug there are no soft tokens."""
        turns = [*turns, *said]
        if not turns:
            return []
        pieces = self._chat.pieces(len(turns))
        segments = _texts("", pieces[0])
        for i, turn in enumerate(turns):
            segments += _texts(turn.ask, pieces[2 * i + 1])
            segments += _texts(turn.answer, pieces[2 * i + 2])
        return segments

    def prompt(self, prompt: str, soft: Soft | None, *, after_turns: bool) -> list[Segment]:
        """See `ChatForm`; without a plug there are no soft tokens."""
        before = [] if after_turns else self.opening()
        return [*before, *_texts(prompt, self._alone[1])]


def _texts(message: str, piece: str) -> list[Segment]:
    """A message and the template's text behind it; empty text is dropped."""
    parts = (Text(message), Text(piece, special=True))
    return [part for part in parts if part.text]


def _closing(template: Sequence[Part], chat: ChatTemplate) -> str:
    """What ends an answer before the next prompt of a plug's template begins."""
    begins = template[0].text if template and template[0].slot is None else ""
    try:
        between = chat.pieces(1)[2] if chat.source else ""
    except ModelError:
        between = ""
    if between and between.endswith(begins):
        return between.removesuffix(begins)
    return f"{chat.eos}\n"
