"""A person's turns, chosen, cut and known by a key, so that a model reads them once."""

from __future__ import annotations

import hashlib
import json
from bisect import bisect_left
from collections.abc import Collection, Sequence
from typing import Final

from ppedge.errors import ModelError
from ppedge.llm.llm import LLM
from ppedge.notes.reader import Note
from ppedge.turns.ask import ANSWER_TOKENS, ASK_TOKENS, ask_for, common_words
from ppedge.turns.choose import choose_notes, keep_last
from ppedge.turns.form import ChatForm, Turn

CONTEXT_SHARE: Final = 3
"""Turns take at most one of so many parts of the context."""

_FORMAT: Final = 3


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


def prefix_key(llm: LLM, form: ChatForm, version: int, count: int, scope_key: str = "") -> str:
    """What a state of a store's turns hangs on, beside the store: SHA-256, 64 hex digits.

    Args:
        llm: its file and its context's size.
        form: how turns are written.
        version: of the store's notes.
        count: of turns.
        scope_key: which of the store's notes may be among them.
    """
    import llama_cpp

    shown = [str(segment) for segment in form.turns([Turn("ask", "answer")])]
    parts = [
        _FORMAT,
        llm.identity,
        llm.n_ctx,
        llama_cpp.__version__,
        version,
        count,
        ANSWER_TOKENS,
        ASK_TOKENS,
        shown,
        scope_key,
    ]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def pack(turns: Sequence[Turn], state: bytes) -> bytes:
    """Turns, and what the model made of them, as the bytes that are kept."""
    return json.dumps([[turn.ask, turn.answer] for turn in turns]).encode() + b"\n" + state


def unpack(data: bytes) -> tuple[list[Turn], bytes]:
    """What `pack` packed; checksums have been compared by now.

    Raises:
        ModelError: it is something else.
    """
    head, _, state = data.partition(b"\n")
    try:
        return [Turn(ask, answer) for ask, answer in json.loads(head)], state
    except (ValueError, TypeError):
        raise ModelError("not a kept prefix") from None
