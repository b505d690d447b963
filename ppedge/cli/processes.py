"""Commands run as processes of their own and timed: what somebody at a terminal waits for."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import click

PPEDGE = (sys.executable, "-m", "ppedge")
_PATIENCE = 10.0
_IMPORT = "import time; began = time.perf_counter(); {}; print(time.perf_counter() - began)"


@dataclass(frozen=True, slots=True)
class Run:
    """One process, from its start.

    Attributes:
        first: seconds to the first byte on its stdout, or to its end where it wrote none.
        whole: seconds to its end.
        peak_bytes: the most resident memory that it had, mapped files included; None where the
            system does not say.
        out: what it wrote on stdout.
    """

    first: float
    whole: float
    peak_bytes: int | None
    out: bytes


def timed(command: Sequence[str], env: Mapping[str, str], errors: Path) -> Run:
    """Run a command to its end; an interruption ends it too.

    Args:
        command: program and arguments.
        env: the whole environment.
        errors: a file that takes its stderr; shown where the command fails.

    Raises:
        ClickException: it failed; says the last line of its stderr.
    """
    # Python may be told to compile every module anew; an installed program never waits for that.
    env = {name: value for name, value in env.items() if name != "PYTHONDONTWRITEBYTECODE"}
    began = time.perf_counter()
    with errors.open("w+b") as stderr:
        # A session of its own: Ctrl-C is this process's to handle, and to tell once.
        process = subprocess.Popen(
            command, env=env, stdout=subprocess.PIPE, stderr=stderr, start_new_session=True
        )
        try:
            assert process.stdout is not None
            with process.stdout as stream:
                out = os.read(stream.fileno(), 1 << 16)
                first = time.perf_counter() - began
                out += stream.read()
            code, peak = _end_of(process)
        except BaseException:
            _end(process)
            raise
        whole = time.perf_counter() - began
        if code:
            raise click.ClickException(_reason(stderr, command, code))
    return Run(first, whole, peak, out)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a process that is no longer wanted; it may first clear up."""
    process.terminate()
    try:
        process.wait(_PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _end_of(process: subprocess.Popen[bytes]) -> tuple[int, int | None]:
    """Exit code and peak memory of a process, which is waited for."""
    if sys.platform == "win32":
        return process.wait(), None
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    # Linux counts in KiB, and lets a process begin at its parent's size: measure from a small one.
    unit = 1 if sys.platform == "darwin" else 1024
    return process.returncode, usage.ru_maxrss * unit


def _reason(stderr: IO[bytes], command: Sequence[str], code: int) -> str:
    stderr.seek(0)
    lines = stderr.read().decode("utf-8", "replace").strip().splitlines()
    if lines:
        return lines[-1].removeprefix("Error: ")
    return f"a process ended with {code} while it was measured: {' '.join(command)}"


def repeated(command: Sequence[str], env: Mapping[str, str], errors: Path, rounds: int) -> Run:
    """The medians of a command's runs, after one that is not counted; peak memory is the most."""
    timed(command, env, errors)
    runs = [timed(command, env, errors) for _ in range(rounds)]
    return medians(runs)


def medians(runs: Sequence[Run]) -> Run:
    """The medians of several runs of one command; peak memory is the most, output the last."""
    peaks = [run.peak_bytes for run in runs if run.peak_bytes is not None]
    return Run(
        statistics.median(run.first for run in runs),
        statistics.median(run.whole for run in runs),
        max(peaks) if peaks else None,
        runs[-1].out,
    )


def import_seconds(statement: str, env: Mapping[str, str], errors: Path, rounds: int) -> float:
    """Median seconds that a statement takes in a new interpreter that has started already."""
    command = (sys.executable, "-c", _IMPORT.format(statement))
    timed(command, env, errors)
    return statistics.median(float(timed(command, env, errors).out) for _ in range(rounds))
