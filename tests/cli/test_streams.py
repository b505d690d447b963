"""What is written where nothing can be written is an error; a character is never cut in two."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests import tiny_gguf
from tests.cli.conftest import written
from tests.command import PPEDGE, Command

COMMANDS = [
    "personalize --history notes.jsonl --max-tokens 4 --seed 1 hi",
    "personalize --history notes.jsonl --max-tokens 4 --seed 1 --json hi",
    "notes list",
    "notes export",
    "import --dry-run notes.jsonl",
    "doctor",
    "--version",
    "notes --help",
]


@pytest.fixture
def kept(ppedge: Command, tmp_path: Path) -> Command:
    ppedge.good("notes", "add", written(tmp_path / "notes.jsonl", ["the bread is out", "rain"]))
    return ppedge


def ended(kept: Command, folder: Path, command: str, stdout: str) -> tuple[int, bytes]:
    """Exit code and stderr of a command, whose stdout is as a shell writes it."""
    done = subprocess.run(
        ["sh", "-c", f"'{PPEDGE}' {command} {stdout}"],
        cwd=folder,
        env=kept.environment(),
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        check=False,
    )
    assert b"Traceback" not in done.stderr
    assert b"Exception" not in done.stderr
    return done.returncode, done.stderr


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    ("stdout", "said"),
    [(">&-", b"stdout is closed"), (">/dev/full", b"No space left on device")],
    ids=["closed", "full"],
)
def test_a_stdout_that_takes_nothing_is_an_error(
    kept: Command, tmp_path: Path, command: str, stdout: str, said: bytes
) -> None:
    code, told = ended(kept, tmp_path, command, stdout)
    assert code == 1
    assert told.splitlines()[-1].startswith(b"Error: " + said)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_pipe_that_nobody_reads_is_an_error_without_a_word(
    kept: Command, tmp_path: Path, command: str
) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [PPEDGE, *command.split()],
        cwd=tmp_path,
        env=kept.environment(),
        stdin=subprocess.DEVNULL,
        stdout=writer,
        stderr=subprocess.PIPE,
        check=False,
    )
    os.close(writer)
    assert done.returncode == 1
    assert b"Error" not in done.stderr
    assert b"Traceback" not in done.stderr


def test_no_file_of_the_store_takes_the_place_of_a_stream_that_is_closed(
    kept: Command, tmp_path: Path
) -> None:
    """What a library prints would else be written into it."""
    (tmp_path / "sitecustomize.py").write_text(
        "from ppedge.store.persona import Persona\n"
        "add = Persona.add\n"
        "def printing(self, *given, **more):\n"
        "    import os\n"
        "    for number in (1, 2):\n"
        "        try:\n"
        "            os.write(number, b'printed by a library')\n"
        "        except OSError:\n"
        "            pass\n"
        "    return add(self, *given, **more)\n"
        "Persona.add = printing\n"
    )
    more = written(tmp_path / "more.jsonl", ["one more"])
    subprocess.run(
        ["sh", "-c", f"'{PPEDGE}' notes add '{more}' <&- >&- 2>&-"],
        env=kept.environment(PYTHONPATH=str(tmp_path)),
        check=False,
    )
    assert kept.json("notes", "verify")["problems"] == []
    assert "one more" in kept.good("notes", "list")
    files = [path.read_bytes() for path in kept.home.rglob("*") if path.is_file()]
    assert not any(b"printed by a library" in data for data in files)


# --- an emoji, whose four bytes are four tokens here ---


def spelling(folder: Path, text: str) -> list[str]:
    """Options of a model that spells a text byte by byte, and ends."""
    pieces = [tiny_gguf.byte(value) for value in text.encode()]
    model = tiny_gguf.script(folder / "spells.gguf", pieces)
    return ["personalize", "--no-persona", "--model", str(model), "--plug", "none",
            "--temperature", "0", "hi"]  # fmt: skip


def test_an_emoji_of_several_tokens_comes_in_one_piece(ppedge: Command, tmp_path: Path) -> None:
    run = ppedge.start(*spelling(tmp_path, "a🔥b"))
    assert run.stdout
    pieces = []
    while piece := os.read(run.stdout.fileno(), 100):
        pieces.append(piece.decode())  # No piece ends within a character.
    assert "".join(pieces) == "a🔥b\n"
    run.communicate()
    assert run.returncode == 0


def test_an_emoji_that_the_limit_cuts_is_left_out(ppedge: Command, tmp_path: Path) -> None:
    words = spelling(tmp_path, "a🔥b")
    # What the model says first, of a prompt that it does not know, cannot be seen.
    [first, *_] = (n for n in range(1, 9) if said(ppedge, words, n) == "a\n")
    cut = [said(ppedge, words, first + more) for more in range(5)]
    assert cut == ["a\n"] * 4 + ["a🔥\n"]


def said(ppedge: Command, words: list[str], tokens: int) -> str:
    return ppedge.good(*words, "--max-tokens", str(tokens))
