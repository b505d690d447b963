"""Where a long run stands, on one line of a terminal."""

from __future__ import annotations

import sys
import time

from ppedge.closable import Closable

_SECONDS_BETWEEN = 0.2
_BAR = 20  # characters


class Bar(Closable):
    """A progress bar on stderr where that is a terminal; it says nothing elsewhere.

    Args:
        total: steps that there are.
    """

    def __init__(self, total: int) -> None:
        self._total = max(1, total)
        self._begun = time.monotonic()
        self._shown = 0.0
        self._worked = 0
        self._width = 0

    def __call__(self, done: int, label: str, *, worked: int) -> None:
        """Show that ``done`` steps are behind and ``label`` is under way.

        Args:
            done: steps done, those of an earlier, stopped run among them.
            label: what is being done.
            worked: steps done now; the time left is judged by these.
        """
        now = time.monotonic()
        if not sys.stderr.isatty() or now - self._shown < _SECONDS_BETWEEN:
            return
        self._shown = now
        filled = "#" * (_BAR * done // self._total)
        line = f"[{filled:<{_BAR}}] {done}/{self._total}, {label}"
        if worked:
            left = (now - self._begun) / worked * (self._total - done)
            line += f", {_clock(left)} left"
        # Blanks wipe what a longer line before left standing.
        print(f"\r{line:<{self._width}}", end="", file=sys.stderr, flush=True)
        self._width = len(line)

    def close(self) -> None:
        """End the line, if one was begun."""
        if self._width:
            print(file=sys.stderr)


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}"
