"""The window of `examples/desktop`, on an X server without a screen, with the default model."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from ppedge import Sampling

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "examples" / "desktop"
PICTURE = ROOT / "docs" / "img" / "desktop.png"
PROMPT = "write about rain"
SECONDS = 120

pytest.importorskip("tkinter", reason="this Python has no Tk; on Debian it is python3-tk")
if shutil.which("Xvfb") is None:
    pytest.skip("Xvfb is not installed (apt-get install xvfb)", allow_module_level=True)


@pytest.fixture(scope="module")
def modules() -> Iterator[tuple[ModuleType, ModuleType]]:
    """The two programs of the folder, imported as modules."""
    sys.path.insert(0, str(FOLDER))
    import screenshot  # type: ignore[import-not-found]
    import window  # type: ignore[import-not-found]

    yield window, screenshot
    sys.path.remove(str(FOLDER))


@pytest.fixture(scope="module")
def screen(
    modules: tuple[ModuleType, ModuleType], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, Path]]:
    """A display, and the file that holds what is drawn on it."""
    folder = tmp_path_factory.mktemp("screen")
    with modules[1].virtual_display(folder) as display:
        yield display, folder / "Xvfb_screen0"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("store") / "persona"


class Hand:
    """Types into a window and watches it; each turn of its event loop is timed."""

    def __init__(self, window: Any) -> None:
        self.window = window
        self.longest = 0.0
        self.seen: list[str] = []

    def turn(self) -> None:
        began = time.monotonic()
        self.window.root.update()
        self.longest = max(self.longest, time.monotonic() - began)
        text = self.window.answer.get("1.0", "end-1c")
        if not self.seen or self.seen[-1] != text:
            self.seen.append(text)
        time.sleep(0.002)

    def until(self, what: Callable[[], bool]) -> None:
        end = time.monotonic() + SECONDS
        while not what():
            assert time.monotonic() < end, self.window.status["text"]
            self.turn()
        self.turn()

    def rest(self) -> None:
        self.until(lambda: not self.window.busy)

    def type(self, text: str) -> None:
        self.window.prompt.focus_force()
        self.turn()
        for char in text:
            keysym = {" ": "space"}.get(char, char)
            self.window.root.focus_get().event_generate("<Key>", keysym=keysym)
        self.turn()

    def press(self, keys: str) -> None:
        self.window.root.focus_get().event_generate(keys)
        self.turn()


@pytest.fixture
def hand(
    modules: tuple[ModuleType, ModuleType], screen: tuple[str, Path], store: Path
) -> Iterator[Hand]:
    import tkinter

    window, shot = modules
    root = tkinter.Tk(screenName=screen[0])
    root.geometry(f"{shot.WIDTH}x{shot.HEIGHT}+0+0")
    writer = window.Writer(window.NOTES, store)
    yield Hand(window.Window(root, writer, Sampling(max_tokens=120, seed=7)))
    writer.close()
    root.destroy()


def test_a_prompt_that_is_typed_is_answered_piece_by_piece_with_its_notes(
    hand: Hand, modules: tuple[ModuleType, ModuleType], screen: tuple[str, Path]
) -> None:
    window = hand.window
    began = time.monotonic()
    hand.rest()
    n_notes = len(modules[0].NOTES.read_text("utf-8").splitlines())
    assert window.status["text"] == f"{n_notes} notes; type a prompt and press Ctrl+Enter"
    hand.type(PROMPT)
    assert window.prompt.get("1.0", "end-1c") == PROMPT
    hand.press("<Control-Return>")
    assert window.write_button.instate(["disabled"])
    assert window.stop_button.instate(["!disabled"])
    assert window.prompt.get("1.0", "end-1c") == PROMPT  # Not a line more.
    hand.rest()
    took = time.monotonic() - began
    assert window.status["text"] == "done"
    assert len(hand.seen) > 5
    assert all(
        later.startswith(earlier) for earlier, later in zip(hand.seen, hand.seen[1:], strict=False)
    )
    assert hand.seen[-1] == window.answer.get("1.0", "end-1c") != ""
    # It opened a model, read notes and wrote; no turn of the event loop waited for that.
    assert hand.longest < took / 3
    rows = [window.notes.item(row)["values"] for row in window.notes.get_children()]
    weights = [float(str(weight).rstrip("%")) for weight, _ in rows]
    assert len(rows) == 5
    assert weights == sorted(weights, reverse=True)
    assert weights[0] > 0
    notes = " ".join(modules[0].NOTES.read_text("utf-8").split())
    assert all(str(text)[:20] in notes for _, text in rows)
    # What was drawn is a picture of it.
    png = modules[1].png_of_xwd(screen[1].read_bytes())
    assert size_of(png) == (modules[1].WIDTH, modules[1].HEIGHT)
    assert len(png) > 5_000


def test_escape_stops_an_answer_and_keeps_what_was_written(hand: Hand) -> None:
    window = hand.window
    window.sampling = Sampling(max_tokens=1000, temperature=1, seed=3)
    hand.rest()
    hand.type("tell me everything")
    hand.press("<Control-Return>")
    hand.until(lambda: len(hand.seen[-1]) > 4)
    began = time.monotonic()
    hand.press("<Escape>")
    hand.rest()
    assert time.monotonic() - began < 10
    assert window.status["text"] == "stopped"
    written = window.answer.get("1.0", "end-1c")
    assert 4 < len(written) < 1000
    # It can be asked again, by keys alone.
    window.prompt.delete("1.0", "end")
    hand.press("<Control-Up>")
    assert window.prompt.get("1.0", "end-1c") == "tell me everything"
    hand.press("<Tab>")
    assert window.root.focus_get() is window.write_button
    window.sampling = Sampling(max_tokens=3, seed=3)
    hand.press("<space>")
    hand.press("<KeyRelease-space>")
    assert window.busy
    hand.rest()
    assert window.status["text"] == "as long as it may get"


def test_stopping_before_the_first_piece_stops_too(hand: Hand) -> None:
    hand.rest()
    hand.type(PROMPT)
    hand.press("<Control-Return>")
    hand.window.stop_button.invoke()
    hand.rest()
    assert hand.window.status["text"] == "stopped"
    assert len(hand.window.answer.get("1.0", "end-1c")) < 40


def test_nothing_is_asked_without_a_prompt_or_twice_at_once(hand: Hand) -> None:
    hand.rest()
    hand.type("  ")
    hand.press("<Control-Return>")
    assert not hand.window.busy
    hand.type(PROMPT)
    for _ in range(3):
        hand.press("<Control-Return>")
    hand.rest()
    assert hand.window.writer.told.empty()


def test_what_goes_wrong_is_a_line_in_the_window(hand: Hand) -> None:
    hand.rest()
    hand.window.prompt.insert("1.0", "word " * 4000)
    hand.press("<Control-Return>")
    hand.rest()
    assert hand.window.status["text"].startswith("Error: the prompt takes ")
    hand.window.prompt.delete("1.0", "end")
    hand.type(PROMPT)
    hand.press("<Control-Return>")
    hand.rest()
    assert hand.window.status["text"] == "done"


def run(folder: Path, display: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env={**os.environ, "DISPLAY": display, "PYTHONPATH": str(FOLDER)},
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )


def test_closing_it_in_the_middle_of_an_answer_ends_the_program(
    screen: tuple[str, Path], store: Path, tmp_path: Path
) -> None:
    """The program itself, with a person who presses Ctrl+Q at the first piece."""
    program = (
        "import sys, window\n"
        "class Watched(window.Window):\n"
        "    def _take_ready(self, n_notes):\n"
        "        super()._take_ready(n_notes)\n"
        "        self.prompt.focus_force()\n"
        "        self.prompt.insert('1.0', 'tell me everything')\n"
        "        self.prompt.event_generate('<Control-Return>')\n"
        "    def _take_piece(self, piece):\n"
        "        print('a piece', flush=True)\n"
        "        self.prompt.event_generate('<Control-q>')\n"
        "window.Window = Watched\n"
        f"sys.argv = ['window.py', '--store', {str(store)!r}, '--max-tokens', '1500']\n"
        "window.main()\n"
        "print('ended')\n"
    )
    done = run(tmp_path, screen[0], "-c", program)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "ended"
    assert done.stdout.startswith("a piece\n")
    assert done.stderr == ""


def test_without_a_desktop_or_notes_it_says_so(
    hand: Hand, modules: tuple[ModuleType, ModuleType], tmp_path: Path
) -> None:
    done = run(tmp_path, ":987", FOLDER / "window.py")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("Error: no window can be opened (")
    assert len(done.stderr.splitlines()) == 1
    hand.rest()
    window = hand.window
    other = modules[0].Writer(tmp_path / "missing.jsonl", tmp_path / "store")
    window.writer, before = other, window.writer
    window.busy, window.ready = True, False
    hand.until(lambda: window.status["text"].startswith("Error: "))
    assert "missing.jsonl" in window.status["text"]
    hand.type(PROMPT)
    hand.press("<Control-Return>")
    assert window.busy  # What could not be opened is not asked.
    other.close()
    window.writer = before
    assert not [each for each in threading.enumerate() if each.name.startswith("writer_1")]


def size_of(png: bytes) -> tuple[int, int]:
    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    width, height = struct.unpack(">2I", png[16:24])
    return width, height


def test_the_picture_of_the_documentation_is_small(
    modules: tuple[ModuleType, ModuleType],
) -> None:
    assert PICTURE.stat().st_size < 100_000
    assert size_of(PICTURE.read_bytes()) == (modules[1].WIDTH, modules[1].HEIGHT)
