"""The report's plots: SVG written by hand, as pieces of an HTML page.

By hand, not by matplotlib, since these take their colours from the page's style sheet (and so turn
dark with it), name every point for a mouse or a screen reader, are a tenth of the size, and hold
neither ids nor style rules that would leak into the page around them.
"""

from __future__ import annotations

import html
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from export.evaluation.bootstrap import Estimate
from export.evaluation.metrics import Metric
from export.evaluation.records import Record
from export.evaluation.summary import Cell, Series, Table, common, heading, interval

COLOURS = 8  # classes c0 to c7 of the style sheet
# One a series, 7 and 8 having no common factor: 56 series before a pair comes again.
MARKERS = (
    "M-4 0a4 4 0 1 0 8 0a4 4 0 1 0 -8 0Z",  # disc
    "M-3.5 -3.5h7v7h-7Z",  # square
    "M0 -5L5 0L0 5L-5 0Z",  # diamond
    "M0 -4.5L4.5 3.5H-4.5Z",  # triangle
    "M0 4.5L4.5 -3.5H-4.5Z",  # triangle, tip down
    "M-5 -1.5h3.5v-3.5h3v3.5h3.5v3h-3.5v3.5h-3v-3.5h-3.5Z",  # plus
    "M-4.5 -4.5L0 -2L4.5 -4.5L2 0L4.5 4.5L0 2L-4.5 4.5L-2 0Z",  # star
)
MOST_BINS = 5
BIN_QUESTIONS = 8  # at least so many in a bin, on average
# Controls that neither HTML nor a reader can take, and halves of surrogate pairs.
_UNSHOWABLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef]"
    "|[" + "".join(chr(plane << 16 | last) for plane in range(17) for last in (65534, 65535)) + "]"
)


def plain(text: str) -> str:
    """Any text as HTML that shows it and does nothing else."""
    return html.escape(_UNSHOWABLE.sub("\ufffd", text.replace("\r\n", "\n")))


def look(index: int) -> str:
    """The colour class of the series at ``index``."""
    return f"c{index % COLOURS}"


def marker(index: int, x: float, y: float, title: str) -> str:
    """The mark of the series at ``index``, named ``title`` (plain text)."""
    shape = MARKERS[index % len(MARKERS)]
    return (
        f'<path class="dot" transform="translate({x:.1f} {y:.1f})" d="{shape}">'
        f"<title>{plain(title)}</title></path>"
    )


def legend(names: Sequence[str], dashed: Sequence[str]) -> str:
    """A list of the series' names behind their marks."""
    items = []
    for index, name in enumerate(names):
        stroke = "dash" if name in dashed else "line"
        items.append(
            f'<li class="{look(index)}"><svg viewBox="-14 -7 28 14" aria-hidden="true">'
            f'<path class="{stroke}" d="M-14 0H14"/>'
            f'<path class="dot" d="{MARKERS[index % len(MARKERS)]}"/></svg>'
            f"{plain(name)}</li>"
        )
    return f'<ul class="legend">{"".join(items)}</ul>'


@dataclass(frozen=True)
class Axis:
    """A linear scale from ``low``..``high`` to the drawing's ``start``..``end``."""

    low: float
    high: float
    start: float
    end: float

    def at(self, value: float) -> float:
        """Where ``value`` is drawn."""
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)

    def ticks(self) -> list[float]:
        """Round values inside, four to ten."""
        base = 10 ** math.floor(math.log10(self.high - self.low))
        for factor in (5, 2, 1, 0.5, 0.2, 0.1):
            step = base * factor
            first = math.ceil(self.low / step - 1e-9)
            last = math.floor(self.high / step + 1e-9)
            if last - first >= 3:
                break
        return [round(i * step, 10) for i in range(first, last + 1)]


def axis_over(values: Sequence[float], start: float, end: float) -> Axis:
    """An axis that holds ``values`` with a little room on both sides."""
    low, high = min(values), max(values)
    room = (high - low) * 0.06 or max(abs(high), 1.0) * 0.1
    return Axis(low - room, high + room, start, end)


@dataclass(frozen=True)
class Bin:
    """Questions whose users have from ``low`` to ``high`` notes."""

    low: int
    high: int
    questions: int

    @property
    def label(self) -> str:
        """The range in words short enough for an axis."""
        return f"{self.low:,}" if self.low == self.high else f"{self.low:,}–{self.high:,}"

    def holds(self, record: Record) -> bool:
        """Whether the record's question is one of these."""
        return self.low <= record.history <= self.high


def bins_of(records: Sequence[Record]) -> list[Bin]:
    """Cut the questions by history length into parts of about equal count, at most five."""
    lengths = np.array(list({record.id: record.history for record in records}.values()))
    parts = int(np.clip(len(lengths) // BIN_QUESTIONS, 1, MOST_BINS))
    cuts = np.unique(np.quantile(lengths, np.arange(1, parts) / parts, method="higher"))
    place = np.searchsorted(cuts, lengths, side="right")
    groups = [lengths[place == p] for p in np.unique(place)]
    return [Bin(int(g.min()), int(g.max()), len(g)) for g in groups]


def by_history(
    series: Series, metric: str, bins: Sequence[Bin], seed: int
) -> list[Estimate | None]:
    """The metric in each bin; None where the method answered nothing there.

    A bin with one user has no interval: ``low`` and ``high`` are then the value itself.
    """
    found: list[Estimate | None] = []
    for part in bins:
        ids = [record.id for record in series.records if part.holds(record)]
        found.append(series.on(ids).figure(metric, seed) if ids else None)
    return found


def history_table(
    names: Sequence[str], bins: Sequence[Bin], figures: Sequence[Sequence[Estimate | None]]
) -> Table:
    """The plot's figures as a table, a row a method."""
    return Table(
        ["method", *(f"{part.label} notes ({part.questions} questions)" for part in bins)],
        [
            [Cell(name), *(interval(figure) for figure in row)]
            for name, row in zip(names, figures, strict=True)
        ],
    )


WIDTH, HEIGHT = 480, 300
LEFT, RIGHT, TOP, BOTTOM = 52, 8, 26, 44


def history_plot(
    names: Sequence[str],
    dashed: Sequence[str],
    bins: Sequence[Bin],
    figures: Sequence[Sequence[Estimate | None]],
    metric: Metric,
) -> str:
    """The metric over the bins of history length, one line a method, whiskers for intervals.

    Args:
        names: the methods, [M]; their places choose colours and marks.
        dashed: those that answered a sample only.
        bins: [N], from left to right, evenly spaced.
        figures: [M][N].
        metric: what is drawn.
    """
    ends = [end for row in figures for f in row if f for end in (f.low, f.high, f.value)]
    axis = axis_over(ends, HEIGHT - BOTTOM, TOP)
    width = (WIDTH - LEFT - RIGHT) / len(bins)
    parts = [_frame(axis, heading(metric.name, metric.higher_is_better))]
    for number, part in enumerate(bins):
        middle = LEFT + (number + 0.5) * width
        parts.append(f'<text x="{middle:.1f}" y="{HEIGHT - 26}" class="mid">{part.label}</text>')
    parts.append(
        f'<text x="{(LEFT + WIDTH - RIGHT) / 2:.1f}" y="{HEIGHT - 8}" class="mid">'
        "notes in the user's history</text>"
    )
    for index, (name, row) in enumerate(zip(names, figures, strict=True)):
        # Side by side within a bin, so that whiskers do not hide each other.
        shift = ((index + 0.5) / len(names) - 0.5) * min(width * 0.8, 16 * len(names))
        points = [
            (LEFT + (number + 0.5) * width + shift, figure, bins[number])
            for number, figure in enumerate(row)
            if figure
        ]
        parts.append(_line(index, name, points, axis, name in dashed))
    label = (
        f"Plot: {metric.name} against history length for {', '.join(names)}. "
        "The table below holds the same figures."
    )
    return (
        f'<svg class="plot" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{plain(label)}">'
        f"{''.join(parts)}</svg>"
    )


def _frame(axis: Axis, title: str) -> str:
    parts = [f'<text x="4" y="14">{plain(title)}</text>']
    for tick in axis.ticks():
        y = axis.at(tick)
        parts.append(f'<path class="grid" d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" class="end">{tick:g}</text>')
    return "".join(parts)


def _line(
    index: int,
    name: str,
    points: Sequence[tuple[float, Estimate, Bin]],
    axis: Axis,
    dashed: bool,
) -> str:
    ends = [(x, axis.at(figure.value)) for x, figure, _ in points]
    route = "L".join(f"{x:.1f} {y:.1f}" for x, y in ends)
    parts = [f'<path class="{"dash" if dashed else "line"}" d="M{route}"/>']
    for (x, y), (_, figure, part) in zip(ends, points, strict=True):
        low, high = axis.at(figure.low), axis.at(figure.high)
        parts.append(f'<path class="whisker" d="M{x:.1f} {low:.1f}V{high:.1f}"/>')
        told = f"{name}, {part.label} notes: {interval(figure).text}"
        parts.append(marker(index, x, y, told))
    return f'<g class="series {look(index)}">{"".join(parts)}</g>'


@dataclass(frozen=True)
class Duel:
    """Two methods user by user, on the questions that both answered.

    Attributes:
        points: (rival's value, focus's value, how many users stand there), sorted.
        better: users for whom the focus is better, then ``worse`` and ``same``.
    """

    points: tuple[tuple[float, float, int], ...]
    better: int
    worse: int
    same: int


def duel(focus: Series, rival: Series, metric: str) -> Duel:
    """Every user's value by both methods."""
    focus, rival = common(focus, rival)
    measure = focus.metrics[metric]
    people, owner = np.unique(np.array(focus.users, dtype=object), return_inverse=True)
    pair = []
    for side in (rival, focus):
        table = side.statistics[metric]
        sums = np.zeros((len(people), table.shape[1]))
        np.add.at(sums, owner, table)
        pair.append(np.round(measure.value(sums), 9))
    points, counts = np.unique(np.stack(pair, 1), axis=0, return_counts=True)
    gain = (pair[1] - pair[0]) * (1 if measure.higher_is_better else -1)
    return Duel(
        tuple((float(x), float(y), int(n)) for (x, y), n in zip(points, counts, strict=True)),
        int((gain > 0).sum()),
        int((gain < 0).sum()),
        int((gain == 0).sum()),
    )


SIDE, EDGE, FOOT = 240, 44, 40


def scatter(found: Duel, focus: str, rival: str, metric: Metric, ends: Sequence[float]) -> str:
    """One point a user: the rival's value to the right, the focus's upwards, and the diagonal.

    Args:
        found: what is drawn; where users coincide, one larger point stands for them.
        focus: the method upwards.
        rival: the method to the right.
        metric: what the axes measure.
        ends: values that both axes must hold, so that panels side by side have one scale.
    """
    across = axis_over(ends, EDGE, SIDE - 8)
    up = axis_over(ends, SIDE - FOOT, 12)
    corner = f"M{across.start} {up.start}L{across.end} {up.end}"
    parts = [f'<path class="axis diagonal" d="{corner}"/>']
    parts.append(f'<path class="axis" d="M{EDGE} {up.end}V{up.start}H{across.end}"/>')
    for tick in up.ticks():
        parts.append(f'<text x="{EDGE - 5}" y="{up.at(tick) + 4:.1f}" class="end">{tick:g}</text>')
        x = across.at(tick)
        parts.append(f'<text x="{x:.1f}" y="{SIDE - FOOT + 15}" class="mid">{tick:g}</text>')
    for x, y, count in found.points:
        # The area tells the number of users.
        told = f"{count} user{'s' * (count > 1)}: {rival} {x:.3f}, {focus} {y:.3f}"
        parts.append(
            f'<circle class="user" cx="{across.at(x):.1f}" cy="{up.at(y):.1f}" '
            f'r="{3 * math.sqrt(count):.1f}"><title>{plain(told)}</title></circle>'
        )
    parts.append(
        f'<text x="{(EDGE + SIDE - 8) / 2:.1f}" y="{SIDE - 6}" class="mid">{plain(rival)}</text>'
        f'<text transform="translate(12 {(12 + SIDE - FOOT) / 2:.1f}) rotate(-90)" class="mid">'
        f"{plain(focus)}</text>"
    )
    label = f"Scatter plot: {metric.name} of each user by {focus} (up) and by {rival} (right)."
    return (
        f'<svg class="panel" viewBox="0 0 {SIDE} {SIDE}" role="img" aria-label="{plain(label)}">'
        f"{''.join(parts)}</svg>"
    )
