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
from torch.nn.utils.rnn import pad_sequence

from export.data.template import CHATML
from export.models.base_llm import FrozenLLM, Head
from ppedge.notes.reader import Note
from ppedge.turns.ask import ANSWER_TOKENS, ASK_TOKENS, ask_for

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

    def of(self, people: Sequence[Sequence[Note]]) -> list[Head]:
        """The prefix of each person, of one row; without notes it is empty."""
        keys = [tuple(notes) for notes in people]
        missing = list(dict.fromkeys(key for key in keys if key not in self._run))
        rows = [prefix_tokens(self.llm, key) for key in missing]
        self._run.update(zip(missing, self.llm.run_prefixes(rows), strict=True))
        for key in keys:
            self._run.move_to_end(key)
        found = [self._run[key] for key in keys]
        while len(self._run) > self.keep:
            self._run.popitem(last=False)
        return found

    def run_heads(self, heads: Sequence[Sequence[int]], turns: Sequence[Sequence[Note]]) -> Head:
        """``FrozenLLM.run_heads``, each prompt behind the turns of its own person."""
        keys = [tuple(notes) for notes in turns]
        people = list(dict.fromkeys(keys))
        prefixes = self.of(people)
        if not any(prefix.mask.shape[1] for prefix in prefixes):
            return self.llm.run_heads(heads)
        rows = [people.index(key) for key in keys]
        start = self.llm.words.start
        bare = [
            head[len(start) :] if prefixes[row].mask.shape[1] and start else head
            for head, row in zip(heads, rows, strict=True)
        ]
        return self.llm.run_heads(bare, stacked(prefixes, rows))


def stacked(prefixes: Sequence[Head], rows: Sequence[int]) -> Head:
    """Prefixes of one row each as the rows of one, padded on the left.

    Args:
        prefixes: one of them at least is not empty.
        rows: which of them each row is.
    """
    full = next(prefix for prefix in prefixes if prefix.states)
    index = torch.tensor(rows, device=full.mask.device)

    def stack(layer: int, part: int) -> torch.Tensor:
        like = full.states[layer][part]
        empty = like.new_zeros(0, like.shape[1], like.shape[3])
        found = [p.states[layer][part][0].transpose(0, 1) if p.states else empty for p in prefixes]
        return pad_sequence(found, True, padding_side="left").transpose(1, 2)[index]

    states = [(stack(layer, 0), stack(layer, 1)) for layer in range(len(full.states))]
    mask = pad_sequence([prefix.mask[0] for prefix in prefixes], True, padding_side="left")
    return Head(states, mask[index], full.last[:, :0].expand(len(rows), 0))
