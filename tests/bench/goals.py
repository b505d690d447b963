"""The goals for speed and memory, and whether figures of one run reach them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Goal:
    """One goal.

    Attributes:
        text: what was measured.
        figure: what was found.
        bound: what was aimed at.
        at_least: whether more is better.
        unit: written behind both.
    """

    text: str
    figure: float
    bound: float
    at_least: bool = False
    unit: str = "×"

    @property
    def is_reached(self) -> bool:
        """Whether the figure is on the right side of the bound."""
        return self.figure >= self.bound if self.at_least else self.figure <= self.bound

    def row(self) -> str:
        """A row of a Markdown table."""
        sign = "≥" if self.at_least else "≤"
        shown = f"{self.figure:.2f}" if self.unit == "×" else f"{self.figure:.0f}"
        bound = f"{self.bound:.2f}" if self.unit == "×" else f"{self.bound:.0f}"
        verdict = "reached" if self.is_reached else "**missed**"
        space = "" if self.unit == "×" else " "
        return (
            f"| {self.text} | {shown}{space}{self.unit} | {sign} {bound}{space}{self.unit} "
            f"| {verdict} |"
        )


def goals(figures: dict[str, Any]) -> Iterator[Goal]:
    """The goals that the figures say something of."""
    yield from _first_token(figures)
    yield from _encoding(figures)
    yield from _processes(figures)
    yield from _memory(figures)


def _first_token(figures: dict[str, Any]) -> Iterator[Goal]:
    rows = {row["persona"]: row["ratio"] for row in figures["bench"]["answers"]}
    if "1000 notes" in rows:
        yield Goal("first token, 1,000 notes, to the bare prompt", rows["1000 notes"], 1.10)
    if found := figures.get("prompts"):
        for way in ("BM25-4", "dense-4"):
            text = f"first token, {found['notes']:,} notes, to {way} in the prompt"
            yield Goal(text, found["ratio"][f"Llama, {way}"], 0.35)
    grown = {row["notes"]: row["first_token_seconds"] for row in figures["growth"]}
    for count, bound in ((10_000, 1.05), (100_000, 1.20)):
        if {100, count} <= grown.keys():
            text = f"first token, {count:,} notes, to 100 notes"
            yield Goal(text, grown[count] / grown[100], bound)


def _encoding(figures: dict[str, Any]) -> Iterator[Goal]:
    for who, bound in (("fastembed", 2.0), ("sentence-transformers", 3.0)):
        if who in figures["encoding"]["ratio"]:
            ratio = figures["encoding"]["ratio"][who]
            yield Goal(f"notes a second, to {who}", ratio, bound, at_least=True)


def _processes(figures: dict[str, Any]) -> Iterator[Goal]:
    bench = figures["bench"]
    if second := figures.get("second_run"):
        yield Goal(
            f"second `ppedge personalize` on {second['notes']:,} unchanged notes, "
            f"to plain llama-cpp-python, {second['tokens']} tokens each",
            second["ratio"],
            1.25,
        )
    yield Goal("`import ppedge`", 1e3 * bench["import_seconds"], 150, unit="ms")
    yield Goal("`ppedge --help`", 1e3 * bench["help_seconds"], 200, unit="ms")


def _memory(figures: dict[str, Any]) -> Iterator[Goal]:
    peak = figures["bench"]["peak_bytes"]
    if peak["generating"] is None:
        return
    over = (peak["generating"] - peak["model_file"]) / 1e6
    yield Goal("peak memory while generating, over the GGUF", over, 200, unit="MB")
    for row in figures["bulk"]:
        text = f"peak memory while encoding {row['notes']:,} notes"
        yield Goal(text, row["peak_bytes"] / 1e6, 500, unit="MB")
