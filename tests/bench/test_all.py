"""The page of figures: what it says of fixed ones, and that a small run gives all that it needs."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest

from tests import tiny_gguf, tiny_plug
from tests.bench import growth
from tests.bench.all import Sizes, measure, write_page
from tests.bench.goals import Goal, goals
from tests.bench.page import page

SMALLEST = Sizes(
    rounds=1, personas=(0, 2), encoded=4, bulk=(2,), grown=(20, 40), pooled=(), max_tokens=2
)
CHANGES = {name: {"seconds": 0.5, "peak_mib": 1.0} for name in growth.CHANGES}


def answer(persona: str, ratio: float) -> dict[str, Any]:
    return {
        "persona": persona,
        "first_token_seconds": 0.1 * ratio,
        "ratio": ratio,
        "tokens_per_second": 50.0,
    }


def grown(notes: int, seconds: float) -> dict[str, Any]:
    return {
        "notes": notes,
        "first_token_seconds": seconds,
        "ratio_to_bare": 1.2,
        "cold_first_seconds": 2.0,
        "peak_bytes": 3 * 10**8,
        "changes": CHANGES,
    }


@pytest.fixture
def figures() -> dict[str, Any]:
    times = {"first_seconds": 1.5, "last_seconds": 2.0}
    where = {"cores": 2, "simd": "avx2", "system": "Linux", "architecture": "x86_64"}
    prompts = ("ppedge, persona", "Llama, plain", "Llama, BM25-4", "Llama, dense-4")
    return {
        "load": 0.1,
        "bench": {
            "machine": {**where, "python": "3.11"},
            "import_seconds": 0.04,
            "import_personalizer_seconds": 0.4,
            "help_seconds": 0.25,
            "cold_start": {"notes": 1000, **times, "bare": times},
            "answers": [answer("bare", 1.0), answer("1000 notes", 1.08)],
            "peak_bytes": {"model_file": 10**8, "generating": 4 * 10**8, "encoding": 10**8},
        },
        "encoding": {
            "notes": 1000,
            "threads": 2,
            "characters": 200,
            "notes_per_second": {"ppedge": 50.0, "fastembed": 20.0},
            "ratio": {"fastembed": 2.5},
            "cosine_of_peers": 1.0,
            "difference_to_torch": 1e-6,
        },
        "bulk": [{"notes": 1000, "seconds": 20.0, "rate": 50.0, "peak_bytes": 3 * 10**8}],
        "growth": [grown(100, 0.1), grown(10_000, 0.11), grown(100_000, 0.115)],
        "kept_turns": {
            "notes": 1000,
            "file_bytes": 9_400_000,
            "first_token_seconds": {"held": 0.12, "read anew": 4.0, "restored": 0.15},
        },
        "prompts": {
            "notes": 1000,
            "first_token_seconds": dict.fromkeys(prompts, 0.1),
            "ratio": dict.fromkeys(prompts, 0.3),
        },
        "second_run": {
            "notes": 10_000,
            "tokens": 40,
            "ppedge_seconds": 3.0,
            "plain_seconds": 2.0,
            "ratio": 1.5,
        },
        "pool": [{"notes": 1000, "threads": 2, "seconds": {"ppedge f16": 1e-4, "floor f16": 9e-5}}],
        "read_bytes_per_second": 2e10,
    }


def test_every_goal_stands_beside_its_figure_and_says_whether_it_is_reached(
    figures: dict[str, Any],
) -> None:
    verdicts = {goal.text: goal.is_reached for goal in goals(figures)}
    assert verdicts == {
        "first token, 1,000 notes, to the bare prompt": True,
        "first token, 1,000 notes, to BM25-4 in the prompt": True,
        "first token, 1,000 notes, to dense-4 in the prompt": True,
        "first token, 10,000 notes, to 100 notes": False,
        "first token, 100,000 notes, to 100 notes": True,
        "notes a second, to fastembed": True,
        "second `ppedge personalize` on 10,000 unchanged notes, "
        "to plain llama-cpp-python, 40 tokens each": False,
        "`import ppedge`": True,
        "`ppedge --help`": False,
        "peak memory while generating, over the GGUF": False,
        "peak memory while encoding 1,000 notes": True,
    }
    text = page(figures, {})
    for goal in goals(figures):
        assert goal.row() in text
    assert text.count("**missed**") == list(verdicts.values()).count(False)


def test_a_goal_of_at_least_is_reached_from_its_bound_on() -> None:
    assert Goal("speed", 2.0, 2.0, at_least=True).is_reached
    assert not Goal("speed", 1.9, 2.0, at_least=True).is_reached
    assert "≤ 150 ms" in Goal("import", 40, 150, unit="ms").row()


def test_the_page_shows_machine_peers_slopes_and_limits(figures: dict[str, Any]) -> None:
    text = page(figures, {})
    for part in (
        "2 cores, avx2",
        "20.0 GB/s",
        "2.50×",
        "forget one 0.00",
        "1,440,000 notes",
        "| restored | 150 ms |",
    ):
        assert part in text
    assert "first token 0.02" in text


def test_plots_are_drawn_of_the_same_figures(figures: dict[str, Any], tmp_path: Path) -> None:
    write_page(figures, tmp_path / "docs" / "performance.md")
    text = (tmp_path / "docs" / "performance.md").read_text("utf-8")
    for name in ("growth-time.svg", "growth-memory.svg"):
        assert f"](img/{name})" in text
        image = ElementTree.parse(tmp_path / "docs" / "img" / name)
        assert len(image.findall("{*}polyline")) >= 1


def test_a_slope_of_1_is_linear_and_of_0_constant() -> None:
    assert growth.slope([1, 10, 100], [9.0, 1.0, 10.0]) == pytest.approx(1)
    assert growth.slope([10, 100], [3.0, 3.0]) == 0


def test_a_small_run_without_peers_fills_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_gguf.write(tmp_path / "tiny.gguf")
    monkeypatch.setenv("PPEDGE_MODEL", str(model))
    monkeypatch.setenv("PPEDGE_PLUG", str(tiny_plug.write(tmp_path / "plug", model)))
    figures = measure(SMALLEST, peers=False)
    assert [row["notes"] for row in figures["growth"]] == [20, 40]
    assert figures["encoding"]["notes_per_second"].keys() == {"ppedge"}
    text = page(figures, {})
    assert figures["kept_turns"]["first_token_seconds"].keys() >= {"held", "restored", "read anew"}
    assert "## How cost grows" in text
    assert "## Pooling" not in text
