"""Nothing leaves the machine: no command, and no call, as much as tries to reach another one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.apps.conftest import PEOPLE
from tests.command import Command

# Python asks here before it connects, sends, or looks a name up; each try is written down and
# refused. What C code does without Python is looked at by a test of its own, below.
GUARD = """
import os, sys
LOG = os.environ["TRIED"]
def guard(event, args):
    if not event.startswith("socket."):
        return
    if event in ("socket.connect", "socket.sendto", "socket.sendmsg", "socket.bind"):
        address = args[1]
        if not isinstance(address, tuple) or str(address[0]) in ("127.0.0.1", "::1", "localhost"):
            return
    elif event not in ("socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr",
                       "socket.getnameinfo"):
        return
    with open(LOG, "a") as log:
        log.write(f"{event} {args[1:] if 'get' not in event else args}\\n")
    raise OSError(101, "refused by the test")
sys.addaudithook(guard)
"""
API = """
import asyncio, sys
from ppedge import Personalizer, Sampling, read_notes
async def main():
    with Personalizer.open() as personalizer, personalizer.persona(sys.argv[1]) as persona:
        persona.sync(read_notes(sys.argv[2]), personalizer.plug.encode_notes)
        answer = await personalizer.astream("hello", persona, Sampling(max_tokens=4))
        print(await answer.aread())
        print(len(personalizer.explain("hello", persona).turns))
        persona.forget(everything=True)
asyncio.run(main())
"""
SOCKETS = """
import os, sys
from ppedge import Personalizer, Sampling, read_notes
def sockets():
    for fd in os.listdir("/proc/self/fd"):
        try:
            if os.readlink(f"/proc/self/fd/{fd}").startswith("socket:"):
                yield fd
        except OSError:
            pass  # It was the listing's own.
with Personalizer.open() as personalizer, personalizer.persona(sys.argv[1]) as persona:
    persona.sync(read_notes(sys.argv[2]), personalizer.plug.encode_notes)
    for piece in personalizer.stream("hello", persona, Sampling(max_tokens=4)):
        assert not list(sockets())
print("none")
"""
LOUD = """
import socket
for call in (
    lambda: socket.getaddrinfo("example.org", 80),
    lambda: socket.gethostbyname("example.org"),
    lambda: socket.gethostbyaddr("192.0.2.1"),
    lambda: socket.socket().connect(("192.0.2.1", 80)),
    lambda: socket.socket().connect_ex(("192.0.2.1", 80)),
    lambda: socket.socket(socket.AF_INET6).connect(("2001:db8::1", 80)),
    lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", ("192.0.2.1", 53)),
    lambda: __import__("urllib.request").request.urlopen("http://192.0.2.1/", timeout=1),
):
    try:
        call()
    except OSError as error:
        assert "refused by the test" in str(error), error
"""


class Guarded(Command):
    """`ppedge` in processes that write down what they try to reach."""

    def environment(self, **more: str) -> dict[str, str]:
        folder = self.home.parent / "guard"
        folder.mkdir(exist_ok=True)
        (folder / "sitecustomize.py").write_text(GUARD)
        guard = {"PYTHONPATH": str(folder), "TRIED": str(self.tried)}
        return super().environment(**{**guard, **more})

    @property
    def tried(self) -> Path:
        return self.home.parent / "tried.log"

    def python(self, program: str, *arguments: str | Path) -> str:
        done = subprocess.run(
            [sys.executable, "-c", program, *arguments],
            env=self.environment(),
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture
def ppedge(tmp_path: Path) -> Guarded:
    return Guarded(tmp_path / "home")


def test_no_command_and_no_call_tries_to_reach_another_machine(
    ppedge: Guarded, tmp_path: Path
) -> None:
    history = PEOPLE / "texter.jsonl"
    (tmp_path / "vault").mkdir()
    (tmp_path / "vault" / "a.md").write_text("the bread is out, see https://example.org/bread\n")
    few = ("--max-tokens", "4", "--seed", "1")
    assert ppedge.good("personalize", "--history", history, *few, "what is on example.org?")
    assert ppedge.good("why", "--history", history, "--answers", *few, "hello")
    assert "added 1" in ppedge.good("notes", "import", tmp_path / "vault")
    assert ppedge.good("personalize", "--best-of", "2", *few, "hello")
    assert ppedge.good("doctor")
    assert json.loads(ppedge.good("notes", "stats", "--json"))["notes"] == 1
    *text, turns = ppedge.python(API, tmp_path / "persona", history).splitlines()
    assert any(text)
    assert int(turns) > 4
    assert not ppedge.tried.exists(), ppedge.tried.read_text()


def test_the_guard_sees_and_refuses_every_way_out(ppedge: Guarded) -> None:
    ppedge.python(LOUD)
    seen = [line.split()[0] for line in ppedge.tried.read_text().splitlines()]
    assert seen == [
        "socket.getaddrinfo",
        "socket.gethostbyname",
        "socket.gethostbyaddr",
        "socket.connect",
        "socket.connect",
        "socket.connect",
        "socket.sendto",
        "socket.getaddrinfo",
    ]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_no_library_opens_a_socket_behind_pythons_back(tmp_path: Path) -> None:
    """Of those, an audit hook sees nothing; the kernel lists a process's sockets."""
    done = subprocess.run(
        [sys.executable, "-c", SOCKETS, tmp_path / "me", PEOPLE / "texter.jsonl"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "none\n"), done.stderr
