"""The entry of the command `ppedge`, also as `python -m ppedge`."""

import errno
import io
import os
import signal
import sys
from types import FrameType
from typing import Any


def main() -> None:
    """Run the command; Ctrl-C ends it quietly, even while Python is still importing."""
    _fill_closed_streams()
    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        # What nohup has made deaf stays deaf.
        if number is not None and signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, _leave)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _interrupt)
    try:
        from ppedge.cli.main import main as command

        command(prog_name="ppedge")
    except KeyboardInterrupt:
        sys.exit(130)
    except ImportError:
        # C code that is being imported makes an error of its own of Ctrl-C.
        if not _interrupts:
            raise
        sys.exit(130)
    except OSError as error:
        # --help and --version write before any command is there to tell of it.
        sys.exit(f"Error: {error.strerror or error}")


def _fill_closed_streams() -> None:
    """Put something in place of standard streams that are closed.

    The next file that is opened would take a free number, and what a library prints would end up
    in it. Whatever is written to a stdout that is not there is an error, and no answer.
    """
    for number, flags in ((0, os.O_RDONLY), (1, os.O_RDONLY), (2, os.O_WRONLY)):
        try:
            os.fstat(number)
        except OSError as error:
            if error.errno == errno.EBADF:
                os.open(os.devnull, flags)  # It takes the lowest number that is free: this one.
    if sys.stdout is None:
        sys.stdout = io.TextIOWrapper(_Nowhere(), encoding="utf-8", write_through=True)
    if sys.stderr is None:
        sys.stderr = open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115


class _Nowhere(io.BufferedIOBase):
    """In place of a stdout that is closed."""

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        raise OSError(errno.EBADF, "stdout is closed, so there is nowhere to write to")


_interrupts: list[int] = []


def _interrupt(number: int, frame: FrameType | None) -> None:
    _interrupts.append(number)
    raise KeyboardInterrupt


def _leave(number: int, frame: FrameType | None) -> None:
    # Dying on the spot would leave notes that came from stdin in the temporary folder.
    sys.exit(128 + number)


if __name__ == "__main__":
    main()
