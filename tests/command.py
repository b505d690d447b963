"""Runs the installed command `ppedge` as a person's shell would."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

PPEDGE = Path(sys.executable).with_name("ppedge")
SECONDS = 120

# Makes the command note down each note that it encodes.
COUNTER = """
import os
from ppedge.plug.encoder import TextEncoder
encode = TextEncoder.note
def counted(self, note):
    with open(os.environ["ENCODED"], "a", encoding="utf-8") as log:
        log.write(note.output + "\\n")
    return encode(self, note)
TextEncoder.note = counted
"""


@dataclass
class Command:
    """`ppedge` with a data folder of its own, whose commands may take so many seconds.

    ``env`` is added to the environment.
    """

    home: Path
    env: dict[str, str] = field(default_factory=dict)
    seconds: float = SECONDS
    program: ClassVar[Path] = PPEDGE

    def environment(self, **more: str) -> dict[str, str]:
        # Some libraries behave better when they see that they are tested.
        hidden = ("CI", "GITHUB_ACTIONS", "ORT_DISABLE_TELEMETRY")
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith("PPEDGE_") and name not in hidden
        }
        return {**kept, "PPEDGE_HOME": str(self.home), **self.env, **more}

    def __call__(
        self, *arguments: str | bytes | Path, stdin: bytes = b"", **env: str
    ) -> subprocess.CompletedProcess[bytes]:
        """Run it to its end; whatever happens, nobody may see a traceback."""
        done = subprocess.run(
            [self.program, *arguments],
            input=stdin,
            capture_output=True,
            env=self.environment(**env),
            timeout=self.seconds,
            check=False,
        )
        assert b"Traceback" not in done.stderr, done.stderr.decode()
        return done

    def good(self, *arguments: str | Path, stdin: bytes = b"", **env: str) -> str:
        """Run it, expecting exit code 0; return stdout."""
        done = self(*arguments, stdin=stdin, **env)
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout.decode()

    def json(self, *arguments: str | Path, stdin: bytes = b"", **env: str) -> Any:
        """Run it with --json, expecting exit code 0 and one line of JSON."""
        out = self.good(*arguments, "--json", stdin=stdin, **env)
        assert out.count("\n") == 1
        return json.loads(out)

    def error(
        self, *arguments: str | bytes | Path, code: int = 1, stdin: bytes = b"", **env: str
    ) -> str:
        """Run it, expecting to fail with nothing on stdout; return its one line of error."""
        done = self(*arguments, stdin=stdin, **env)
        assert (done.returncode, done.stdout) == (code, b""), done.stderr.decode()
        *_, last = done.stderr.decode().splitlines()
        assert last.startswith("Error: ")
        return last

    def encoded(self, *arguments: str | Path, folder: Path) -> list[str]:
        """Run it; return the outputs of the notes that went through the encoder."""
        (folder / "sitecustomize.py").write_text(COUNTER)
        log = folder / "encoded.log"
        log.unlink(missing_ok=True)
        self.good(*arguments, PYTHONPATH=str(folder), ENCODED=str(log))
        return log.read_text("utf-8").splitlines() if log.exists() else []

    def start(self, *arguments: str | Path, **env: str) -> subprocess.Popen[bytes]:
        """Start it, with pipes at stdin, stdout and stderr."""
        # A child inherits "ignored"; a shell's job in the foreground ignores neither.
        before = {
            signal.SIGINT: signal.signal(signal.SIGINT, signal.default_int_handler),
            signal.SIGHUP: signal.signal(signal.SIGHUP, signal.SIG_DFL),
        }
        try:
            return subprocess.Popen(
                [self.program, *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=self.environment(**env),
            )
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
