"""The entry of the command `ppedge`, also as `python -m ppedge`."""

import sys


def main() -> None:
    """Run the command; Ctrl-C ends it quietly, even while Python is still importing."""
    try:
        from ppedge.cli import main as command

        command(prog_name="ppedge")
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
