"""The command of docs/reliability.md, in its short form."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.reliability.__main__ import PARTS, main
from tests.reliability.kills import Operation, compare
from tests.reliability.page import SECTIONS, page

PAGE = Path(__file__).parents[2] / "docs" / "reliability.md"


@pytest.mark.parametrize("name", [name for name, part in PARTS.items() if part.quick])
def test_a_little_of_each_part_finds_nothing_wrong(name: str, tmp_path: Path) -> None:
    out = tmp_path / "found.json"
    assert main(["--quick", "--only", name, "--json", str(out)]) == 0
    told = json.loads(out.read_text())[name]
    assert told["wrong"] == []
    assert told["figures"]
    assert SECTIONS[name](told).startswith("## ")


def test_the_page_has_a_section_for_every_part() -> None:
    assert list(SECTIONS) == list(PARTS)
    text = PAGE.read_text(encoding="utf-8")
    assert text.count("\n## ") == len(PARTS), "run `python -m tests.reliability` for the whole page"
    assert "## What went wrong" not in text


def test_what_went_wrong_is_told_on_the_page() -> None:
    figures: dict[str, Any] = {"executions": 5, "crashes": 1}
    told = {"native": {"figures": figures, "wrong": ["ended with -11"], "seconds": 1}}
    assert "- native: ended with -11" in page(told, "a machine")


@pytest.mark.parametrize(
    ("now", "said"),
    [
        ({"a": "1", "b": "2"}, []),
        ({"a": "1"}, ["lost b"]),
        ({"a": "1", "b": "x"}, ["half of b"]),
        ({"a": "1", "b": "2", "c": "?"}, ["half of c"]),
    ],
)
def test_a_lost_or_half_written_note_would_be_seen(now: dict[str, str], said: list[str]) -> None:
    before, operation = {"a": "1", "b": "2"}, Operation(["add"], {"a": "1", "b": "2", "c": "3"})
    found = compare(before, operation, now, ended=False)
    assert len(found) == len(said)
    assert all(words in line for words, line in zip(said, found, strict=True))
