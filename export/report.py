"""A run as one self-contained HTML page: settings, table, plots, examples.

    python -m export.report OUT.json REPORT.html
    python -m export.report OUT.json REPORT.html --against instruction --examples 20

The page asks for nothing from anywhere and runs no script. Whatever a model wrote is shown as
text. The examples are drawn by the seed alone, so that nobody chose them.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from export.evaluation.metrics import NLL
from export.evaluation.records import Run
from export.evaluation.report_plots import (
    bins_of,
    by_history,
    duel,
    history_plot,
    history_table,
    legend,
    plain,
    scatter,
)
from export.evaluation.summary import (
    BEAM,
    NOTHING,
    Cell,
    Row,
    Series,
    Table,
    notes,
    series_of,
    summarise,
    table,
)
from export.tools.commands import check_output, check_seed, one_line_errors, replacing

EXAMPLES = 8
FOCUS = "persona"  # the method that the others are set against, user by user
LONG = 400  # characters of an input that are shown before it must be unfolded

# Colours after Okabe and Ito, darkened or lightened to stand out from their ground.
STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --ground: #fff; --soft: #59636e; --rule: #d5dae0;
 --c0: #0072b2; --c1: #c14a00; --c2: #007a5a; --c3: #a83f85; --c4: #946000; --c5: #5b45b0;
 --c6: #b3122d; --c7: #5c5c5c; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e7eb; --ground: #14171b; --soft: #9aa4af;
 --rule: #353c44; --c0: #5ab4f0; --c1: #ff9152; --c2: #3fcf9f; --c3: #e79ac6; --c4: #eab63f;
 --c5: #b5a0ff; --c6: #ff7483; --c7: #b4b4b4; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem; max-width: 80rem; background: var(--ground);
 color: var(--ink); font: 1rem/1.5 system-ui, sans-serif; }
h1 { font-size: 1.6rem; line-height: 1.2; }
h2 { margin-top: 2.5rem; font-size: 1.25rem; }
h3 { margin: 2rem 0 .5rem; font-size: 1rem; overflow-wrap: anywhere; }
p, li, dd { max-width: 46rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .9rem; }
th, td { padding: .3rem .7rem .3rem 0; border-bottom: 1px solid var(--rule); text-align: left;
 vertical-align: top; }
.figures tbody th { position: sticky; left: 0; background: var(--ground); }
.answers { width: 100%; } .answers thead th { white-space: nowrap; }
.answers td:nth-child(2) { width: 100%; min-width: 7rem; }
@media (max-width: 30rem) { th, td { padding-right: .4rem; font-size: .85rem; } }
.answers td:nth-child(2), .text { white-space: pre-wrap; overflow-wrap: anywhere; }
.settings td { overflow-wrap: anywhere; }
dt { color: var(--soft); } dd { margin: 0 0 .6rem; }
summary { cursor: pointer; }
figure { margin: 1.5rem 0; } figcaption { color: var(--soft); font-size: .9rem; }
svg { font: 12px system-ui, sans-serif; fill: currentColor; stroke: none; }
svg .mid { text-anchor: middle; } svg .end { text-anchor: end; }
.plot { display: block; width: 100%; min-width: 26rem; max-width: 44rem; }
.panels { display: grid; grid-template-columns: repeat(auto-fill, minmax(13rem, 1fr)); gap: 1rem; }
.panels figure { margin: 0; max-width: 20rem; } .panel { width: 100%; }
.grid { stroke: var(--rule); fill: none; }
.axis { stroke: var(--soft); fill: none; } .diagonal { stroke-dasharray: 2 3; }
.line, .dash { stroke: var(--c); stroke-width: 1.5; fill: none; }
.dash { stroke-dasharray: 5 4; }
.whisker { stroke: var(--c); stroke-opacity: .55; fill: none; } .dot { fill: var(--c); }
.user { fill: var(--c0); fill-opacity: .55; }
.legend { display: flex; flex-wrap: wrap; gap: .2rem 1.2rem; padding: 0; list-style: none; }
.legend svg { width: 28px; height: 14px; margin-right: .4rem; vertical-align: -2px; }
""" + "".join(f".c{i} {{ --c: var(--c{i}); }}\n" for i in range(8))


def report(run: Run, rows: Sequence[Row], seed: int = 0, examples: int = EXAMPLES) -> str:
    """The page.

    Args:
        run: what was answered.
        rows: its summary, as the table shows it.
        seed: draws the examples, and the intervals of the plots.
        examples: how many questions to show.

    Returns:
        A whole HTML document; every text in it that came from the run is escaped.
    """
    series = series_of(run)
    name = f"{run.task_name}: {rows[0].run_questions:,} questions of {rows[0].run_users:,} users"
    parts = [
        f"<h1>{plain(name)}</h1>",
        "<p>What each method answered through the same language model, and how sure one can be "
        "that they differ.</p>",
        _settings(run),
        "<h2>All methods</h2>",
        _table(table(rows), "All methods", "figures"),
        f"<ul>{''.join(f'<li>{plain(note)}</li>' for note in notes(rows))}</ul>",
        _history(series, seed),
        _duels(series),
        _examples(run, series, seed, examples),
    ]
    # The policy makes a browser refuse what the page does not hold itself.
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; style-src 'unsafe-inline'\">\n"
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{plain(name)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(parts)
        + "\n</main>\n</body>\n</html>\n"
    )


def _settings(run: Run) -> str:
    lines = [
        f'<tr><th scope="row">{plain(name)}</th><td>'
        f"{plain(value if isinstance(value, str) else json.dumps(value))}</td></tr>"
        for name, value in run.settings.items()
    ]
    return (
        "<details><summary>Settings of this run</summary>"
        f'<table class="settings"><tbody>{"".join(lines)}</tbody></table></details>'
    )


def _table(shown: Table, label: str, kind: str) -> str:
    """A table whose first column names its rows; it scrolls by itself where it is too wide."""
    # Where a column is narrow, an interval may go below its value but not break inside.
    glue = ",\u00a0" if kind == "figures" else ", "
    head = "".join(f'<th scope="col">{plain(text)}</th>' for text in shown.head)
    lines = []
    for first, *others in shown.body:
        cells = "".join(f'<td dir="auto">{_cell(cell).replace(", ", glue)}</td>' for cell in others)
        # "instruction+bm25-4" is too wide for a phone in one piece.
        name = _cell(first).replace("+", "+<wbr>")
        lines.append(f'<tr><th scope="row">{name}</th>{cells}</tr>')
    return (
        f'<div class="scroll" role="region" tabindex="0" aria-label="{plain(label)}">'
        f'<table class="{kind}"><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def _cell(cell: Cell) -> str:
    return f"<strong>{plain(cell.text)}</strong>" if cell.strong else plain(cell.text)


def _greedy(series: dict[str, Series]) -> list[Series]:
    return [each for name, each in series.items() if not name.endswith(BEAM)]


def _drawn(series: dict[str, Series]) -> list[str]:
    """The metrics that are plotted: the main one and the likelihood."""
    return [next(iter(_greedy(series)[0].metrics)), NLL.name]


def _history(series: dict[str, Series], seed: int) -> str:
    shown = _greedy(series)
    names = [each.name for each in shown]
    bins = bins_of([record for each in shown for record in each.records])
    asked = sum(part.questions for part in bins)
    dashed = [each.name for each in shown if len(each.records) < asked]
    parts = [
        "<h2>Score against history length</h2>",
        "<p>The questions in parts of about equal size, by how many notes their user has. Whiskers "
        "are 95 % intervals over the users of a part (none where it has one user); dashed: methods "
        "that answered a sample. A part may hold other kinds of people than the next, so a slope "
        "is not the effect of notes alone.</p>",
        legend(names, dashed),
    ]
    for metric in _drawn(series):
        figures = [by_history(each, metric, bins, seed) for each in shown]
        plot = history_plot(names, dashed, bins, figures, shown[0].metrics[metric])
        below = _table(
            history_table(names, bins, figures), f"{metric} by history length", "figures"
        )
        parts.append(
            f'<figure><div class="scroll" role="region" tabindex="0" '
            f'aria-label="{plain(metric)} by history length, plot">{plot}</div><figcaption>'
            f"{plain(metric)} by history length</figcaption></figure>"
            f"<details><summary>The same figures: {plain(metric)}</summary>{below}</details>"
        )
    return "\n".join(parts)


def _duels(series: dict[str, Series]) -> str:
    focus = series.get(FOCUS)
    rivals = [each for each in _greedy(series) if each.name != FOCUS]
    if focus is None or not rivals:
        return ""
    parts = [
        f"<h2>{FOCUS} against each method, user by user</h2>",
        f"<p>A point is a user, {FOCUS} upwards, the other method to the right, both over the "
        "questions that both answered; where users coincide the point grows with their number. "
        "On the diagonal the two are equal.</p>",
    ]
    for metric in _drawn(series):
        up = focus.metrics[metric].higher_is_better
        side = "above" if up else "below"
        duels = [(each.name, duel(focus, each, metric)) for each in rivals]
        ends = [value for _, found in duels for point in found.points for value in point[:2]]
        panels = [
            f"<figure>{scatter(found, FOCUS, name, focus.metrics[metric], ends)}"
            f"<figcaption>against {plain(name)}: better for {found.better:,} users, "
            f"worse for {found.worse:,}, equal for {found.same:,}</figcaption></figure>"
            for name, found in duels
            if found.points
        ]
        parts.append(
            f"<h3>{plain(metric)}: {FOCUS} is better {side} the diagonal</h3>"
            f'<div class="panels">{"".join(panels)}</div>'
        )
    return "\n".join(parts)


def _examples(run: Run, series: dict[str, Series], seed: int, count: int) -> str:
    ids = list(dict.fromkeys(record.id for record in run.records))
    order = np.random.default_rng(seed).permutation(len(ids))[:count]
    parts = [
        "<h2>Examples</h2>",
        f"<p>{len(order)} of {len(ids):,} questions, drawn by seed {seed}; none was left out or "
        "put in by hand.</p>",
        *(_example(ids[i], run, series) for i in order),
    ]
    return "\n".join(parts)


def _example(id_: str, run: Run, series: dict[str, Series]) -> str:
    main, nll = _drawn(series)
    body = []
    for name, each in series.items():
        if id_ not in each.ids:
            cells = [Cell("did not answer this one: it answered a sample"), NOTHING, NOTHING]
        else:
            one = each.on([id_])
            record = one.records[0]
            answer = record.beam if name.endswith(BEAM) else record.prediction
            cells = [Cell(answer or "(empty)"), _alone(one, main), _alone(one, nll)]
        body.append([Cell(name), *cells])
    shown = Table(["method", "answer", main, nll], body)
    record = next(record for record in run.records if record.id == id_)
    return (
        f"<section><h3>Question {plain(id_)}: a user with {record.history:,} notes</h3><dl>"
        f"<dt>asked</dt><dd>{_folded(run.inputs.get(id_, '(not kept in this run)'))}</dd>"
        f'<dt>the user wrote</dt><dd class="text" dir="auto">{plain(run.golds[id_])}</dd></dl>'
        f"{_table(shown, f'Answers to question {id_}', 'answers')}</section>"
    )


def _alone(one: Series, metric: str) -> Cell:
    """A metric on one question."""
    if metric not in one.metrics:
        return NOTHING
    return Cell(f"{float(one.metrics[metric].value(one.statistics[metric].sum(0))):.3f}")


def _folded(text: str) -> str:
    """A text, the long rest of it folded away."""
    if len(text) <= LONG:
        return f'<div class="text" dir="auto">{plain(text)}</div>'
    return (
        f'<details><summary class="text" dir="auto">{plain(text[:LONG])}…</summary>'
        f'<div class="text" dir="auto">{plain(text[LONG:])}</div></details>'
    )


def main(words: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m export.report",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", type=Path, metavar="OUT.json", help="saved by export.evaluate")
    parser.add_argument("page", type=Path, metavar="REPORT.html", help="the page to write")
    parser.add_argument("--against", help="method the others are set against (default: the run's)")
    parser.add_argument("--seed", type=int, default=0, help="of bootstrap and examples (default 0)")
    parser.add_argument("--examples", type=int, default=EXAMPLES, help="how many (default 8)")
    args = parser.parse_args(words)
    if args.examples < 0:
        parser.error(f"--examples must be 0 or more, not {args.examples}")
    check_seed(parser, args.seed)
    check_output(parser, args.page)
    with one_line_errors("export.report"):
        run = Run.load(args.run)
        against = args.against or run.settings.get("against")
        rows = summarise(run, against, args.seed)
        with replacing(args.page) as file:
            file.write(report(run, rows, args.seed, args.examples))


if __name__ == "__main__":
    main()
