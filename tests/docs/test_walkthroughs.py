"""The commands of the pages that are marked ``<!-- run -->``, run as a reader would run them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^(?:<!-- run -->\n```sh\n|```python\n)(.*?)^```$", re.M | re.S)
PAGES = {"personas.md": 5, "watch.md": 1}

pytestmark = pytest.mark.skipif(os.name != "posix", reason="the blocks are for a POSIX shell")


def run(folder: Path, code: str) -> str:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PPEDGE_")}
    programs = str(Path(sys.executable).parent)
    shell = not code.startswith("from ")
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", code] if shell else [sys.executable, "-c", code],
        cwd=folder,
        env={
            **kept,
            "PATH": f"{programs}{os.pathsep}{kept['PATH']}",
            "PPEDGE_HOME": str(folder / "home"),
        },
        capture_output=True,
        encoding="utf-8",
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout


@pytest.mark.parametrize("page", PAGES)
def test_the_commands_of_a_page_run_one_after_another(page: str, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    blocks = BLOCK.findall((ROOT / "docs" / page).read_text(encoding="utf-8"))
    assert len(blocks) == PAGES[page]
    out = "".join(run(tmp_path, code) for code in blocks)
    wanted = {
        "personas.md": [
            "captain  ",
            "captain is now called Captain Haddon\n",
            "made captain-2 with ",
            "pinned 1 of 1 notes\n",
            "  pin  bread again.",
            "  mute  standup at nine.",
            "unmuted 1 of 2 notes\n",
            "['Captain Haddon', 'doctor', 'me']",
        ],
        "watch.md": [
            "added 1, encoded 1, notes 1\n",
            "added 1, removed 1, ",
            "A dry day, at last.",
        ],
    }
    for text in wanted[page]:
        assert text in out
