"""A person's manner as an n-gram model over shapes, set against that of everybody.

    r(s | c) = ln(P_person(s | c) / P_everybody(s | c))

for the shape s of the next token after the shapes c of the last ones. Both are interpolated
n-gram models (Witten and Bell, IEEE Trans. Inf. Theory 37(4), 1991):

    P_n(s | c) = (1 - g) P_{n-1}(s | c') + g count(c s) / count(c)      g = N / (N + w K)

N being how often c was seen and K in how many ways it went on. Everybody's begins at the uniform
distribution, the person's at everybody's: where a person's notes say nothing, r is 0. Both know
the same grammar, so r says only what is this person's own.

``StyleModel.process`` adds ``weight`` times r to the logits, a product of experts (DExperts: Liu
et al., arXiv 2105.03023); ``StyleModel.score`` is the mean of r over a text's tokens.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ppedge.style.shapes import START, Shapes, likeliest

ORDER: Final = 2
"""Shapes before the next one that count."""

MAX_RATIO: Final = 4.0
"""Bound of r, in nats."""

PERSON_WIDTH: Final = 2.0
"""w of the person's model; everybody's has 1."""

Context = tuple[str, ...]
Tables = list[list[tuple[list[str], dict[str, int]]]]


class ShapeCounts:
    """How often each shape followed the last 0 to ``ORDER`` ones, over some texts."""

    def __init__(self, texts: Iterable[Sequence[str]]) -> None:
        """Count.

        Args:
            texts: the shapes of each text, its end last if it ended.
        """
        self._tables: list[defaultdict[Context, Counter[str]]] = [
            defaultdict(Counter) for _ in range(ORDER + 1)
        ]
        for text in texts:
            shapes = [START] * ORDER + list(text)
            for i in range(ORDER, len(shapes)):
                for n, table in enumerate(self._tables):
                    table[tuple(shapes[i - n : i])][shapes[i]] += 1
        self.shapes = frozenset(self._tables[0].get((), ()))

    @classmethod
    def of_tables(cls, tables: Tables) -> ShapeCounts:
        """The counts that `tables` told of."""
        counts = cls(())
        for table, rows in zip(counts._tables, tables, strict=True):
            for context, seen in rows:
                table[tuple(context)] = Counter({s: int(count) for s, count in seen.items()})
        counts.shapes = frozenset(counts._tables[0].get((), ()))
        return counts

    def tables(self) -> Tables:
        """All counts as JSON holds them: for each order, the last shapes and what followed them."""
        return [
            [(list(context), dict(seen)) for context, seen in table.items()]
            for table in self._tables
        ]

    def blend(self, base: dict[str, float], context: Context, width: float) -> dict[str, float]:
        """P of the module's formula for each shape of ``base``, P_{-1}."""
        mixed = dict(base)
        for n, table in enumerate(self._tables):
            counts = table.get(context[len(context) - n :])
            if counts is None:
                break
            total = counts.total()
            share = total / (total + width * len(counts))
            for shape in mixed:
                mixed[shape] *= 1 - share
            for shape, count in counts.items():
                mixed[shape] += share * count / total
        return mixed


class StyleModel:
    """One person's shapes against everybody's.

    Args:
        shapes: of the model's tokens.
        person: counts over the person's notes.
        everybody: counts over texts of others.
        weight: of r in `process`.
    """

    def __init__(
        self,
        shapes: Shapes,
        person: ShapeCounts,
        everybody: ShapeCounts,
        weight: float,
    ) -> None:
        """Take the counts."""
        self._shapes, self._weight = shapes, weight
        self._person, self._everybody = person, everybody
        known = sorted(everybody.shapes | person.shapes)
        self._uniform = {shape: 1 / len(known) for shape in known}
        self._ratios: dict[Context, dict[str, float]] = {}
        self._weighted: dict[Context, NDArray[np.float32]] = {}

    def process(self, logits: NDArray[np.float32], written: Sequence[int]) -> NDArray[np.float32]:
        """Add ``weight`` times r to the `LIKELY` likeliest tokens and rule out the others.

        Args:
            logits: float32 [n_vocab]; changed and returned.
            written: the answer's tokens so far.
        """
        likely = likeliest(logits)
        kept = logits[likely] + self._gains(written, self._shapes.numbers(likely))
        logits.fill(-np.inf)
        logits[likely] = kept
        return logits

    def _gains(self, written: Sequence[int], numbers: NDArray[np.int32]) -> NDArray[np.float32]:
        """``weight`` times r, float32 [n], of shapes by their numbers after some tokens."""
        context, names = self._context(written), self._shapes.names
        gains = self._weighted.get(context)
        if gains is None or len(gains) < len(names):  # of shapes that are new since
            ratios = self._ratio(context)
            gains = self._weight * np.array([ratios.get(name, 0.0) for name in names], np.float32)
            self._weighted[context] = gains
        return gains[numbers]

    def score(self, tokens: Sequence[int]) -> float:
        """The mean of r over a text's tokens, its end token among them if it ended; 0 of none."""
        if not tokens:
            return 0.0
        total = 0.0
        for i, token in enumerate(tokens):
            context = self._context(tokens[max(0, i - ORDER) : i])
            total += self._ratio(context).get(self._shapes(token), 0.0)
        return total / len(tokens)

    def _context(self, written: Sequence[int]) -> Context:
        """The last `ORDER` shapes of some tokens."""
        last = [self._shapes(token) for token in written[-ORDER:]]
        return tuple([START] * (ORDER - len(last)) + last)

    def _ratio(self, context: Context) -> dict[str, float]:
        """R of every known shape after some others."""
        found = self._ratios.get(context)
        if found is None:
            everybody = self._everybody.blend(self._uniform, context, 1.0)
            person = self._person.blend(everybody, context, PERSON_WIDTH)
            found = {
                shape: min(max(math.log(person[shape] / p), -MAX_RATIO), MAX_RATIO)
                for shape, p in everybody.items()
            }
            self._ratios[context] = found
        return found
