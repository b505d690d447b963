"""The pooling benchmark's figures as an SVG, without a plotting package."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

WIDTH, HEIGHT = 620, 400
LEFT, RIGHT, TOP, BOTTOM = 60, 150, 30, 40
COLORS = {
    "ppedge f32": "#9ecae1",
    "ppedge f16": "#08519c",
    "ppedge bf16": "#6baed6",
    "ppedge int8": "#d94801",
    "floor f16": "#bbbbbb",
    "numpy f32": "#31a354",
    "torch SDPA f32": "#756bb1",
    "torch SDPA f16": "#9e9ac8",
    "torch SDPA bf16": "#cbc9e2",
    "onnxruntime f32": "#636363",
}


class Point(Protocol):
    """What is drawn of a result."""

    threads: int
    d_v: int
    n: int
    subject: str
    seconds: float


def plot(results: Sequence[Point]) -> str:
    """Draw nanoseconds a row over n, both logarithmic, one panel a (threads, d_v)."""
    panels = sorted({(r.threads, r.d_v) for r in results})
    drawn = [r for r in results if r.subject in COLORS]
    ns = [r.n for r in drawn]
    costs = [r.seconds * 1e9 / r.n for r in drawn]
    x_range = (math.log10(min(ns)), math.log10(max(ns)))
    y_range = (math.floor(math.log10(min(costs))), math.ceil(math.log10(max(costs))))
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" '
        f'height="{HEIGHT * len(panels)}" font-family="sans-serif" font-size="12">',
        '<rect width="100%" height="100%" fill="white"/>',
    ]
    for i, panel in enumerate(panels):
        chosen = [r for r in drawn if (r.threads, r.d_v) == panel]
        parts += [f'<g transform="translate(0 {i * HEIGHT})">']
        parts += _axes(panel, x_range, y_range)
        parts += _lines(chosen, x_range, y_range)
        parts += ["</g>"]
    return "\n".join([*parts, "</svg>\n"])


def x_of(log_n: float, limits: tuple[float, float]) -> float:
    span = max(limits[1] - limits[0], 1e-9)
    return LEFT + (log_n - limits[0]) / span * (WIDTH - LEFT - RIGHT)


def y_of(log_cost: float, limits: tuple[float, float]) -> float:
    return (
        HEIGHT - BOTTOM - (log_cost - limits[0]) / (limits[1] - limits[0]) * (HEIGHT - TOP - BOTTOM)
    )


def _axes(
    panel: tuple[int, int], x_range: tuple[float, float], y_range: tuple[float, float]
) -> list[str]:
    threads, d_v = panel
    title = f"d_k 384, d_v {d_v}, {threads} thread{'s' * (threads > 1)}: nanoseconds a row over n"
    parts = [f'<text x="{LEFT}" y="18">{title}</text>']
    for decade in range(math.ceil(x_range[0]), math.floor(x_range[1]) + 1):
        x = x_of(decade, x_range)
        parts.append(f'<path d="M{x:.1f} {TOP}V{HEIGHT - BOTTOM}" stroke="#eee"/>')
        parts.append(
            f'<text x="{x:.1f}" y="{HEIGHT - 20}" text-anchor="middle">{10**decade:,}</text>'
        )
    for decade in range(int(y_range[0]), int(y_range[1]) + 1):
        y = y_of(decade, y_range)
        parts.append(f'<path d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}" stroke="#eee"/>')
        parts.append(
            f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{10**decade:,}</text>'
        )
    return parts


def _lines(
    results: Sequence[Point], x_range: tuple[float, float], y_range: tuple[float, float]
) -> list[str]:
    parts = []
    for i, (subject, color) in enumerate(COLORS.items()):
        points = sorted((r.n, r.seconds) for r in results if r.subject == subject)
        if not points:
            continue
        path = " ".join(
            f"{x_of(math.log10(n), x_range):.1f},{y_of(math.log10(seconds * 1e9 / n), y_range):.1f}"
            for n, seconds in points
        )
        dash = ' stroke-dasharray="4 3"' if subject.startswith("floor") else ""
        parts.append(
            f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="2"{dash}/>'
        )
        y = TOP + 14 + 18 * i
        parts.append(f'<text x="{WIDTH - RIGHT + 10}" y="{y}" fill="{color}">{subject}</text>')
    return parts
