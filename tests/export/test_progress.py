"""The bar of a long run."""

import io

import pytest

from export.tools import progress
from export.tools.progress import Bar


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch):
    """Moves by hand."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_it_shows_how_far_and_how_long_still(monkeypatch, clock):
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    with Bar(total=40) as bar:
        clock[0] += 60
        bar(20, "question 5 of 10, persona", worked=10)
    # 10 steps in 60 s: the 20 that are left take 120 s.
    wanted = "[##########          ] 20/40, question 5 of 10, persona, 0:02:00 left"
    assert terminal.getvalue() == f"\r{wanted}\n"


def test_a_shorter_line_wipes_the_one_before_and_a_busy_one_waits(monkeypatch, clock):
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    with Bar(total=2) as bar:
        bar(0, "a long label", worked=0)
        bar(1, "never seen", worked=0)
        clock[0] += 1
        bar(1, "b", worked=0)
    first, second = terminal.getvalue().removesuffix("\n").split("\r")[1:]
    assert len(second) == len(first)
    assert second.rstrip().endswith("1/2, b")


def test_it_is_silent_where_nobody_looks(capsys):
    with Bar(total=2) as bar:
        bar(1, "x", worked=1)
    assert capsys.readouterr().err == ""
