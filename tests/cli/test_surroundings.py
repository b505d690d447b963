"""The command where things are not as usual: Python, terminal, clock, disk, other processes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from ppedge.store.files import writer_lock
from tests import tiny_gguf
from tests.cli.conftest import written
from tests.command import PPEDGE, Command

TEXTS = ["the bread is out.", "no rain today", "the bicycle sulks"]
ANSWER = ["personalize", "--max-tokens", "6", "--seed", "3", "rain"]

# Moves the clock of a command by so many seconds.
CLOCK = """
import os, time
shift = float(os.environ["CLOCK_SHIFT"])
real, real_ns = time.time, time.time_ns
time.time = lambda: real() + shift
time.time_ns = lambda: real_ns() + int(shift * 1e9)
"""
YEARS = 20 * 365 * 86400


@pytest.fixture
def kept(ppedge: Command, tmp_path: Path) -> Command:
    ppedge.good("notes", "add", written(tmp_path / "notes.jsonl", TEXTS))
    return ppedge


def whole(command: Command) -> int:
    """The number of notes that are kept, of which nothing is damaged."""
    report = command.json("notes", "verify")
    assert report["problems"] == []
    return int(report["notes"])


# --- Python, and the terminal ---


@pytest.mark.parametrize("options", ["-OO", "-W error -bb"])
def test_python_s_own_options_change_nothing(kept: Command, tmp_path: Path, options: str) -> None:
    wanted = kept.good(*ANSWER)
    new = written(tmp_path / "new.jsonl", [*TEXTS, "one more"])

    def run(*words: str | Path) -> str:
        command = [sys.executable, *options.split(), "-m", "ppedge", *words]
        done = subprocess.run(command, env=kept.environment(), capture_output=True, check=False)
        assert done.returncode == 0, done.stderr.decode()
        assert b"Traceback" not in done.stderr
        return done.stdout.decode()

    assert run(*ANSWER) == wanted
    assert run("notes", "add", new) == "added 1, unchanged 3, encoded 1, notes 4\n"
    assert "bear" in run("why", "rain")
    assert run("notes", "forget", "--yes", "3").startswith("forgot 1 notes, 3 are left")
    assert whole(kept) == 3


@pytest.mark.parametrize("words", [ANSWER, ["why", "rain"], ["notes", "list"], ["--help"]])
def test_a_narrow_terminal_without_colours_gets_plain_text(kept: Command, words: list[str]) -> None:
    terminal, end = os.openpty()
    env = kept.environment(NO_COLOR="1", COLUMNS="20", LINES="5", TERM="dumb")
    shown = bytearray()

    def read() -> None:
        with os.fdopen(terminal, "rb", buffering=0) as stream:
            try:
                while piece := stream.read(1 << 16):
                    shown.extend(piece)
            except OSError:
                return  # Linux tells the end of a terminal so.

    reader = threading.Thread(target=read)
    reader.start()
    done = subprocess.run([PPEDGE, *words], env=env, stdin=end, stdout=end, stderr=end, check=False)
    os.close(end)
    reader.join(60)
    assert done.returncode == 0
    assert shown.strip()
    assert b"\x1b" not in shown
    assert b"Traceback" not in shown


# --- the clock ---


def test_a_clock_that_is_set_back_loses_no_note(kept: Command, tmp_path: Path) -> None:
    vault = tmp_path / "vault"
    vault.mkdir()
    (tmp_path / "sitecustomize.py").write_text(CLOCK)
    wanted = kept.good(*ANSWER)
    for turn, shift in enumerate((YEARS, 0, -YEARS)):
        env = {"CLOCK_SHIFT": str(shift), "PYTHONPATH": str(tmp_path)}
        kept.good(*ANSWER, **env)
        (vault / f"{turn}.md").write_text(f"written in year {turn}")
        os.utime(vault / f"{turn}.md", (2_000_000_000, 2_000_000_000))  # 2033
        kept.good("watch", vault, "--persona", "watched", "--once", **env)
        lines = written(tmp_path / "more.jsonl", [*TEXTS, *map(str, range(10 + turn))])
        kept.good("notes", "add", lines, **env)
    kept.good("notes", "sync", tmp_path / "notes.jsonl")
    assert whole(kept) == len(TEXTS)
    assert kept.json("notes", "verify", "--persona", "watched") == {"notes": 3, "problems": []}
    assert kept.good(*ANSWER) == wanted


# --- the disk, and other processes ---


def test_a_store_that_another_process_is_changing_is_told_with_its_id(
    kept: Command, tmp_path: Path
) -> None:
    folder = kept.home / "personas" / "default"
    new = written(tmp_path / "new.jsonl", ["one more"])
    with writer_lock(folder / "lock", 5):
        for words in (("add", new), ("sync", new), ("forget", "--yes", "0")):
            message = kept.error("notes", *words)
            assert f"another process (id {os.getpid()}) is changing this persona" in message
        # Who only reads is not kept from it.
        assert kept.good(*ANSWER)
        assert "bread" in kept.good("notes", "list")
    assert whole(kept) == len(TEXTS)


def test_two_that_sync_one_history_at_once_leave_what_is_in_it(
    kept: Command, tmp_path: Path
) -> None:
    history = written(tmp_path / "notes.jsonl", (f"note {i}" for i in range(2000)))
    runs = [kept.start("notes", "sync", history) for _ in range(2)]
    runs += [kept.start(*ANSWER, "--history", history) for _ in range(2)]
    for run in runs:
        _, told = run.communicate(timeout=300)
        # One that had to wait for too long says so, and has changed nothing.
        assert run.returncode == 0 or b"is changing this persona" in told, told
    assert any(run.returncode == 0 for run in runs)
    kept.good("notes", "sync", history)
    assert whole(kept) == 2000


@pytest.mark.parametrize("blocks", [8, 60, 200])
def test_a_full_disk_is_one_line_and_what_was_stored_stays(
    kept: Command, tmp_path: Path, blocks: int
) -> None:
    """No file may grow beyond so many KiB, which is told as a full disk is."""
    new = written(tmp_path / "new.jsonl", (f"note {i} " * 20 for i in range(3000)))
    for words in (f"notes add '{new}'", f"notes sync '{new}'", f"import '{new}'"):
        done = subprocess.run(
            ["bash", "-c", f"ulimit -f {blocks}; exec '{PPEDGE}' {words}"],
            # Python would keep modules that are cut short, and stumble over them ever after.
            env=kept.environment(PYTHONDONTWRITEBYTECODE="1"),
            capture_output=True,
            check=False,
        )
        assert done.returncode == 1, done.stdout
        *_, last = done.stderr.decode().splitlines()
        assert last.startswith("Error: ")
        assert "free some disk space" in last
    texts = kept.good("notes", "list")
    assert whole(kept) >= len(TEXTS)
    assert all(text in texts for text in TEXTS)


def can_mount(folder: Path) -> bool:
    words = ["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(folder)]
    if not shutil.which("mount") or os.getuid() != 0:
        return False
    if subprocess.run(words, capture_output=True, check=False).returncode:
        return False
    subprocess.run(["umount", str(folder)], check=True)
    return True


@pytest.mark.parametrize("kind", ["full", "read-only"])
def test_a_disk_of_its_own_that_is_full_or_read_only(
    kept: Command, tmp_path: Path, kind: str
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if not can_mount(disk):
        pytest.skip("no disk can be mounted here")
    new = written(tmp_path / "new.jsonl", (f"note {i} " * 20 for i in range(3000)))
    size = "size=400k" if kind == "full" else "size=4m"
    subprocess.run(["mount", "-t", "tmpfs", "-o", size, "none", str(disk)], check=True)
    try:
        shutil.copytree(kept.home, disk / "home")
        if kind == "read-only":
            subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        there = Command(disk / "home", kept.env)
        for words in (("notes", "add", new), ("notes", "sync", new), ("import", new)):
            message = there.error(*words)
            assert str(disk) in message
            assert "disk space" in message or "for reading only" in message
        assert there.good(*ANSWER)
        assert whole(there) >= len(TEXTS)
    finally:
        subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.parametrize("name", ["notes.db", "keys.0", "values.0"])
def test_a_file_of_the_store_that_is_cut_is_told_or_harmless(kept: Command, name: str) -> None:
    path = kept.home / "personas" / "default" / name
    data, before = path.read_bytes(), kept.good("notes", "list")
    for share in (0, 0.13, 0.6, 0.999):
        path.write_bytes(data[: int(len(data) * share)])
        if kept("notes", "verify").returncode == 0:
            assert kept.good("notes", "list") == before
        assert kept(*ANSWER).returncode in (0, 1)
    path.write_bytes(data[: len(data) // 2])
    assert kept("notes", "verify").returncode == 1
    path.write_bytes(data)
    assert whole(kept) == len(TEXTS)


# --- plugs and models of anybody's making ---


def test_a_plug_json_that_means_the_same_leaves_what_is_kept_as_it_is(
    kept: Command, tmp_path: Path
) -> None:
    wanted = kept.good(*ANSWER)
    history = (*ANSWER, "--history", tmp_path / "notes.jsonl")
    assert kept.good(*history) == wanted
    plug = shutil.copytree(kept.env["PPEDGE_PLUG"], tmp_path / "edited")
    raw = json.loads((plug / "plug.json").read_text())
    raw |= {"name": "by another name", "written_by": "a later ppedge"}
    (plug / "plug.json").write_text(json.dumps(dict(reversed(raw.items())), indent=7) + "\n\n")
    env = {"PPEDGE_PLUG": str(plug)}
    for words in (ANSWER, history):
        done = kept(*words, **env)
        assert (done.stdout.decode(), done.stderr) == (wanted, b"")
    assert kept.good("notes", "sync", tmp_path / "notes.jsonl", **env) == "unchanged 3, notes 3\n"


CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
HOSTILE = "{% for a in range(10**9) %}{{ ''.__class__.__mro__[1].__subclasses__() }}{% endfor %}"
TEMPLATES = {"no template": "", "ChatML": CHATML, "a hostile template": HOSTILE}
REFUSED = {"bert", "gemma-embedding"}


@pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES.keys())
@pytest.mark.parametrize("architecture", tiny_gguf.TENSORS)
def test_every_architecture_answers_or_is_refused_in_one_line(
    ppedge: Command, tmp_path: Path, architecture: str, template: str
) -> None:
    model = tiny_gguf.write(tmp_path / "model.gguf", architecture, chat_template=template)
    history = written(tmp_path / "notes.jsonl", TEXTS)
    words = ["personalize", "--history", history, "--model", model, "--plug", "none",
             "--max-tokens", "4", "--seed", "1", "rain"]  # fmt: skip
    if architecture in REFUSED:
        assert "cannot write any" in ppedge.error(*words)
    else:
        assert ppedge.good(*words).endswith("\n")


# --- Ctrl-C ---


def test_ctrl_c_that_an_import_makes_an_error_of_its_own_ends_it_as_ever(
    kept: Command, tmp_path: Path
) -> None:
    """As onnxruntime does, whose own code in C takes KeyboardInterrupt for a failure."""
    notes = tmp_path / "notes.jsonl"
    notes.write_text('{"text": "the bread is out"}\n')
    (tmp_path / "onnxruntime.py").write_text(
        "import os, signal\n"
        "try:\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    while True:\n"
        "        pass\n"
        "except KeyboardInterrupt:\n"
        "    raise ImportError('initialization failed') from None\n"
    )
    commands = (["notes", "add", str(notes)], ANSWER)
    for words in commands:
        run = kept.start(*words, PYTHONPATH=str(tmp_path))
        _, told = run.communicate(timeout=120)
        assert run.returncode == 130
        assert b"Traceback" not in told
    (tmp_path / "onnxruntime.py").write_text("raise ImportError('no such library')\n")
    for words in commands:
        run = kept.start(*words, PYTHONPATH=str(tmp_path))
        _, told = run.communicate(timeout=120)
        assert run.returncode == 1
        assert b"no such library" in told


def test_ctrl_c_while_a_library_is_imported_ends_it_when_that_is_done(
    kept: Command, tmp_path: Path
) -> None:
    (tmp_path / "onnxruntime.py").write_text(
        "import os, signal, time\n"
        "os.kill(os.getpid(), signal.SIGINT)\n"
        "time.sleep(1)\n"
        "raise ImportError('initialization failed')\n"
    )
    run = kept.start(*ANSWER, PYTHONPATH=str(tmp_path))
    _, told = run.communicate(timeout=120)
    assert run.returncode == 130
    assert b"Traceback" not in told
