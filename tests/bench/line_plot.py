"""Lines over the number of notes as an SVG, both axes logarithmic, without a plotting package."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from tests.bench.pool_plot import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, x_of, y_of

COLORS = ("#08519c", "#d94801", "#31a354", "#756bb1", "#636363", "#9ecae1")
Points = Sequence[tuple[float, float]]


def line_plot(title: str, unit: str, lines: Mapping[str, Points]) -> str:
    """Draw named lines.

    Args:
        title: stands above.
        unit: of the figures, written at each tick.
        lines: points (notes, figure), all above 0, by name.
    """
    xs, ys = zip(*(point for points in lines.values() for point in points), strict=True)
    x_range = math.log10(min(xs)), math.log10(max(xs))
    y_range = math.floor(math.log10(min(ys))), math.ceil(math.log10(max(ys)) + 1e-9)
    limits = float(y_range[0]), float(max(y_range[1], y_range[0] + 1))
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" '
        'font-family="sans-serif" font-size="12">',
        '<rect width="100%" height="100%" fill="white"/>',
        f'<text x="{LEFT}" y="18">{title}</text>',
        *_grid(x_range, limits, unit),
    ]
    for i, (name, points) in enumerate(lines.items()):
        parts += _line(name, points, i, x_range, limits)
    return "\n".join([*parts, "</svg>\n"])


def _grid(x_range: tuple[float, float], limits: tuple[float, float], unit: str) -> list[str]:
    parts = []
    for decade in range(math.ceil(x_range[0]), math.floor(x_range[1]) + 1):
        x = x_of(decade, x_range)
        parts += [
            f'<path d="M{x:.1f} {TOP}V{HEIGHT - BOTTOM}" stroke="#eee"/>',
            f'<text x="{x:.1f}" y="{HEIGHT - 20}" text-anchor="middle">{10**decade:,}</text>',
        ]
    for decade in range(int(limits[0]), int(limits[1]) + 1):
        y = y_of(decade, limits)
        parts += [
            f'<path d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}" stroke="#eee"/>',
            f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{10**decade:,g} {unit}</text>',
        ]
    return parts


def _line(
    name: str, points: Points, i: int, x_range: tuple[float, float], limits: tuple[float, float]
) -> list[str]:
    color = COLORS[i % len(COLORS)]
    path = " ".join(
        f"{x_of(math.log10(n), x_range):.1f},{y_of(math.log10(figure), limits):.1f}"
        for n, figure in sorted(points)
    )
    x, y = WIDTH - RIGHT + 10, TOP + 14 + 18 * i
    return [
        f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="2"/>',
        f'<text x="{x}" y="{y}" fill="{color}">{name}</text>',
    ]
