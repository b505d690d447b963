"""A person's own wording, mixed into the probabilities of the next token.

Soft tokens carry manner and matter, but blur what is literal: a prefix, a hashtag, a sign-off. The
n-gram cache counts, over the notes, which token followed the last n tokens of the answer, and
blends the orders n = 0 .. N into the model's distribution, the longest last:

    p_n(t) = (1 - g_n) p_{n-1}(t) + g_n c_n(t) / C_n        p_{-1}: the language model's own
    g_n    = sigmoid(bias_n + total_n ln C_n + kinds_n ln U_n + entropy_n ln(H + 0.01))
    g_n    = 0 where C_n = 0

c_n(t) sums the weights of the places where t followed those n tokens, C_n is their sum over t and
U_n how many different t there were. A note's weight is that of its attention, scaled to a mean of
1, so C_n is a count of places that the prompt makes more or less of. H is the entropy, in nats, of
the model's distribution: where the model knows what comes, as in copying from a prompt, notes have
little to add. A cache language model (Kuhn
and De Mori, IEEE PAMI 12(6), 1990) with the orders blended as in PPM (Cleary and Witten, IEEE
Trans. Comm. 32(4), 1984), whose gates are fitted on people of the training set
(``export/ngrams.py``). It knows nothing but the notes it is given, so what is forgotten is gone.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice, takewhile
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from ppedge.llm.llm import LLM
    from ppedge.notes.reader import Note

MAX_TOKENS: Final = 256
"""A note's tokens beyond this many are not remembered."""

MAX_SCORE: Final = 30.0
"""Bound of what a gate's sigmoid is taken of: never wholly open, so that nothing is impossible."""

MIN_ENTROPY: Final = 0.01
"""Nats that are added to an entropy before its logarithm is taken."""

# More than so many tokens are made of, runs of spaces aside; a longer text is not tokenized whole.
_MAX_CHARS: Final = 32 * MAX_TOKENS
_KEPT_TEXTS: Final = 4096
# Stands before the first token of a text; no token has a negative id.
_START: Final = -1


@dataclass(frozen=True, slots=True)
class Gate:
    """How much one order is trusted: the terms of g_n above.

    Attributes:
        bias: of the order itself.
        total: times ln C_n.
        kinds: times ln U_n.
        entropy: times ln(H + 0.01).
    """

    bias: float
    total: float
    kinds: float
    entropy: float

    def trust(self, total: float, kinds: int, entropy: float) -> float:
        """Return g_n, between 0 and 1.

        Args:
            total: C_n, above 0.
            kinds: U_n, above 0.
            entropy: H, in nats.
        """
        score = self.bias + self.total * math.log(total) + self.kinds * math.log(kinds)
        score += self.entropy * math.log(entropy + MIN_ENTROPY)
        return 1 / (1 + math.exp(-min(max(score, -MAX_SCORE), MAX_SCORE)))


@dataclass(frozen=True, slots=True)
class NgramCacheConfig:
    """How a plug remembers wording.

    Attributes:
        max_notes: how many notes are remembered, those that weigh most for the prompt.
        gates: of the orders 0, 1, ..., at least one.
    """

    max_notes: int
    gates: tuple[Gate, ...]


class NgramCache:
    """The wording of some notes, as token ids; `process` is called once a token.

    Nothing but the first order is counted beforehand: the places that match the written tokens are
    found by comparing arrays.

    Attributes:
        types: int64 [n_types], the distinct tokens of the notes, ascending.
    """

    def __init__(
        self, texts: Sequence[Sequence[int]], weights: Sequence[float], gates: Sequence[Gate]
    ) -> None:
        """Lay the texts end to end.

        Args:
            texts: token ids of each note, its end token last.
            weights: how much each note counts, above 0; they are scaled to a mean of 1.
            gates: of the orders 0, 1, ..., at least one.
        """
        self._gates = tuple(gates)
        start = [_START] * (len(self._gates) - 1)
        rows = [np.array([*start, *text], np.int64) for text in texts]
        self._ids = np.concatenate([np.empty(0, np.int64), *rows])
        of_notes = np.array(weights, np.float64)
        if len(of_notes):
            of_notes /= of_notes.mean()
        self._weights = np.repeat(of_notes, [len(row) for row in rows])
        self._places = np.flatnonzero(self._ids != _START)
        # Places count for their token by its index in `types`: no order needs to sort again.
        self._index = np.zeros(len(self._ids), np.int64)
        self.types, self._index[self._places] = np.unique(
            self._ids[self._places], return_inverse=True
        )
        self._first = self._count(self._places)

    def process(self, logits: NDArray[np.float32], written: Sequence[int]) -> NDArray[np.float32]:
        """Blend the memory into a distribution.

        Args:
            logits: the model's, float32 [n_vocab].
            written: the answer's tokens so far.

        Returns:
            Log-probabilities float32 [n_vocab].
        """
        total, entropy = log_sum_exp_and_entropy(logits)
        share, added = self.blend(written, entropy)
        mixed = logits - np.float32(total - math.log(share))
        if len(added):
            model = np.exp(logits[self.types].astype(np.float64) - total)
            mixed[self.types] = np.log(share * model + added)
        return mixed

    def blend(self, written: Sequence[int], entropy: float) -> tuple[float, NDArray[np.float64]]:
        """Return what `process` does, as a share and a sparse distribution.

        Args:
            written: the answer's tokens so far.
            entropy: of the model's distribution, in nats.

        Returns:
            (share, added [n_types]): p(t) = share * model(t), plus ``added`` at ``types``;
            share + sum(added) = 1.
        """
        share, added = 1.0, np.zeros(len(self.types))
        for gate, counts in zip(self._gates, self.counts(written), strict=False):
            total = float(counts.sum())
            trust = gate.trust(total, int(np.count_nonzero(counts)), entropy)
            share *= 1 - trust
            added *= 1 - trust
            added += counts * (trust / total)
        return share, added

    def counts(self, written: Sequence[int]) -> Iterator[NDArray[np.float64]]:
        """Yield c_n for n = 0, 1, ..., as long as a place matches the last n tokens written.

        Yields:
            float64 [n_types], at least one of them above 0.
        """
        places = self._places
        if not len(places):
            return
        yield self._first
        n_longest = len(self._gates) - 1
        before = ([_START] * n_longest + list(written[-n_longest:]))[-n_longest:]
        for order in range(1, len(self._gates)):
            places = places[self._ids[places - order] == before[-order]]
            if not len(places):
                return
            yield self._count(places)

    def _count(self, places: NDArray[np.int64]) -> NDArray[np.float64]:
        counts: NDArray[np.float64] = np.bincount(
            self._index[places], self._weights[places], len(self.types)
        ).astype(np.float64, copy=False)
        return counts


def log_sum_exp_and_entropy(logits: NDArray[np.float32]) -> tuple[float, float]:
    """Return ln(sum(exp(logits))) and the entropy of softmax(logits), in nats, 0 or more."""
    top = logits.max()
    # What is ruled out by -inf has no share in the entropy, not NaN.
    shifted = np.maximum(logits - top, np.float32(-1e4))
    exps = np.exp(shifted)
    total = float(exps.sum(dtype=np.float64))
    mean = float((exps * shifted).sum(dtype=np.float64)) / total
    return float(top) + math.log(total), max(0.0, math.log(total) - mean)


class NgramCacheBuilder:
    """Makes the n-gram cache of notes; the token ids of the last few thousand texts are kept.

    Args:
        llm: whose tokens.
        spec: the plug's.
    """

    def __init__(self, llm: LLM, spec: NgramCacheConfig) -> None:
        """Begin with no texts."""
        self.spec = spec
        end = [] if llm.end_token is None else [llm.end_token]

        @lru_cache(_KEPT_TEXTS)
        def ids(text: str) -> NDArray[np.int32]:
            # A text that was cut does not end there.
            whole = llm.tokenize(text) + (end if len(text) < _MAX_CHARS else [])
            return np.array(whole[:MAX_TOKENS], np.int32)

        self._ids = ids

    def build(self, notes: Iterable[tuple[Note, float]]) -> NgramCache | None:
        """Remember what notes say; None where no note has a weight.

        Args:
            notes: each with its attention weight, heaviest first. Only the first
                ``spec.max_notes`` are looked at, and of these only weights above 0.

        Raises:
            ModelError: a text is not valid Unicode, or the model is closed.
        """
        first = islice(notes, self.spec.max_notes)
        weighty = list(takewhile(lambda pair: pair[1] > 0, first))
        if not weighty:
            return None
        texts = [self._ids(note.output[:_MAX_CHARS]).tolist() for note, _ in weighty]
        return NgramCache(texts, [weight for _, weight in weighty], self.spec.gates)
