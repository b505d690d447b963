"""The command `ppedge bench`: how long a person waits, on this machine, with this model."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import click

from ppedge.cli.made_notes import LEAST_ENCODED, history_file, made_notes, write_history
from ppedge.cli.opening import model_option, notify, plug_option
from ppedge.cli.processes import PPEDGE, Run, import_seconds, medians, repeated, timed
from ppedge.plug.no_plug import NONE
from ppedge.processors import usable_cores
from ppedge.store.temporary import temporary_folder

_MAX_NOTES: Final = 100_000
_PROMPT: Final = "Write a short note about the rain"
_PERSONALIZER: Final = "from ppedge import Personalizer"


@click.command()
@model_option
@plug_option
@click.option(
    "--threads",
    type=click.IntRange(1, 1024),
    help="CPU threads of what is measured within one process; by default as the commands choose.",
)
@click.option(
    "--rounds",
    type=click.IntRange(1, 1000),
    default=5,
    show_default=True,
    help="Medians are of so many; one more warms up.",
)
@click.option(
    "--notes",
    "counts",
    type=click.IntRange(0, _MAX_NOTES),
    multiple=True,
    default=(0, 100, 1000),
    show_default=True,
    help="Size of a persona to answer as; may be given again.",
)
@click.option(
    "--max-tokens",
    type=click.IntRange(1),
    default=32,
    show_default=True,
    help="Longest answer.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--inside", metavar="FOLDER", hidden=True, help="Measure within this process only.")
def bench(
    model: str | None,
    plug: str | None,
    threads: int | None,
    rounds: int,
    counts: tuple[int, ...],
    max_tokens: int,
    as_json: bool,
    inside: str | None,
) -> None:
    """Measure how long a person waits, on this machine.

    \b
    ppedge bench
    ppedge bench --model ANY.gguf --notes 100 --rounds 3 --json

    Notes are invented, and everything is kept in a temporary folder that goes at the end; your
    own notes are not looked at. It takes some minutes, most of them to encode the notes once.
    """
    # One of each size: a second one would be another name for the same.
    counts = tuple(dict.fromkeys(counts))
    if inside is not None:
        from ppedge.cli.measuring import Settings, measure

        settings = Settings(model, plug, threads, rounds, counts, max_tokens)
        click.echo(json.dumps(measure(settings, Path(inside))))
        return
    given = [f"--rounds={rounds}", f"--max-tokens={max_tokens}"]
    given += [f"--notes={count}" for count in counts]
    given += [] if threads is None else [f"--threads={threads}"]
    named = _named(model, plug)
    with temporary_folder() as folder:
        bench_of = Bench(folder, named, rounds, max_tokens, max(counts))
        report = bench_of.report(given)
    if as_json:
        click.echo(json.dumps(report, ensure_ascii=False))
    else:
        click.echo("\n".join(lines(report)))


def _named(model: str | None, plug: str | None) -> list[str]:
    """The options that name model and plug, for another process."""
    options = (("--model", model), ("--plug", plug))
    return [f"{name}={value}" for name, value in options if value is not None]


class Bench:
    """Measures process by process; this one stays small, or theirs would seem larger."""

    def __init__(
        self, folder: Path, named: list[str], rounds: int, max_tokens: int, notes: int
    ) -> None:
        """Get ready.

        Args:
            folder: an empty folder, for everything.
            named: options that name model and plug.
            rounds: of which medians are taken.
            max_tokens: length of an answer.
            notes: size of the persona that is answered as after a cold start.
        """
        self._folder, self._named, self._rounds = folder, named, rounds
        self._max_tokens, self._notes = max_tokens, notes
        self._env = {**os.environ, "PPEDGE_HOME": str(folder / "home")}
        self._errors = folder / "stderr"

    def report(self, given: list[str]) -> dict[str, Any]:
        """Everything, in figures.

        Args:
            given: further options of the process that measures within itself.
        """
        notify("measuring encoding, syncing and answers …")
        inside = self._run("bench", f"--inside={self._folder}", *given, *self._named)
        report: dict[str, Any] = json.loads(inside.out)
        notify("measuring new processes …")
        rounds = self._rounds
        helped = repeated((*PPEDGE, "--help"), self._env, self._errors, rounds)
        cold, cold_bare = self._cold_starts()
        return {
            "machine": machine(),
            "rounds": rounds,
            **report,
            "import_seconds": import_seconds("import ppedge", self._env, self._errors, rounds),
            "import_personalizer_seconds": import_seconds(
                _PERSONALIZER, self._env, self._errors, rounds
            ),
            "help_seconds": helped.whole,
            "cold_start": {"notes": self._notes, **_times(cold), "bare": _times(cold_bare)},
            "peak_bytes": {
                "model_file": Path(report["model"]).stat().st_size,
                "generating": cold.peak_bytes,
                "encoding": None if report["plug"] == NONE else self._encoding().peak_bytes,
            },
        }

    def _run(self, *arguments: str) -> Run:
        return timed((*PPEDGE, *arguments), self._env, self._errors)

    def _cold_starts(self) -> tuple[Run, Run]:
        """A new process that answers as the largest persona, and one without, in turns."""
        asked = ["personalize", _PROMPT, "--seed=1", f"--max-tokens={self._max_tokens}"]
        ways = (
            [*asked, *self._named, f"--history={history_file(self._folder, self._notes)}"],
            [*asked, *self._named, "--no-persona"],
        )
        runs: tuple[list[Run], list[Run]] = ([], [])
        for turn in range(-1, self._rounds):
            for way, found in zip(ways, runs, strict=True):
                run = self._run(*way)
                if turn >= 0:  # The first round only warms up.
                    found.append(run)
        return medians(runs[0]), medians(runs[1])

    def _encoding(self) -> Run:
        history = history_file(self._folder, LEAST_ENCODED)
        write_history(history, made_notes(LEAST_ENCODED))
        plug = [name for name in self._named if name.startswith("--plug=")]
        return self._run("notes", "add", str(history), f"--persona={self._folder / 'new'}", *plug)


def machine() -> dict[str, Any]:
    """What figures depend on, without anything that names a machine."""
    from ppedge.attention.pooling import backend

    return {
        "cores": usable_cores(),
        "simd": backend(),
        "system": platform.system(),
        "architecture": platform.machine(),
        "python": platform.python_version(),
    }


def _times(run: Run) -> dict[str, float]:
    return {"first_seconds": run.first, "last_seconds": run.whole}


# --- what is shown ---


def lines(report: dict[str, Any]) -> Iterator[str]:
    """The report as a table of text."""
    where, peak, cold = report["machine"], report["peak_bytes"], report["cold_start"]
    yield f"model {Path(report['model']).name}, plug {report['plug']}"
    yield (
        f"{where['cores']} cores, {where['simd']}, {where['system']} {where['architecture']}; "
        f"medians of {report['rounds']}"
    )
    yield from ("", "new process")
    yield _row("ppedge --help", _ms(report["help_seconds"]))
    yield _row("import ppedge", _ms(report["import_seconds"]))
    yield _row("import Personalizer", _ms(report["import_personalizer_seconds"]))
    for name, times in ((f"{cold['notes']} notes", cold), ("bare", cold["bare"])):
        yield _row(f"first token, {name}", _ms(times["first_seconds"]))
        yield _row(f"last token, {name}", _ms(times["last_seconds"]))
    yield from ("", "notes")
    rate = report["encoded_notes_per_second"]
    yield _row("encoded", "no plug" if rate is None else f"{rate:.1f} notes/s")
    for name, seconds in report["sync_unchanged_seconds"].items():
        yield _row(f"sync, unchanged, {name}", _ms(seconds))
    yield from ("", "answers in an open process")
    for row in report["answers"]:
        first, rate = _ms(row["first_token_seconds"]), row["tokens_per_second"]
        yield _row(f"first token, {row['persona']}", f"{first}  x {row['ratio']:.2f}")
        yield _row(f"tokens a second, {row['persona']}", f"{rate:.1f}")
    yield from ("", "peak memory")
    yield _row("model file", _mb(peak["model_file"]))
    yield _row("generating", _mb(peak["generating"]))
    yield _row("encoding", _mb(peak["encoding"]))


def _row(name: str, figure: str) -> str:
    return f"  {name:<32}{figure:>14}"


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:.0f} ms"


def _mb(size: int | None) -> str:
    return "not known" if size is None else f"{size / 1e6:.0f} MB"
