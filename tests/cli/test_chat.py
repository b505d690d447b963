"""`ppedge chat`: a conversation through a pipe, and in a terminal where Ctrl-C counts."""

from __future__ import annotations

import fcntl
import os
import select
import signal
import subprocess
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from ppedge.blend import Blend
from ppedge.llm.sampling import Sampling
from ppedge.llm.segments import Text
from ppedge.notes.reader import Note
from ppedge.personalizer import Personalizer
from ppedge.turns.form import Turn
from tests import tiny_gguf
from tests.command import PPEDGE, Command

FIRST, SECOND = "write about rain", "and bread?"
NOTES = '{"text": "the bread is out."}\n{"text": "no rain today", "id": "r1"}\n'
SHORT = ("--max-tokens", "12", "--seed", "3")


@pytest.fixture
def history(tmp_path: Path) -> Path:
    path = tmp_path / "notes.jsonl"
    path.write_text(NOTES)
    return path


def said(*lines: str) -> bytes:
    return "".join(f"{line}\n" for line in lines).encode()


# --- through a pipe ---


def test_each_line_is_answered_as_personalize_answers_it(ppedge: Command, history: Path) -> None:
    shown = ppedge.good("chat", "--history", history, *SHORT, stdin=said(FIRST))
    text = ppedge.json("personalize", "--history", history, *SHORT, FIRST)["text"]
    assert shown == f"{text}\n"


def test_the_kept_notes_answer_where_no_file_is_given(ppedge: Command, history: Path) -> None:
    assert "no notes: give --history FILE" in ppedge.error("chat", code=2)
    ppedge.good("notes", "add", history)
    shown = ppedge.good("chat", *SHORT, stdin=said(FIRST))
    assert shown == ppedge.good("personalize", *SHORT, FIRST)


def test_what_was_said_stands_before_the_next_prompt(ppedge: Command) -> None:
    cold = ("--no-persona", "--temperature", "0", "--max-tokens", "12")
    first, second = (ppedge.good("personalize", *cold, prompt) for prompt in (FIRST, SECOND))
    shown = ppedge.good("chat", *cold, stdin=said(FIRST, SECOND))
    assert shown.startswith(first)
    assert shown.removeprefix(first) not in ("", second)


def test_again_takes_the_next_seed_and_forgets_the_first_answer(
    ppedge: Command, history: Path
) -> None:
    hot = ("--history", history, "--max-tokens", "12", "--temperature", "2")
    expected = [ppedge.good("personalize", *hot, "--seed", seed, FIRST) for seed in ("3", "4", "5")]
    shown = ppedge.good("chat", *hot, "--seed", "3", stdin=said(FIRST, "/again", "", "/again"))
    assert shown == "".join(expected)
    assert len(set(expected)) > 1


def test_after_the_largest_seed_comes_0(ppedge: Command) -> None:
    largest = str((1 << 32) - 2)
    words = ("chat", "--no-persona", "--max-tokens", "3", "--seed", largest)
    assert ppedge(*words, stdin=said(FIRST, "/again", "/again")).returncode == 0


def test_why_shows_what_ppedge_why_shows(ppedge: Command, history: Path) -> None:
    words = ("--history", history)
    shown = ppedge.good("chat", *words, *SHORT, stdin=said(FIRST, "/why"))
    why = ppedge.good("why", *words, FIRST)
    assert "r1" in why
    assert shown.endswith(why)
    for option in (("--no-persona",), ("--strength", "0", *words)):
        done = ppedge("chat", *option, *SHORT, stdin=said(FIRST, "/why"))
        assert f"{' '.join(map(str, option[:-2] or option))} leaves them all out" in (
            done.stderr.decode()
        )


def test_quit_ends_it_before_what_comes_after(ppedge: Command, history: Path) -> None:
    shown = ppedge.good("chat", "--history", history, stdin=said("", "  ", "/quit", FIRST))
    assert shown == ""


def test_help_names_the_commands_and_an_unknown_one_is_told(ppedge: Command) -> None:
    done = ppedge("chat", "--no-persona", stdin=said("/help", "/foo", "/again", "/why"))
    assert done.returncode == 0
    for command in ("/again", "/why", "/help", "/quit"):
        assert f"{command} " in done.stdout.decode()
    assert done.stderr.decode().splitlines() == [
        "ppedge: no command /foo; /help lists them",
        "ppedge: nothing was asked yet, so there is nothing for /again",
        "ppedge: nothing was asked yet, so there is nothing for /why",
    ]


def test_a_path_is_a_prompt_and_so_is_a_last_line_without_an_end(ppedge: Command) -> None:
    words = ("--no-persona", *SHORT)
    shown = ppedge.good("chat", *words, stdin=b"/etc/hosts, what is in it?\r")
    assert shown == ppedge.good("personalize", *words, "/etc/hosts, what is in it?")


def test_a_line_that_is_not_utf8_is_passed_over_with_a_word(ppedge: Command) -> None:
    words = ("--no-persona", *SHORT)
    done = ppedge("chat", *words, stdin=b"caf\xe9\n" + said(FIRST))
    assert done.returncode == 0
    assert b"is not UTF-8" in done.stderr
    assert done.stdout.decode() == ppedge.good("personalize", *words, FIRST)


def test_a_prompt_over_the_context_ends_a_pipe_with_one_line(ppedge: Command) -> None:
    message = ppedge.error("chat", "--no-persona", stdin=said("rain " * 2000, FIRST))
    assert "tokens, and 512 fit" in message


def test_the_history_cannot_be_what_is_typed(ppedge: Command) -> None:
    message = ppedge.error("chat", "--history", "-", code=2)
    assert "the history cannot come from stdin" in message


def test_a_conversation_longer_than_the_context_goes_on(ppedge: Command, history: Path) -> None:
    lines = said(*(f"what about number {i}?" for i in range(30)))
    done = ppedge("chat", "--history", history, *SHORT, stdin=lines)
    assert done.returncode == 0, done.stderr.decode()


# --- in a terminal ---


class Terminal:
    """`ppedge chat` at the far end of a terminal of its own, where Ctrl-C is a signal."""

    def __init__(self, run: subprocess.Popen[bytes], near: int) -> None:
        self.run, self._near = run, near
        self.shown = b""

    def type(self, keys: bytes) -> None:
        os.write(self._near, keys)

    def wait_for(self, text: bytes, seconds: float = 60) -> bytes:
        """Return all that was shown since the last time, up to ``text``."""
        began = time.monotonic()
        while text not in self.shown:
            left = began + seconds - time.monotonic()
            assert left > 0, self.shown[-2000:]
            if select.select([self._near], [], [], left)[0]:
                self.shown += os.read(self._near, 1 << 16)
        before, _, self.shown = self.shown.partition(text)
        return before

    def wait_for_input(self) -> None:
        """Wait until the program sleeps: a Ctrl-C just before it does so waits for the next key."""
        began, before = time.monotonic(), b""
        while True:
            name, _, now = Path(f"/proc/{self.run.pid}/stat").read_bytes().rpartition(b") ")
            assert time.monotonic() - began < 60, name
            state, *fields = now.split()
            times = b" ".join(fields[10:12])  # user and system time: fields 14 and 15 of all
            if state == b"S" and times == before:
                return
            before = times
            time.sleep(0.2)

    def end(self) -> int:
        """Take what else is shown; return the exit code."""
        began = time.monotonic()
        while self.run.poll() is None:
            assert time.monotonic() - began < 60, self.shown[-2000:]
            if select.select([self._near], [], [], 0.1)[0]:
                try:
                    self.shown += os.read(self._near, 1 << 16)
                except OSError:  # The far end is closed.
                    break
        return self.run.wait(10)


@contextmanager
def terminal(command: Command, *arguments: str | Path) -> Iterator[Terminal]:
    near, far = os.openpty()

    def own_terminal() -> None:
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)
        signal.signal(signal.SIGINT, signal.default_int_handler)

    run = subprocess.Popen(
        [PPEDGE, "chat", *arguments],
        stdin=far,
        stdout=far,
        stderr=far,
        env=command.environment(TERM="dumb"),
        start_new_session=True,
        preexec_fn=own_terminal,  # noqa: PLW1509
    )
    os.close(far)
    try:
        yield Terminal(run, near)
    finally:
        run.kill()
        run.wait()
        os.close(near)


@pytest.fixture
def endless(tmp_path: Path) -> list[str | Path]:
    """Options by which answers do not end: a model that spells "onagi onagi ..."."""
    pieces = [259, *(tiny_gguf.byte(value) for value in b"onagi")]
    model = tiny_gguf.script(tmp_path / "loop.gguf", pieces, n_ctx=1 << 18, loops=True)
    long = ["--context", "100000", "--max-tokens", "90000", "--temperature", "0"]
    return ["--model", model, "--plug", "none", "--no-persona", *long]


def test_ctrl_c_stops_the_answer_and_not_the_program(
    ppedge: Command, endless: list[str | Path]
) -> None:
    with terminal(ppedge, *endless) as screen:
        screen.wait_for(b"> ")
        for _ in range(2):
            screen.type(b"go on\n")
            screen.wait_for(b"onagi onagi")
            began = time.monotonic()
            screen.type(b"\x03")
            rest = screen.wait_for(b"\n> ")
            assert time.monotonic() - began < 10
            assert rest.count(b"onagi") < 14_000  # a whole answer has 15 000
            assert b"Traceback" not in rest
        screen.type(b"/quit\n")
        assert screen.end() == 0


@pytest.mark.parametrize("key", [b"\x03", b"\x04"], ids=["Ctrl-C", "Ctrl-D"])
def test_a_key_at_the_prompt_ends_it_well(ppedge: Command, key: bytes) -> None:
    with terminal(ppedge, "--no-persona", *SHORT) as screen:
        screen.wait_for(b"> ")
        screen.type(b"hello\n")
        screen.wait_for(b"\n> ")
        screen.wait_for_input()
        screen.type(key)
        assert screen.end() == 0
        assert b"Traceback" not in screen.shown
        assert b"Aborted" not in screen.shown


def test_in_a_terminal_a_prompt_that_does_not_fit_is_told_and_it_goes_on(ppedge: Command) -> None:
    with terminal(ppedge, "--no-persona", "--context", "64", *SHORT) as screen:
        screen.wait_for(b"> ")
        screen.type(b"rain " * 40 + b"\n")
        assert b"Error: the prompt takes" in screen.wait_for(b"\n> ")
        screen.type("grüß 🧀\n".encode())
        screen.wait_for(b"\n> ")
        screen.type(b"/quit\n")
        assert screen.end() == 0


# --- what the model is given ---


@pytest.fixture(scope="module")
def personalizer(files: tuple[Path, Path]) -> Iterator[Personalizer]:
    with Personalizer.open(*files, n_threads=1) as opened:
        yield opened


def given(
    personalizer: Personalizer, monkeypatch: pytest.MonkeyPatch, *arguments: Any, **more: Any
) -> str:
    """What the model is given for an answer, as text."""
    seen: list[Any] = []
    generate = personalizer.llm.generate

    def watched(segments: Any, *rest: Any, **also: Any) -> Any:
        seen.append(segments)
        return generate(segments, *rest, **also)

    with monkeypatch.context() as patch:
        patch.setattr(personalizer.llm, "generate", watched)
        answer = personalizer.stream(*arguments, Sampling(max_tokens=2, seed=1), **more)
    assert answer.read() is not None
    [segments] = seen
    assert answer.generation.prompt_tokens == len(personalizer.llm.tokens(segments))
    return "".join(each.text if isinstance(each, Text) else "[soft]" for each in segments)


def test_a_conversation_stands_between_the_turns_and_the_prompt(
    personalizer: Personalizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    talk = [Turn("who?", "me"), Turn("when?", "now")]
    bare = given(personalizer, monkeypatch, FIRST, None)
    both = given(personalizer, monkeypatch, FIRST, None, conversation=talk)
    assert bare == f"Q: {FIRST}\nA: "
    assert both.startswith("Q: who?\nA: me</s>\nQ: when?\nA: now</s>\nQ: ")
    assert both.endswith(bare)
    notes = [Note("my own words", input="how?"), Note("rain again", input="what?")]
    with personalizer.persona(tmp_path / "anna") as persona:
        persona.add(notes, personalizer.plug.encode_notes)
        plain = Blend(soft=False)
        own = given(personalizer, monkeypatch, FIRST, persona, blend=plain)
        whole = given(personalizer, monkeypatch, FIRST, persona, conversation=talk, blend=plain)
        soft = given(
            *(personalizer, monkeypatch, FIRST, persona),
            conversation=talk,
            strength=0.5,
        )
    parts = ("my own words", "rain again", "who?", "me", "when?", "now", FIRST)
    places = [whole.index(part) for part in parts]
    assert places[2:] == sorted(places[2:])
    assert max(places[:2]) < places[2]
    assert whole.startswith(own[: -len(bare)])
    assert "who?" in soft
    assert soft.endswith("[soft]")


def test_the_oldest_of_a_conversation_make_way(
    personalizer: Personalizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    talk = [Turn(f"question {i}?", f"reply {i}") for i in range(100)]
    text = given(personalizer, monkeypatch, FIRST, None, conversation=talk)
    answer = personalizer.stream(FIRST, None, Sampling(max_tokens=2), conversation=talk)
    kept = [i for i in range(100) if f"question {i}?" in text]
    assert kept == list(range(kept[0], 100))
    assert 0 < kept[0] < 99
    # As many as leave 256 of the 512 positions, and no fewer.
    room = personalizer.llm.n_ctx - 256 - answer.generation.prompt_tokens
    assert 0 <= room < len("Q: question 10?\nA: reply 10</s>\n")
    huge = [Turn("x" * 9000, "y"), Turn("small", "z")]
    assert "small" in given(personalizer, monkeypatch, FIRST, None, conversation=huge)
    assert "small" not in given(personalizer, monkeypatch, FIRST, None, conversation=huge[::-1])


def test_an_empty_conversation_changes_nothing(
    personalizer: Personalizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = given(personalizer, monkeypatch, FIRST, None)
    assert one == given(personalizer, monkeypatch, FIRST, None, conversation=[])
