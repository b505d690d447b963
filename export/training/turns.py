"""A person's notes as earlier turns of the chat: the prefix that stands before every prompt.

    prefixes = Prefixes(llm)
    head = prefixes.run_heads([before, before], [notes, ()])

A turn is a request that the note could answer, and the note. What a prefix leaves in the frozen
model, its keys and values, is the same for every prompt that comes behind it: it is computed once,
without gradients, and kept.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch
import torch.nn.functional as F

from export.data.template import CHATML
from export.models.base_llm import FrozenLLM, Head
from ppedge.notes.reader import Note
from ppedge.turns.ask import ask_for
from ppedge.turns.prefix import ANSWER_TOKENS, ASK_TOKENS

TURNS = 8  # that the run time puts before a prompt, at most
OPENING, MIDDLE = str(CHATML[0].text), str(CHATML[2].text)
CLOSING = "<|im_end|>\n"


def prefix_tokens(llm: FrozenLLM, notes: Sequence[Note]) -> list[int]:
    """Token ids of notes as turns, in their order; none for no notes."""
    ids: list[int] = []
    for note in notes:
        ids += llm.tokens(OPENING, special=True)
        ids += llm.tokens(ask_for(note), special=False)[:ASK_TOKENS]
        ids += llm.tokens(MIDDLE, special=True)
        ids += llm.tokens(note.output, special=False)[:ANSWER_TOKENS]
        ids += llm.tokens(CLOSING, special=True)
    return [*llm.words.start, *ids] if ids else []


class Prefixes:
    """Prefixes that were run, as many as are kept; those used last stay longest."""

    def __init__(self, llm: FrozenLLM, keep: int = 64) -> None:
        self.llm, self.keep = llm, keep
        self._run: OrderedDict[tuple[Note, ...], Head] = OrderedDict()

    def of(self, notes: Sequence[Note]) -> Head:
        """The prefix of one person, of one row; without notes it is empty."""
        key = tuple(notes)
        if key not in self._run:
            self._run[key] = self.llm.run_prefix(prefix_tokens(self.llm, key))
        self._run.move_to_end(key)
        while len(self._run) > self.keep:
            self._run.popitem(last=False)
        return self._run[key]

    def run_heads(self, heads: Sequence[Sequence[int]], turns: Sequence[Sequence[Note]]) -> Head:
        """``FrozenLLM.run_heads``, each prompt behind the turns of its own person."""
        prefixes = [self.of(notes) for notes in turns]
        if not any(prefix.mask.shape[1] for prefix in prefixes):
            return self.llm.run_heads(heads)
        start = self.llm.words.start
        bare = [
            head[len(start) :] if prefix.mask.shape[1] and start else head
            for head, prefix in zip(heads, prefixes, strict=True)
        ]
        return self.llm.run_heads(bare, stacked(prefixes))


def stacked(prefixes: Sequence[Head]) -> Head:
    """Prefixes of one row each as the rows of one, padded on the left."""
    width = max(prefix.mask.shape[1] for prefix in prefixes)
    full = next(prefix for prefix in prefixes if prefix.states)
    states = []
    for layer, (like, _) in enumerate(full.states):
        pair = []
        for part in (0, 1):
            shape = (len(prefixes), like.shape[1], width, full.states[layer][part].shape[3])
            whole = like.new_zeros(shape)
            for row, prefix in enumerate(prefixes):
                if prefix.states:
                    whole[row, :, width - prefix.mask.shape[1] :] = prefix.states[layer][part][0]
            pair.append(whole)
        states.append((pair[0], pair[1]))
    masks = [F.pad(prefix.mask, (width - prefix.mask.shape[1], 0)) for prefix in prefixes]
    return Head(states, torch.cat(masks), full.last[:, :0].expand(len(prefixes), 0))
