"""docs/performance.md, from the figures of one run of ``tests.bench.all``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from tests.bench.goals import goals
from tests.bench.growth import CHANGES, slope
from tests.bench.line_plot import line_plot

ROW_BYTES = 2 * (384 + 512)
NIGHT = 8 * 3600
PATIENCE = 10.0

PREFACE = """\
# Performance

<!-- Made by `python -m tests.bench.all --docs docs/performance.md`. Do not edit. -->

How long a person waits, and beside what. All figures are of one run on one machine; peers ran in
the same run, in turns with ppedge. Times are medians, ratios are medians of the ratios within each
round. `ppedge bench` measures the parts that need no peers on your own machine."""


def page(figures: dict[str, Any], images: dict[str, str]) -> str:
    """The page, and through ``images`` the SVG of each plot by its file's name."""
    parts = [PREFACE, _machine(figures), "## Goals", _goals(figures)]
    parts += ["## New processes", _processes(figures)]
    parts += ["## Encoding", _encoding(figures)]
    parts += ["## First token", _first_token(figures)]
    parts += ["## How cost grows", _growth(figures, images)]
    if figures.get("pool"):
        parts += ["## Pooling", _pool(figures)]
    return "\n\n".join(parts) + "\n"


def _table(head: Sequence[str], rows: Iterator[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(head)} |", "|---" + "|---:" * (len(head) - 1) + "|"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:,.1f} ms" if seconds < 0.1 else f"{1e3 * seconds:,.0f} ms"


def _mb(size: int | None) -> str:
    return "not known" if size is None else f"{size / 1e6:,.0f} MB"


def _machine(figures: dict[str, Any]) -> str:
    where = figures["bench"]["machine"]
    text = (
        f"Machine: {where['cores']} cores, {where['simd']}, {where['system']} "
        f"{where['architecture']}, Python {where['python']}; load average before the run "
        f"{figures['load']:.1f} (0 is quiet; above 1, trust ratios and not milliseconds)."
    )
    if floor := figures.get("read_bytes_per_second"):
        text += f" It reads memory at {floor / 1e9:.1f} GB/s."
    return text


def _goals(figures: dict[str, Any]) -> str:
    head = "| what | measured | goal | |\n|---|---:|---:|---|"
    return "\n".join([head, *(goal.row() for goal in goals(figures))])


def _processes(figures: dict[str, Any]) -> str:
    bench = figures["bench"]
    cold = bench["cold_start"]
    rows = [
        ("`import ppedge`", _ms(bench["import_seconds"])),
        ("`from ppedge import Personalizer`", _ms(bench["import_personalizer_seconds"])),
        ("`ppedge --help`", _ms(bench["help_seconds"])),
        (f"first token, {cold['notes']:,} notes", _ms(cold["first_seconds"])),
        (f"last token, {cold['notes']:,} notes", _ms(cold["last_seconds"])),
        ("first token, bare", _ms(cold["bare"]["first_seconds"])),
        ("last token, bare", _ms(cold["bare"]["last_seconds"])),
    ]
    if second := figures.get("second_run"):
        name = f"second run, {second['notes']:,} notes, {second['tokens']} tokens"
        rows += [
            (name, _ms(second["ppedge_seconds"])),
            ("as many by plain llama-cpp-python", _ms(second["plain_seconds"])),
        ]
    return _table(["from the start of the process", "seconds"], iter(rows))


def _encoding(figures: dict[str, Any]) -> str:
    found = figures["encoding"]
    rows = (
        (who, f"{rate:.1f}", f"{found['ratio'][who]:.2f}×" if who in found["ratio"] else "")
        for who, rate in found["notes_per_second"].items()
    )
    text = (
        f"{found['notes']:,} notes, half of them longer than {found['characters']:.0f} characters, "
        f"{found['threads']} threads, all cut at 128 tokens:"
    )
    parts = [text, _table(["", "notes a second", "ppedge to it"], rows)]
    if found["cosine_of_peers"] is not None:
        parts.append(
            f"The peers' vectors agree to a cosine of {found['cosine_of_peers']:.5f}. ppedge's "
            f"differ from torch's in float32 by {found['difference_to_torch']:.0e} of the largest "
            "number (golden vectors of the plug)."
        )
    bulk = (
        (f"{row['notes']:,}", f"{row['seconds']:.1f} s", f"{row['rate']:.1f}",
         _mb(row["peak_bytes"]))
        for row in figures["bulk"]
    )  # fmt: skip
    parts.append("`ppedge notes add`, a new process, encoding and storing:")
    parts.append(_table(["notes", "seconds", "notes a second", "peak memory"], bulk))
    return "\n\n".join(parts)


def _first_token(figures: dict[str, Any]) -> str:
    rows = (
        (
            row["persona"],
            _ms(row["first_token_seconds"]),
            f"{row['ratio']:.2f}×",
            f"{row['tokens_per_second']:.1f}",
        )
        for row in figures["bench"]["answers"]
    )
    head = ["persona", "first token", "to bare", "tokens a second"]
    parts = ["In an open process, the persona's turns read before:", _table(head, rows)]
    parts += _kept_turns(figures["kept_turns"])
    if found := figures.get("prompts"):
        beside = (
            (way, _ms(seconds), f"{found['ratio'][way]:.2f}×")
            for way, seconds in found["first_token_seconds"].items()
        )
        parts.append(
            f"Beside retrieval, {found['notes']:,} notes, the same GGUF; the search is counted, "
            "encoding the notes for it is not:"
        )
        parts.append(_table(["", "first token", "persona to it"], beside))
    return "\n\n".join(parts)


def _kept_turns(found: dict[str, Any]) -> Iterator[str]:
    yield (
        f"The turns themselves, {found['notes']:,} notes, nothing else of the persona: held in the "
        f"model's context, restored from their file of {_mb(found['file_bytes'])} as by the first "
        "answer of a process, or read anew as by the very first:"
    )
    rows = ((way, _ms(seconds)) for way, seconds in found["first_token_seconds"].items())
    yield _table(["turns", "first token"], rows)


def _growth(figures: dict[str, Any], images: dict[str, str]) -> str:
    rows, rate = figures["growth"], figures["encoding"]["notes_per_second"]["ppedge"]
    head = ["notes", "encoding, computed", "first token", "to bare", "new process", *CHANGES]
    lines: dict[str, list[tuple[float, float]]] = {
        "encoding": [(row["notes"], row["notes"] / rate) for row in rows],
        "first token": [(row["notes"], row["first_token_seconds"]) for row in rows],
    }
    for change in CHANGES:
        lines[change] = [(row["notes"], row["changes"][change]["seconds"]) for row in rows]
    images["growth-time.svg"] = line_plot("Seconds over the number of notes", "s", lines)
    peaks = [(row["notes"], row["peak_bytes"] / 1e6) for row in rows if row["peak_bytes"]]
    if peaks:
        images["growth-memory.svg"] = line_plot(
            "Peak memory of an answer, MB, mapped files included", "MB", {"answer": peaks}
        )
    shown = ((f"{row['notes']:,}", *_grown(row, rate)) for row in rows)
    parts = [
        "Vectors are random, as encoding as many would take hours; text is real in length.",
        _table([*head, "peak memory of an answer"], shown),
        "![Seconds over notes](img/growth-time.svg)",
        *(["![Memory over notes](img/growth-memory.svg)"] if peaks else []),
        *([_slopes(rows, lines)] if len(rows) > 1 else []),
        _limits(rows, rate),
    ]
    return "\n\n".join(parts)


def _grown(row: dict[str, Any], rate: float) -> Iterator[str]:
    yield f"{row['notes'] / rate:,.0f} s"
    yield _ms(row["first_token_seconds"])
    yield f"{row['ratio_to_bare']:.2f}×"
    yield _ms(row["cold_first_seconds"])
    for change in CHANGES:
        yield _ms(row["changes"][change]["seconds"])
    yield _mb(row["peak_bytes"])


def _slopes(rows: list[dict[str, Any]], lines: dict[str, list[tuple[float, float]]]) -> str:
    sizes = [row["notes"] for row in rows]
    shown = (
        f"{name} {slope(sizes, [seconds for _, seconds in points]):.2f}"
        for name, points in lines.items()
    )
    return (
        f"Slopes between {sizes[-2]:,} and {sizes[-1]:,} notes (exponent of the number of notes; "
        f"0 does not grow, 1 is linear): {', '.join(shown)}."
    )


def _limits(rows: list[dict[str, Any]], rate: float) -> str:
    last = rows[-1]
    a_note = last["changes"]["sync, one line changed"]["seconds"] / last["notes"]
    return (
        "Where one machine is no longer enough: encoding gives out first. At this rate a night of "
        f"eight hours encodes {NIGHT * rate:,.0f} notes. Taking up one changed line takes more "
        f"than {PATIENCE:.0f} s from about {PATIENCE / a_note:,.0f} notes on, as every row is "
        "written anew so that nothing of the old one is left. An answer reads every row once, "
        f"{ROW_BYTES:,} bytes a note of mapped files; they count as memory here, and the system "
        "may drop them at any time."
    )


def _pool(figures: dict[str, Any]) -> str:
    found = figures["pool"]
    subjects = list(found[0]["seconds"])
    rows = (
        (f"{row['notes']:,}", *(_ms(row["seconds"][subject]) for subject in subjects))
        for row in found
    )
    return "\n\n".join(
        [
            f"Attention over all notes (384 + 512 numbers each, {found[0]['threads']} threads). "
            "*floor* reads the same bytes once and does nothing else:",
            _table(["notes", *subjects], rows),
        ]
    )
