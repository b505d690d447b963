"""A person's turns, chosen, cut and known by a key, so that a model reads them once."""

from __future__ import annotations

import hashlib
import json
from bisect import bisect_left
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from ppedge.errors import ModelError
from ppedge.llm.binding import importing
from ppedge.llm.llm import LLM
from ppedge.llm.segments import Soft
from ppedge.notes.reader import Note
from ppedge.turns.ask import ANSWER_TOKENS, ASK_TOKENS, ask_for, common_words
from ppedge.turns.choose import choose_notes, keep_last
from ppedge.turns.form import ChatForm, Turn

CONTEXT_SHARE: Final = 3
"""Turns take at most one of so many parts of the context."""

_FORMAT: Final = 4
_MAX_HEAD_BYTES: Final = 1 << 20  # 32 turns take a fiftieth of it


def make_turns(
    llm: LLM,
    form: ChatForm,
    notes: Sequence[Note],
    count: int,
    pinned: Collection[int] = frozenset(),
) -> list[Turn]:
    """Make turns of some notes, as many of ``count`` as there is room for.

    Args:
        llm: whose tokens are counted.
        form: how they will be written.
        notes: of one person, in order.
        count: how many at most, but for the pinned ones.
        pinned: indices of notes that are among the turns before any other.

    Raises:
        ModelError: the model is closed.
    """
    common = common_words(notes)
    turns = {
        i: Turn(
            cut(llm, ask_for(notes[i], common), ASK_TOKENS),
            cut(llm, notes[i].output.strip(), ANSWER_TOKENS),
        )
        for i in choose_notes(notes, count, pinned)
    }
    room, chosen = llm.n_ctx // CONTEXT_SHARE, list(turns)

    def kept(n_gone: int) -> list[Turn]:
        return [turns[i] for i in keep_last(chosen, pinned, len(chosen) - n_gone)]

    def fits(n_gone: int) -> bool:
        return n_gone == len(chosen) or len(llm.tokens(form.turns(kept(n_gone)))) <= room

    return kept(bisect_left(range(len(chosen)), True, key=fits))


def cut(llm: LLM, text: str, n_tokens: int) -> str:
    """The words of a text that fit into some tokens."""
    text = text.encode("utf-8", "replace").decode("utf-8")
    ids = llm.tokenize(text)
    if len(ids) <= n_tokens:
        return text
    short = b"".join(map(llm.piece, ids[:n_tokens])).decode("utf-8", "ignore")
    return short.rsplit(maxsplit=1)[0].rstrip() if len(short.split()) > 1 else short


def prefix_key(
    llm: LLM, form: ChatForm, version: int, count: int, scope_key: str = "", plug: str = ""
) -> str:
    """What a state of a store's turns hangs on, beside the store: SHA-256, 64 hex digits.

    Args:
        llm: its file and its context's size.
        form: how turns are written.
        version: of the store's notes.
        count: of turns.
        scope_key: which of the store's notes may be among them.
        plug: hash of the plug whose kept soft tokens stand behind them; "" for none.
    """
    shown = [str(segment) for segment in form.turns([Turn("ask", "answer")])]
    parts = [
        _FORMAT,
        llm.identity,
        llm.n_ctx,
        importing.version(),
        version,
        count,
        ANSWER_TOKENS,
        ASK_TOKENS,
        shown,
        scope_key,
        plug,
    ]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Packed:
    """What of a prefix is kept on disk.

    Attributes:
        turns: in their order.
        soft: kept soft tokens behind them; None for none.
        state: what the model made of both.
    """

    turns: list[Turn]
    soft: Soft | None
    state: bytes | memoryview

    def pack(self) -> bytes:
        """The bytes that are kept."""
        turns = [[turn.ask, turn.answer] for turn in self.turns]
        rows = self.soft.vectors if self.soft else np.zeros((0, 0))
        head = json.dumps({"turns": turns, "soft": rows.shape}).encode()
        return b"".join([head, b"\n", rows.astype("<f4").tobytes(), self.state])

    def says(self, turns: Sequence[Turn], soft: Soft | None) -> bool:
        """Whether it is of these turns, and of these soft tokens behind them."""
        mine, theirs = (s.vectors.tobytes() if s else b"" for s in (self.soft, soft))
        return list(turns) == self.turns and mine == theirs

    @classmethod
    def unpack(cls, data: bytes | memoryview) -> Packed:
        """What was packed, the state not copied; checksums have been compared by now.

        Raises:
            ModelError: it is something else.
        """
        line, _, _ = bytes(data[:_MAX_HEAD_BYTES]).partition(b"\n")
        rest = memoryview(data)[len(line) + 1 :]
        try:
            head = json.loads(line)
            turns = [Turn(ask, answer) for ask, answer in head["turns"]]
            rows, width = head["soft"]
            if min(rows, width) < 0:  # Any number, to numpy.
                raise ValueError
            soft = np.frombuffer(rest, "<f4", rows * width).reshape(rows, width)
        except (ValueError, TypeError, KeyError):
            raise ModelError("not a kept prefix") from None
        kept = Soft(soft.astype(np.float32)) if rows else None
        return cls(turns, kept, rest[4 * soft.size :])
