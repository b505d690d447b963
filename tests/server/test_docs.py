"""The examples in docs/server.md do what they say, against the notes of the example."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.command import Command
from tests.server.running import Running, running

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "server.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"^<!-- run -->\n```(\w+)\n(.*?)^```$", PAGE, re.M | re.S)


@pytest.fixture(scope="module")
def documented(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    command = Command(tmp_path_factory.mktemp("documented") / "home")
    command.good("notes", "add", ROOT / "examples" / "notes.jsonl")
    with running(command) as server:
        yield server


def test_there_are_examples() -> None:
    assert [language for language, _ in EXAMPLES] == ["python", "sh", "sh"]


@pytest.mark.parametrize(("language", "code"), EXAMPLES, ids=range(len(EXAMPLES)))
def test_an_example_works(documented: Running, language: str, code: str) -> None:
    if language == "sh" and shutil.which("curl") is None:
        pytest.skip("no curl on this machine: apt-get install curl")
    code = code.replace("http://127.0.0.1:8765", documented.base)
    run = {"python": [sys.executable, "-c"], "sh": ["sh", "-ec"]}[language]
    done = subprocess.run(
        [*run, code],
        env={**os.environ, "PPEDGE_TOKEN": documented.token},
        capture_output=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout.strip()


def test_the_first_words_of_the_page_are_what_a_start_shows(documented: Running) -> None:
    shown = [line.replace(documented.base, "http://127.0.0.1:8765") for line in documented.shown]
    for line in shown:
        assert line.replace(documented.token, "…") in PAGE.splitlines()


def test_the_limits_on_the_page_are_those_of_the_code() -> None:
    from ppedge.server.guard import Limits

    limits = Limits()
    for text in (
        f"wait for the model | {limits.waiting} |",
        f"connections | {limits.requests}, {limits.connections} |",
        f"a body | {limits.body_bytes >> 20} MiB, {limits.body_seconds:g} seconds |",
        f"head of a request | 16 KiB, {limits.head_seconds:g} seconds |",
        f"full buffer | {limits.stuck_seconds:g} seconds |",
        f"an answer | {limits.answer_seconds:g} seconds |",
    ):
        assert text in PAGE


def test_the_picture_is_small() -> None:
    picture = (ROOT / "docs" / "img" / "page.png").read_bytes()
    assert picture.startswith(b"\x89PNG")
    assert len(picture) < 150_000
