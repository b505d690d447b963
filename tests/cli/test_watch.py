"""`ppedge watch`, by the installed command."""

from __future__ import annotations

import json
import os
import queue
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.command import Command

LONG_AGO = 1_700_000_000


def put(path: Path, text: str) -> None:
    """Write a file that rests since long ago; it takes its name when it is whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f".{path.name}.new")
    new.write_text(text, encoding="utf-8")
    os.utime(new, (LONG_AGO, LONG_AGO))
    new.replace(path)


@pytest.fixture
def vault(tmp_path: Path) -> Path:
    put(tmp_path / "vault" / "a.md", "the bread is out #bread")
    put(tmp_path / "vault" / "b.txt", "no rain today")
    return tmp_path / "vault"


def texts(ppedge: Command, *words: str) -> set[str]:
    out = ppedge.good("notes", "list", "--json", *words)
    return {json.loads(line)["output"] for line in out.splitlines()}


BOTH = {"the bread is out #bread", "no rain today"}


def test_once_brings_a_persona_into_step(ppedge: Command, vault: Path) -> None:
    there = ("--persona", "work")
    assert ppedge.good("watch", vault, "--once", *there) == "added 2, encoded 2, notes 2\n"
    assert ppedge.good("watch", vault, "--once", *there) == "nothing to do\n"
    (vault / "b.txt").unlink()
    put(vault / "c.jsonl", '{"text": "one line"}\n')
    report = ppedge.json("watch", vault, "--once", *there)
    assert (report["added"], report["removed"], report["notes"]) == (1, 1, 2)
    assert texts(ppedge, *there) == {"the bread is out #bread", "one line"}
    assert texts(ppedge, *there, "--only", "tag:bread") == {"the bread is out #bread"}
    ppedge.good("personalize", *there, "--max-tokens", "3", "write about rain")


def test_once_waits_for_a_file_that_was_just_written(ppedge: Command, vault: Path) -> None:
    (vault / "new.md").write_text("just written")
    assert ppedge.good("watch", vault, "--once").startswith("added 3")


def test_once_fails_where_a_file_cannot_be_read_and_takes_the_others(
    ppedge: Command, vault: Path
) -> None:
    (vault / "bad.md").write_bytes(b"gr\xfc\xdf")
    os.utime(vault / "bad.md", (LONG_AGO, LONG_AGO))
    done = ppedge("watch", vault, "--once")
    assert done.returncode == 1
    assert done.stdout == b"added 2, encoded 2, notes 2\n"
    assert done.stderr.count(b"bad.md, line 1: byte 0xfc is not UTF-8") == 1
    assert texts(ppedge) == BOTH


def test_once_refuses_to_forget_everything(ppedge: Command, vault: Path) -> None:
    ppedge.good("watch", vault, "--once")
    for entry in vault.iterdir():
        entry.unlink()
    done = ppedge("watch", vault, "--once")
    assert done.returncode == 1
    assert b"holds no note any more, so nothing is forgotten" in done.stderr
    assert texts(ppedge) == BOTH
    assert len(ppedge.json("notes", "forget", "--only", "folder:vault", "--yes")["ids"]) == 2
    assert ppedge.good("watch", vault, "--once") == "nothing to do\n"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("absent",), "does not exist"),
        ((".", "--format", "mbox"), "'mbox' is not one of"),
        ((".", "--interval", "0"), "not in the range"),
        ((".", "--interval", "nan"), "not a finite number"),
        ((".", "--persona", "a:b"), "cannot be the name of a persona"),
    ],
)
def test_wrong_usage_is_one_line(ppedge: Command, words: tuple[str, ...], said: str) -> None:
    assert said in ppedge.error("watch", *words, "--once", code=2)
    assert not ppedge.home.exists()


# --- on and on ---


class Running:
    """A watch in a process of its own, and its lines as they come."""

    def __init__(self, ppedge: Command, *words: str | Path) -> None:
        self.process = ppedge.start("watch", *words, "--interval", "0.1")
        self.out, self.err = queue.Queue[str](), queue.Queue[str]()
        self.threads = [
            threading.Thread(target=self._read, args=each)
            for each in ((self.process.stdout, self.out), (self.process.stderr, self.err))
        ]
        for thread in self.threads:
            thread.start()
        assert "watching " in self.err.get(timeout=60)

    @staticmethod
    def _read(stream, lines: queue.Queue[str]) -> None:
        for line in stream:
            lines.put(line.decode())

    def end(self, number: int = signal.SIGINT) -> int:
        self.process.send_signal(number)
        return self.ended()

    def ended(self) -> int:
        """Exit code of a watch that ends by itself."""
        code = self.process.wait(60)
        for thread in self.threads:
            thread.join()
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            assert stream
            stream.close()
        return code


@pytest.fixture
def running(ppedge: Command, vault: Path) -> Iterator[Running]:
    watch = Running(ppedge, vault)
    yield watch
    if watch.process.poll() is None:
        watch.end(signal.SIGKILL)


def test_it_follows_until_ctrl_c_and_ends_with_130(
    running: Running, ppedge: Command, vault: Path
) -> None:
    assert running.out.get(timeout=60) == "added 2, encoded 2, notes 2\n"
    put(vault / "c.md", "something new")
    assert running.out.get(timeout=60) == "added 1, encoded 1, notes 3\n"
    assert "something new" in texts(ppedge)
    (vault / "c.md").unlink()
    assert running.out.get(timeout=60) == "removed 1, notes 2\n"
    assert running.end() == 130
    assert running.err.get(timeout=9) == "Aborted!\n"
    assert running.err.empty()
    assert texts(ppedge) == BOTH


def test_a_folder_that_goes_away_for_a_moment_costs_nothing(
    running: Running, ppedge: Command, vault: Path
) -> None:
    running.out.get(timeout=60)
    away = vault.with_name("away")
    vault.rename(away)
    said = running.err.get(timeout=60)
    assert "not a folder; name a folder of notes; trying again" in said
    time.sleep(0.5)
    assert texts(ppedge) == BOTH
    away.rename(vault)
    assert running.err.get(timeout=60) == "ppedge: it works again\n"
    put(vault / "c.md", "something new")
    assert running.out.get(timeout=60) == "added 1, encoded 1, notes 3\n"
    assert running.end() == 130
    assert texts(ppedge) == {*BOTH, "something new"}


def test_two_at_once_and_a_command_beside_them(
    running: Running, ppedge: Command, vault: Path, tmp_path: Path
) -> None:
    running.out.get(timeout=60)
    other = tmp_path / "other"
    put(other / "z.md", "from the other folder")
    second = Running(ppedge, other)
    assert second.out.get(timeout=60) == "added 1, encoded 1, notes 3\n"
    (tmp_path / "more.jsonl").write_text('{"text": "by hand"}\n')
    ppedge.good("notes", "add", tmp_path / "more.jsonl")
    for i in range(3):
        put(vault / f"v{i}.md", f"note v {i}")
        put(other / f"o{i}.md", f"note o {i}")
    deadline = time.monotonic() + 60
    wanted = {
        *BOTH,
        "from the other folder",
        "by hand",
        *(f"note {letter} {i}" for letter in "vo" for i in range(3)),
    }
    while texts(ppedge) != wanted and time.monotonic() < deadline:
        time.sleep(0.2)
    assert texts(ppedge) == wanted
    assert second.end() == 130
    assert running.end() == 130
    ppedge.good("notes", "verify")


def test_it_ends_when_its_persona_is_deleted(ppedge: Command, vault: Path) -> None:
    watch = Running(ppedge, vault, "--persona", "work")
    watch.out.get(timeout=60)
    ppedge.good("persona", "delete", "work", "--yes")
    put(vault / "c.md", "something new")
    assert "the persona is gone; so the watch ends" in watch.err.get(timeout=60)
    assert watch.ended() == 1
    assert ppedge.good("persona", "list") == ""


def test_a_killed_watch_goes_on_where_it_was(ppedge: Command, vault: Path) -> None:
    for i in range(200):
        put(vault / f"{i}.md", f"note {i} of the day")
    for delay in (0.0, 0.05, 0.1, 0.2):
        watch = Running(ppedge, vault)
        time.sleep(delay)
        watch.end(signal.SIGKILL)
    shutil.rmtree(vault / "none", ignore_errors=True)
    (vault / "7.md").unlink()
    ppedge.good("watch", vault, "--once")
    wanted = {f"note {i} of the day" for i in range(200)} - {"note 7 of the day"}
    assert texts(ppedge) == wanted | BOTH
    ppedge.good("notes", "verify")


def test_a_pipe_that_closes_ends_it_quietly(ppedge: Command, vault: Path) -> None:
    process = ppedge.start("watch", vault, "--interval", "0.1")
    assert process.stdout
    assert process.stderr
    process.stdout.close()
    put(vault / "c.md", "something new")
    try:
        process.wait(60)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    assert b"Traceback" not in process.stderr.read()
    process.stderr.close()
    assert process.stdin
    process.stdin.close()
