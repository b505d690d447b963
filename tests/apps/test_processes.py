"""A `Personalizer` and other processes: spawned, forked before it, forked from under it."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ppedge import Note, PpedgeError, Sampling
from ppedge.personalizer import Personalizer
from tests import tiny_gguf, tiny_plug

ROOT = Path(__file__).parents[2]
NOTES = [Note("the bread is out.", id="1"), Note("no rain today", id="2")]


def answer(opened: Personalizer, persona: str) -> str:
    """An answer from notes; or what is wrong, in one line."""
    try:
        with opened.persona(Path(persona)) as notes:
            notes.add(NOTES, opened.plug.encode_notes)
            return "said " + opened.stream("rain", notes, Sampling(seed=1, max_tokens=4)).read()
    except PpedgeError as error:
        return f"{type(error).__name__}: {error}"


def open_and_answer(model: str, plug: str, persona: str, answers: list[str]) -> None:
    """What another process does with a `Personalizer` of its own."""
    try:
        with Personalizer.open(model, plug, n_threads=2) as opened:
            answers.append(answer(opened, persona))
    except PpedgeError as error:
        answers.append(f"{type(error).__name__}: {error}")


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    model = tiny_gguf.write(tmp_path / "tiny.gguf")
    return [str(model), str(tiny_plug.write(tmp_path / "plug", model)), str(tmp_path / "persona")]


def answers_of(way: str, files: list[str]) -> list[str]:
    """The answers of this process and of another, in a program that has done nothing else."""
    done = subprocess.run(
        [sys.executable, __file__, way, *files],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.parametrize("way", ["spawned", "forked before"])
def test_another_process_with_its_own_answers_the_same(way: str, files: list[str]) -> None:
    here, there = answers_of(way, files)
    assert here == there
    assert here.startswith("'said ")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.parametrize("way", ["forked after", "inherited"])
def test_a_fork_of_a_process_that_ran_a_model_is_told_so_and_does_not_hang(
    way: str, files: list[str]
) -> None:
    here, there, again = answers_of(way, files)
    assert "ModelError" in there
    assert "start it by the method spawn" in there
    assert here == again, "the process that forked goes on"


def _main(way: str, files: list[str]) -> None:
    model, plug, persona = files
    context = multiprocessing.get_context("spawn" if way == "spawned" else "fork")
    with multiprocessing.get_context("spawn").Manager() as manager:
        answers = manager.list()
        other = context.Process(target=open_and_answer, args=(*files, answers))
        if way == "forked before":
            other.start()
            other.join()
        with Personalizer.open(model, plug, n_threads=2) as opened:
            here = [answer(opened, persona)]
            if way == "inherited":
                other = context.Process(target=lambda: answers.append(answer(opened, persona)))
            if way != "forked before":
                other.start()
                other.join(60)
                other.kill()
            if way in ("forked after", "inherited"):
                here.append(answer(opened, persona))
        print("\n".join(map(repr, [here[0], *answers, *here[1:]])))


if __name__ == "__main__":
    _main(sys.argv[1], sys.argv[2:])
