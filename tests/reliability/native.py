"""The C API on inputs from a fixed seed, under the address and undefined-behaviour sanitizers."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

from tests.reliability.setting import Found, scratch

ROOT = Path(__file__).parents[2]
TARGET = "fuzz_seeded"


def run(count: int) -> Found:
    """Build the fuzz target of ``tests/native`` and give it so many inputs.

    Where there is no CMake nothing is run, and the figures say so.
    """
    if shutil.which("cmake") is None:
        return Found({"executions": 0, "not run": "there is no cmake here"})
    with scratch() as folder:
        options = ["-DCMAKE_BUILD_TYPE=RelWithDebInfo", "-DPPEDGE_SANITIZE=address,undefined"]
        for words in (
            ["cmake", "-S", str(ROOT), "-B", str(folder), *options],
            ["cmake", "--build", str(folder), "--target", TARGET],
        ):
            subprocess.run(words, check=True, capture_output=True)
        done = subprocess.run(
            [folder / "tests" / "native" / TARGET, str(count)], capture_output=True, check=False
        )
    counted = re.fullmatch(rb"(\d+) inputs\n", done.stdout)
    found = Found({"executions": int(counted[1]) if counted else 0, "crashes": 0})
    if done.returncode or not counted:
        found.figures["crashes"] = 1
        found.wrong.append(f"ended with {done.returncode}: {done.stderr[-500:].decode()}")
    return found
