"""Texts that are being written while another prompt has the context.

Answers that several threads read take turns at one context, token by token. What was made of each
is copied out before another takes its place, and copied back when its next token is asked for: a
copy takes milliseconds where reading it again would take seconds.
"""

from __future__ import annotations

from collections import OrderedDict
from contextlib import suppress
from typing import Final

from ppedge.errors import ModelError
from ppedge.llm.binding.context import Context
from ppedge.llm.prompt import Prompt, Row

_KEPT: Final = 8
"""Texts that are kept; of one more, the oldest is read again when it goes on."""


class Parked:
    """The texts of one context that wait for their turn; every method needs the model's lock.

    `end` is the exception: it may be called at any time, from any thread.
    """

    def __init__(self, context: Context) -> None:
        """Begin with none."""
        self._context = context
        self._writing: Prompt | None = None
        # By the prompt's address, which stays its own as long as it is in here.
        self._kept: OrderedDict[int, tuple[Prompt, bytearray]] = OrderedDict()

    def make_way(self, prompt: Prompt | None, held: list[Row]) -> None:
        """Copy out what is being written, unless it is ``prompt`` itself.

        Args:
            prompt: what the context is to hold next; None for something else.
            held: what it holds now.
        """
        writing = self._writing
        if writing is None or writing is prompt:
            return
        self._writing = None
        if writing.encoder or not _is_begun(writing, held):
            return
        with suppress(ModelError):  # It is read again instead.
            self._kept[id(writing)] = writing, self._context.state()
        while len(self._kept) > _KEPT:
            self._kept.popitem(last=False)

    def take_up(self, prompt: Prompt) -> int | None:
        """Say what is written from now on, and hold what was copied out of it, if anything was.

        Returns:
            How many of its positions the context holds now; None where nothing was done.
        """
        if self._writing is prompt:
            return None
        self._writing = prompt
        kept = self._kept.pop(id(prompt), None)
        return None if kept is None else self._context.restore(kept[1])

    def end(self, prompt: Prompt) -> None:
        """Keep nothing more of a text: it is written, or nobody reads on."""
        if self._writing is prompt:
            self._writing = None
        self._kept.pop(id(prompt), None)


def _is_begun(prompt: Prompt, held: list[Row]) -> bool:
    """Whether the context holds the whole of what was read for a text, and nothing but the text."""
    return prompt.read_together <= len(held) and held == prompt.decoder[: len(held)]
