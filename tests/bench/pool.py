"""Benchmark of the pooling kernel: ``python -m tests.bench.pool [--plot pool.svg]``.

Times ppedge in every storage format against numpy, torch SDPA and onnxruntime on the same rows,
and against the floor: reading the same bytes once. Each thread count runs in a process of its own,
since the peers fix theirs at import. All subjects take turns within a round and the best round
counts, so that what else the machine does harms all alike. Errors are relative (L2) to float64:
"error" on the float32 rows, before a storage format rounded them; "kernel" on the rows as stored.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from ctypes import CDLL
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from ppedge.attention.pooling import backend
from tests.bench.pool_plot import plot
from tests.bench.pool_subjects import (
    Call,
    build_floor,
    floor_calls,
    make_data,
    peer_calls,
    ppedge_calls,
    truth,
)

ROWS = (100, 1_000, 10_000, 20_000, 100_000, 1_000_000)
WIDTHS = (512, 576)


@dataclass
class Result:
    """The best time of one subject on one problem."""

    threads: int
    d_v: int
    n: int
    subject: str
    seconds: float
    error: float | None  # None for the floor
    kernel_error: float | None  # ppedge only


def timed(call: Call) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def distance(answer: object, expected: np.ndarray) -> float:
    """Return the relative L2 distance."""
    return float(np.linalg.norm(np.asarray(answer) - expected) / np.linalg.norm(expected))


def measure(
    library: CDLL, n: int, d_v: int, threads: int, seconds: float
) -> tuple[list[Result], list[str]]:
    """Time every subject in rounds, for about ``seconds`` and at least 3 rounds."""
    data = make_data(n, d_v)
    peers, missing = peer_calls(data, threads)
    subjects = ppedge_calls(data, threads) | peers
    answers = {name: call() for name, call in subjects.items()}
    exact = {name: truth(data, name) for name in data.keys}
    errors = {name: distance(answer, exact["f32"]) for name, answer in answers.items()}
    kernel_errors = {
        f"ppedge {name}": distance(answers[f"ppedge {name}"], exact[name]) for name in exact
    }
    best = dict.fromkeys(subjects, np.inf)
    with ThreadPoolExecutor(threads) as executor:
        floors = floor_calls(library, data, threads, executor)
        best |= {f"floor {name}": np.inf for name in floors}
        end = time.perf_counter() + seconds
        rounds = 0
        while rounds < 3 or (time.perf_counter() < end and rounds < 2000):
            for name, call in subjects.items():
                best[name] = min(best[name], timed(call))
            for name, calls in floors.items():
                best[f"floor {name}"] = min(best[f"floor {name}"], *map(timed, calls))
            rounds += 1
    results = [
        Result(threads, d_v, n, name, seconds, errors.get(name), kernel_errors.get(name))
        for name, seconds in best.items()
    ]
    return results, missing


# --- report ---------------------------------------------------------------------------------------


class Table:
    """Looks times up by (threads, d_v, n, subject)."""

    def __init__(self, results: Iterable[Result]) -> None:
        self.results = list(results)
        self.by_key = {(r.threads, r.d_v, r.n, r.subject): r for r in self.results}

    def problems(self) -> list[tuple[int, int, int]]:
        return list(dict.fromkeys((r.threads, r.d_v, r.n) for r in self.results))

    def seconds(self, problem: tuple[int, int, int], subject: str) -> float:
        return self.by_key[(*problem, subject)].seconds

    def peers(self, problem: tuple[int, int, int]) -> list[str]:
        return [
            r.subject
            for r in self.results
            if (r.threads, r.d_v, r.n) == problem and not r.subject.startswith(("ppedge", "floor"))
        ]


def print_table(table: Table) -> None:
    for problem in table.problems():
        threads, d_v, n = problem
        print(f"\nn {n}, d_k 384, d_v {d_v}, {threads} thread{'s' * (threads > 1)}")
        print(f"  {'subject':18}{'ms':>10}{'x floor':>9}{'x f16':>8}{'error':>10}{'kernel':>10}")
        f16 = table.seconds(problem, "ppedge f16")
        for (t, w, rows, subject), result in table.by_key.items():
            if (t, w, rows) != problem or subject.startswith("floor"):
                continue
            floor = table.seconds(problem, f"floor {subject.split()[-1]}")
            kernel = "" if result.kernel_error is None else f"{result.kernel_error:10.1e}"
            print(
                f"  {subject:18}{result.seconds * 1e3:10.3f}{result.seconds / floor:9.2f}"
                f"{result.seconds / f16:8.2f}{result.error:10.1e}{kernel}"
            )


@dataclass
class Goal:
    """A goal, its bound, and the figure of each problem that it speaks of."""

    text: str
    bound: float
    at_least: bool
    figures: dict[str, float]

    def line(self) -> str:
        good = [
            f >= self.bound if self.at_least else f <= self.bound for f in self.figures.values()
        ]
        worst = (min if self.at_least else max)(self.figures, key=self.figures.__getitem__)
        verdict = "met" if all(good) else f"missed {good.count(False)} of {len(good)}"
        return f"  {verdict:16}{self.text}; worst {self.figures[worst]:.3g} at {worst}"


def goals(table: Table) -> list[Goal]:
    problems = {
        f"n {n}, d_v {d_v}, {t} thread{'s' * (t > 1)}": (t, d_v, n)
        for t, d_v, n in table.problems()
    }
    large = {name: p for name, p in problems.items() if p[2] >= 20_000}
    single = {name: p for name, p in large.items() if p[0] == 1}

    def ratio(over: str, under: str, chosen: dict[str, tuple[int, int, int]]) -> dict[str, float]:
        return {
            name: table.seconds(p, over) / table.seconds(p, under) for name, p in chosen.items()
        }

    best_peer = {
        name: min(table.seconds(p, peer) for peer in table.peers(p) if peer != "numpy f32")
        / table.seconds(p, "ppedge f16")
        for name, p in large.items()
        if len(table.peers(p)) > 1
    }
    slowest = {
        name: max(table.seconds(p, f"ppedge {f}") for f in ("f32", "f16", "bf16", "int8"))
        / table.seconds(p, "numpy f32")
        for name, p in problems.items()
    }
    found = [
        Goal("f16 within 1.25 x floor, n >= 20000", 1.25, False,
             ratio("ppedge f16", "floor f16", single)),
        Goal("f16 4 x faster than numpy f32, n >= 20000", 4, True,
             ratio("numpy f32", "ppedge f16", large)),
        Goal("f16 2 x faster than the best other peer, n >= 20000", 2, True, best_peer),
        Goal("int8 1.6 x faster than f16, n >= 20000", 1.6, True,
             ratio("ppedge f16", "ppedge int8", large)),
        Goal("no format slower than numpy f32 at any n", 1, False, slowest),
    ]  # fmt: skip
    for name, bound in (("f32", 1e-5), ("f16", 1e-3), ("int8", 1e-2)):
        rows = {text: table.by_key[(*p, f"ppedge {name}")] for text, p in problems.items()}
        kernel = {text: row.kernel_error or 0.0 for text, row in rows.items()}
        whole = {text: row.error or 0.0 for text, row in rows.items()}
        found.append(
            Goal(f"{name} error on the rows as stored below {bound:g}", bound, False, kernel)
        )
        found.append(Goal(f"{name} error with storage below {bound:g}", bound, False, whole))
    return [goal for goal in found if goal.figures]


# --- command line ---------------------------------------------------------------------------------


def run_worker(threads: int, arguments: argparse.Namespace) -> tuple[list[Result], list[str]]:
    limits = {f"{library}_NUM_THREADS": str(threads) for library in ("OPENBLAS", "OMP", "MKL")}
    command = [sys.executable, "-m", "tests.bench.pool", "--worker", str(threads)]
    command += ["--seconds", str(arguments.seconds), "--rows", *map(str, arguments.rows)]
    command += ["--widths", *map(str, arguments.widths)]
    results, missing = [], []
    with subprocess.Popen(
        command, env=os.environ | limits, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            message = json.loads(line)
            results += [Result(**result) for result in message["results"]]
            missing = message["missing"]
    if process.returncode != 0:
        sys.exit(f"the run with {threads} threads failed")
    return results, missing


def work(arguments: argparse.Namespace) -> None:
    library = build_floor()
    for d_v in arguments.widths:
        for n in arguments.rows:
            results, missing = measure(library, n, d_v, arguments.worker, arguments.seconds)
            message = {"results": [asdict(r) for r in results], "missing": missing}
            print(json.dumps(message), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="+", default=ROWS)
    parser.add_argument("--widths", type=int, nargs="+", default=WIDTHS, help="values of d_v")
    parser.add_argument("--threads", type=int, nargs="+", default=(1, 2))
    parser.add_argument("--seconds", type=float, default=3.0, help="for each problem, about")
    parser.add_argument("--plot", type=Path, help="write an SVG here")
    parser.add_argument("--worker", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker is not None:
        work(arguments)
        return
    results: list[Result] = []
    missing: list[str] = []
    for threads in arguments.threads:
        found, missing = run_worker(threads, arguments)
        results += found
    table = Table(results)
    print(f"backend {backend()}; peers missing: {', '.join(missing) or 'none'}")
    print_table(table)
    print("\ngoals")
    for goal in goals(table):
        print(goal.line())
    if arguments.plot is not None:
        arguments.plot.write_text(plot(results), encoding="utf-8")
        print(f"\nwrote {arguments.plot}")


if __name__ == "__main__":
    main()
