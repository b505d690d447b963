"""The examples of the pages, and the example programs, are run as a reader would run them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
APPS = ROOT / "examples" / "apps"
BLOCK = re.compile(r"^```python\n((?:import|from) .*?)^```$", re.M | re.S)
# What the blocks keep their notes in: a program that reads it again has nothing to encode.
STORE = ["--store", "my-persona"]
ARGUMENTS = dict.fromkeys(
    ("stream_to_terminal.py", "background_thread.py", "async_answers.py"), STORE
)


def blocks() -> list[tuple[str, str]]:
    """Those that begin with an import; the cheap one first, as the others go on from its store."""
    pages = [
        ROOT / name for name in ("docs/api.md", "README.md", "docs/architecture.md", "docs/apps.md")
    ]
    return [
        (f"{page.name}-{number}", code)
        for page in pages
        if page.is_file()
        for number, code in enumerate(BLOCK.findall(page.read_text(encoding="utf-8")), 1)
    ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the examples in it, as a reader has them."""
    folder = tmp_path_factory.mktemp("reader")
    shutil.copytree(ROOT / "examples", folder / "examples")
    return folder


def run(folder: Path, *arguments: str) -> str:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PPEDGE_")}
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env={**kept, "PPEDGE_HOME": str(folder / "home"), "PYTHONIOENCODING": "utf-8"},
        capture_output=True,
        encoding="utf-8",
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    assert "Error: " not in done.stdout
    assert "Traceback" not in done.stderr
    return done.stdout


def test_there_are_blocks_to_run() -> None:
    names = {name for name, _ in blocks()}
    assert {"api.md-1", "README.md-1", *(f"apps.md-{number}" for number in range(1, 6))} <= names


@pytest.mark.parametrize("code", [pytest.param(code, id=name) for name, code in blocks()])
def test_a_block_runs_as_it_stands(folder: Path, code: str) -> None:
    run(folder, "-c", code)


@pytest.mark.parametrize("app", sorted(APPS.glob("*.py")), ids=lambda path: path.name)
def test_a_program_runs(folder: Path, app: Path) -> None:
    out = run(folder, f"examples/apps/{app.name}", *ARGUMENTS.get(app.name, []))
    assert str(folder) not in out


def test_an_answer_in_the_background_can_be_cancelled(folder: Path) -> None:
    out = run(folder, "examples/apps/background_thread.py", *STORE, "--cancel-after", "0")
    assert out.endswith("(cancelled)\n")


@pytest.mark.parametrize("app", sorted(APPS.glob("*.py")), ids=lambda path: path.name)
def test_a_program_is_short_and_says_how_to_run_it(app: Path) -> None:
    text = app.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 60
    assert f"\npython examples/apps/{app.name}\n" in text
    assert not (set(re.findall(r"^from (ppedge\S*)", text, re.M)) - {"ppedge"})
