"""What an app gets when it imports ppedge: types, and little to wait for."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import ppedge

ROOT = Path(__file__).parents[2]
MAX_MILLISECONDS = 150
HEAVY = ("numpy", "onnxruntime", "llama_cpp", "tokenizers", "sqlite3", "asyncio", "click")


def test_importing_it_does_no_work() -> None:
    program = (
        "import sys, threading, ppedge\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules], threading.active_count())\n"
    )
    took = []
    for _ in range(3):
        done = subprocess.run(
            [sys.executable, "-X", "importtime", "-c", program],
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout == "[] 1\n"
        [cumulative] = re.findall(r"\| +(\d+) \| ppedge$", done.stderr, re.M)
        took.append(int(cumulative) / 1000)
    assert min(took) < MAX_MILLISECONDS


def test_it_says_that_it_is_typed() -> None:
    assert Path(ppedge.__file__).with_name("py.typed").is_file()


def test_the_examples_pass_a_strict_check_of_types(tmp_path: Path) -> None:
    """As an app's would, with nothing told to mypy but that it is strict."""
    apps = sorted((ROOT / "examples").rglob("*.py"))
    assert len(apps) >= 5
    results = tmp_path / "results.py"
    results.write_text(
        "from ppedge import Answer, Personalizer\n"
        "from typing import reveal_type\n"
        "async def read(personalizer: Personalizer) -> None:\n"
        "    answer = await personalizer.astream('hello', timeout=5)\n"
        "    reveal_type(answer)\n"
        "    reveal_type([piece async for piece in answer])\n"
        "    reveal_type(await answer.aread())\n"
        "    reveal_type(answer.finish)\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--config-file", os.devnull, *apps, results],
        cwd=tmp_path,
        env={**os.environ, "MYPYPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    revealed = re.findall(r'Revealed type is "(.*)"', done.stdout)
    assert done.returncode == 0, done.stdout
    assert [each.replace("builtins.", "") for each in revealed[:3]] == [
        "ppedge.answer.Answer",
        "list[str]",
        "str",
    ]
    assert re.findall(r"'(\w+)'", revealed[3]) == ["stop", "length", "cancelled", "timeout"]
