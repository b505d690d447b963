"""`ppedge bench`: the form of what it says, and how it ends; no figure is judged."""

from __future__ import annotations

import signal
import time
from pathlib import Path
from typing import Any

import pytest

from ppedge.cli.bench import lines
from ppedge.cli.made_notes import made_notes
from ppedge.cli.processes import Run, medians
from tests.command import SECONDS, Command

SMALLEST = ("--rounds", "1", "--notes", "0", "--notes", "2", "--max-tokens", "2")


@pytest.fixture
def tmp(tmp_path: Path) -> Path:
    """Where the command's temporary folders go."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    return folder


def test_json_holds_every_figure_and_nothing_is_left(ppedge: Command, tmp: Path) -> None:
    report = ppedge.json("bench", *SMALLEST, TMPDIR=str(tmp))
    assert report["rounds"] == 1
    assert report["machine"]["cores"] >= 1
    assert report["plug"] != "none"
    assert [row["persona"] for row in report["answers"]] == ["bare", "0 notes", "2 notes"]
    assert report["answers"][0]["ratio"] == 1
    assert set(report["sync_unchanged_seconds"]) == {"0 notes", "2 notes"}
    assert set(report["cold_start"]) == {"notes", "first_seconds", "last_seconds", "bare"}
    assert set(report["peak_bytes"]) == {"model_file", "generating", "encoding"}
    assert all(figure > 0 for figure in figures(report))
    assert list(tmp.iterdir()) == []
    assert not ppedge.home.exists()


def figures(value: Any) -> list[float]:
    """All numbers of a report."""
    if isinstance(value, dict):
        return [each for one in value.values() for each in figures(one)]
    if isinstance(value, list):
        return [each for one in value for each in figures(one)]
    return [value] if isinstance(value, int | float) else []


def test_without_a_plug_nothing_is_encoded(ppedge: Command) -> None:
    report = ppedge.json(
        "bench", "--plug", "none", "--rounds", "1", "--notes", "1", "--max-tokens", "1"
    )
    assert report["plug"] == "none"
    assert report["encoded_notes_per_second"] is None
    assert report["peak_bytes"]["encoding"] is None
    assert "no plug" in "\n".join(lines(report))


def test_the_table_names_what_was_measured() -> None:
    times = {"first_seconds": 1.5, "last_seconds": 2.0}
    row = {"first_token_seconds": 0.1, "ratio": 1.25, "tokens_per_second": 50.0}
    shown = lines(
        {
            "machine": {"cores": 2, "simd": "avx2", "system": "S", "architecture": "x"},
            "model": "/a/b.gguf",
            "plug": "p",
            "rounds": 3,
            "help_seconds": 0.1,
            "import_seconds": 0.02,
            "import_personalizer_seconds": 0.4,
            "cold_start": {"notes": 7, **times, "bare": times},
            "encoded_notes_per_second": 40.0,
            "sync_unchanged_seconds": {"7 notes": 0.004},
            "answers": [{"persona": "7 notes", **row}],
            "peak_bytes": {"model_file": 10**8, "generating": None, "encoding": 3 * 10**8},
        }
    )
    text = "\n".join(shown)
    for part in ("b.gguf", "100 ms", "first token, 7 notes", "x 1.25", "not known", "300 MB"):
        assert part in text


@pytest.mark.parametrize(
    "wrong",
    [
        ("--rounds", "0"),
        ("--notes", "-1"),
        ("--notes", "many"),
        ("--threads", "0"),
        ("--max-tokens", "0"),
    ],
    ids=" ".join,
)
def test_a_value_out_of_range_is_wrong_usage(ppedge: Command, wrong: tuple[str, str]) -> None:
    assert wrong[0] in ppedge.error("bench", *wrong, code=2)


@pytest.mark.parametrize("option", ["--model", "--plug"])
def test_a_missing_file_is_told_in_one_line(ppedge: Command, tmp: Path, option: str) -> None:
    told = ppedge.error("bench", *SMALLEST, option, "no-such-file", TMPDIR=str(tmp))
    assert "no-such-file" in told
    assert list(tmp.iterdir()) == []


def test_an_interruption_ends_it_and_clears_up(ppedge: Command, tmp: Path) -> None:
    process = ppedge.start("bench", "--rounds", "1000", "--notes", "2", TMPDIR=str(tmp))
    assert process.stderr is not None
    try:
        assert b"measuring" in process.stderr.readline()
        deadline = time.monotonic() + SECONDS
        while not list(tmp.glob("*/home")) and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=SECONDS)
    finally:
        process.kill()
    assert process.returncode == 130
    assert told.decode().strip() == "Aborted!"
    assert list(tmp.iterdir()) == []


def test_invented_notes_depend_on_their_number_alone() -> None:
    notes = made_notes(30)
    assert notes[:10] == made_notes(10)
    assert len({note.output for note in notes}) == len({note.id for note in notes}) == 30


def test_medians_are_of_times_and_the_peak_is_the_most() -> None:
    runs = [Run(1, 4, 10, b"a"), Run(3, 6, 30, b"b"), Run(2, 5, None, b"c")]
    assert medians(runs) == Run(2, 5, 30, b"c")
    assert medians([Run(1, 1, None, b"")]).peak_bytes is None
