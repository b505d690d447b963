"""The command `ppedge serve`: how it starts, what it refuses, and that it talks to nobody else."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest

from tests.command import Command
from tests.server.conftest import ANNA, with_output
from tests.server.running import TOKEN, keep, running

ROOT = Path(__file__).parents[2]

# Fails, and notes down, every attempt to look a name up or to reach another machine.
ALONE = """
import os, socket, sys

def watch(event, arguments):
    ours = (None, "localhost", "127.0.0.1", "::1")
    if event == "socket.getaddrinfo" and arguments[0] not in ours:
        refuse(f"looked up {arguments[0]}")
    if event in ("socket.connect", "socket.sendto"):
        address = arguments[1]
        if isinstance(address, tuple) and address[0] not in ours:
            refuse(f"reached for {address[0]}")

def refuse(line):
    with open(os.environ["ALONE_LOG"], "a") as log:
        log.write(line + "\\n")
    raise PermissionError(line)

sys.addaudithook(watch)
"""
# As if the extra were not installed.
BARE = """
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name in ("starlette", "uvicorn"):
            raise ModuleNotFoundError(name)
import importlib.util
find_spec = importlib.util.find_spec
importlib.util.find_spec = lambda name, *a: (
    None if name in ("starlette", "uvicorn") else find_spec(name, *a)
)
sys.meta_path.insert(0, Missing())
"""


def with_start(folder: Path, code: str) -> dict[str, str]:
    """An environment in which Python runs this code first."""
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(code)
    return {"PYTHONPATH": str(folder), "ALONE_LOG": str(folder / "log")}


@pytest.fixture
def command(tmp_path: Path) -> Command:
    return Command(tmp_path / "home")


# --- alone ---


def test_the_watch_sees_who_reaches_out(tmp_path: Path) -> None:
    env = with_start(tmp_path / "start", ALONE)
    for code in (
        "import socket; socket.create_connection(('192.0.2.1', 80), 1)",
        "import urllib.request; urllib.request.urlopen('http://example.org')",
    ):
        done = subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, **env},
            capture_output=True,
            check=False,
        )
        assert b"PermissionError" in done.stderr
    assert len(Path(env["ALONE_LOG"]).read_text().splitlines()) == 2


def test_serving_and_personalizing_reach_for_nobody(tmp_path: Path) -> None:
    env = with_start(tmp_path / "start", ALONE)
    command = Command(tmp_path / "home", env)
    history = ROOT / "examples" / "notes.jsonl"
    short = ("--max-tokens", "8", "--seed", "1")
    assert command.good("personalize", "--history", history, *short, "rain").strip()
    keep(command, "anna", with_output(ANNA), tmp_path)
    with running(command) as server:
        ask = {"model": "ppedge:anna", "prompt": "rain", "max_tokens": 8}
        assert server.said("/v1/completions", ask)["choices"][0]["text"]
        assert server.said("/why", {"model": "ppedge:anna", "prompt": "rain"})["turns"]
        assert server.get("/").status_code == 200
    assert not Path(env["ALONE_LOG"]).exists()


def test_it_listens_on_loopback_alone(tmp_path: Path, endless_model: list[str | Path]) -> None:
    with running(Command(tmp_path / "home"), *endless_model) as server:
        for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
            _, local, _, state, *_ = line.split()
            address, port = local.split(":")
            if state == "0A" and int(port, 16) == server.port:
                assert address == "0100007F"
                break
        else:
            pytest.fail("it does not listen")


# --- the start ---


def test_what_is_shown_leads_to_the_page_and_to_the_protocol(
    command: Command, endless_model: list[str | Path]
) -> None:
    with running(command, *endless_model) as server:
        page, base_url, api_key = server.shown
        assert page == f"page:     {server.base}/#token={TOKEN}"
        assert base_url == f"base_url: {server.base}/v1"
        assert api_key == f"api_key:  {TOKEN}"
        assert not (command.home / "server.token").exists()


def test_the_token_that_is_kept_is_shown_again(
    command: Command, endless_model: list[str | Path]
) -> None:
    shown = []
    for _ in range(2):
        with running(command, *endless_model, token="") as server:
            server.token = server.shown[2].split()[1]
            assert server.get("/personas").status_code == 200
            shown.append(server.token)
    assert shown[0] == shown[1] == (command.home / "server.token").read_text().strip()
    (command.home / "server.token").write_text("short\n")
    told = command.error("serve", *endless_model)
    assert "holds no token" in told
    assert "remove it" in told


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("--host", "example.org"), "--host must be an IP address such as 127.0.0.1"),
        (("--host", "::"), "add --allow-network"),
        (("--token", "short"), "--token must have 16 to 512 letters"),
        (("--token", "with spaces in it, too many"), "--token must have"),
        (("--port", "70000"), "70000 is not in the range"),
    ],
)
def test_what_makes_no_sense_is_a_usage_error(
    command: Command, arguments: tuple[str, ...], line: str
) -> None:
    assert line in command.error("serve", *arguments, code=2)


def test_a_port_that_is_taken_is_told(command: Command) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        told = command.error("serve", "--port", port)
    assert f"127.0.0.1, port {port}: Address already in use" in told
    assert "--port" in told


def test_a_model_that_is_missing_is_told(command: Command) -> None:
    assert "missing.gguf" in command.error("serve", "--port", "0", "--model", "missing.gguf")


def test_without_the_extra_it_names_the_command_that_brings_it(
    command: Command, tmp_path: Path
) -> None:
    env = with_start(tmp_path / "start", BARE)
    told = command.error("serve", **env)
    assert told.startswith("Error: the server needs starlette and uvicorn: run `")
    assert told.endswith(" -m pip install 'ppedge[server]'`")
    # And nothing else of ppedge needs it.
    assert "serve" in command.good("--help", **env)
    assert "--allow-network" in command.good("serve", "--help", **env)


def test_looking_at_a_command_loads_no_server(command: Command) -> None:
    code = (
        "import sys, ppedge.cli.main, ppedge.cli.serve;"
        "found = {'uvicorn', 'starlette', 'llama_cpp'} & set(sys.modules); assert not found, found"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_ctrl_c_while_it_loads_ends_it(command: Command) -> None:
    run = command.start("serve", "--port", "0")
    time.sleep(1.0)
    run.send_signal(signal.SIGINT)
    _, errors = run.communicate(timeout=60)
    assert run.returncode == 130
    assert b"Traceback" not in errors


# --- the package ---


def test_the_extra_names_what_the_command_asks_for() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    named = {line.partition(">")[0] for line in extras["server"]}
    assert named == {"starlette", "uvicorn"}
    assert "ppedge[server]" in extras["test"]
