"""The entry of the command `ppedge`, also as `python -m ppedge`."""

import signal
import sys
from types import FrameType


def main() -> None:
    """Run the command; Ctrl-C ends it quietly, even while Python is still importing."""
    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        # What nohup has made deaf stays deaf.
        if number is not None and signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, _leave)
    try:
        from ppedge.cli.main import main as command

        command(prog_name="ppedge")
    except KeyboardInterrupt:
        sys.exit(130)


def _leave(number: int, frame: FrameType | None) -> None:
    # Dying on the spot would leave notes that came from stdin in the temporary folder.
    sys.exit(128 + number)


if __name__ == "__main__":
    main()
