"""`ppedge serve` as a process of its own, and what a client needs to reach it."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import openai

from tests.command import Command

TOKEN = "a-token-of-the-tests"
START_SECONDS = 120
ANSWER_SECONDS = 120


class Running:
    """A server that runs.

    Attributes:
        base: its address, without a path.
        home: its data folder.
    """

    def __init__(self, process: subprocess.Popen[bytes], home: Path, token: str = TOKEN) -> None:
        self.process, self.home, self.token = process, home, token
        self.shown: list[str] = []
        self.errors: list[str] = []
        self._readers = [
            threading.Thread(target=self._read, args=each, daemon=True)
            for each in ((process.stdout, self.shown), (process.stderr, self.errors))
        ]
        for reader in self._readers:
            reader.start()
        self._wait_for_start()
        self.page = self.shown[0].split()[-1]
        self.base = self.page.partition("/#")[0]

    @staticmethod
    def _read(stream: Iterable[bytes], lines: list[str]) -> None:
        lines += (line.decode().rstrip("\n") for line in stream)

    def _wait_for_start(self) -> None:
        until = time.monotonic() + START_SECONDS
        while len(self.shown) < 3 or not any("serving" in line for line in self.errors):
            assert self.process.poll() is None, self.errors
            assert time.monotonic() < until, "it did not start"
            time.sleep(0.05)

    @property
    def port(self) -> int:
        return int(self.base.rpartition(":")[2])

    @property
    def client(self) -> openai.OpenAI:
        """OpenAI's own client, which tries nothing twice here."""
        return openai.OpenAI(
            base_url=f"{self.base}/v1", api_key=self.token, max_retries=0, timeout=ANSWER_SECONDS
        )

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"}

    def get(self, path: str, **more: Any) -> httpx.Response:
        return httpx.get(self.base + path, headers=self.headers, timeout=ANSWER_SECONDS, **more)

    def post(self, path: str, body: Any, **more: Any) -> httpx.Response:
        return httpx.post(
            self.base + path, headers=self.headers, json=body, timeout=ANSWER_SECONDS, **more
        )

    def said(self, path: str, body: Any) -> Any:
        """The body of a response that must be a good one."""
        response = self.post(path, body)
        assert response.status_code == 200, response.text
        return response.json()

    def raw(self, data: bytes, *, receive_buffer: int | None = None) -> socket.socket:
        """A connection on which these bytes were sent."""
        sock = socket.socket()
        if receive_buffer is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        sock.settimeout(ANSWER_SECONDS)
        sock.connect(("127.0.0.1", self.port))
        sock.sendall(data)
        return sock

    def request(self, path: str, body: Any, **headers: str) -> bytes:
        """A request as it goes over the wire."""
        content = json.dumps(body).encode()
        lines = {
            "Host": f"127.0.0.1:{self.port}",
            **self.headers,
            "Content-Type": "application/json",
            "Content-Length": str(len(content)),
            **headers,
        }
        head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
        return f"POST {path} HTTP/1.1\r\n{head}\r\n".encode() + content

    def end(self, number: int = signal.SIGTERM, seconds: float = 60) -> int:
        """End it by a signal; return its exit code. No traceback may have been shown."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        code = self.process.wait(seconds)
        for reader in self._readers:
            reader.join(5)
        assert not any("Traceback" in line or "inner error" in line for line in self.errors), (
            self.errors
        )
        return code


@contextmanager
def running(command: Command, *arguments: str | Path, token: str = TOKEN) -> Iterator[Running]:
    """Start a server, and end it."""
    process = command.start("serve", "--port", "0", *arguments, PPEDGE_TOKEN=token)
    try:
        server = Running(process, command.home, token)
        yield server
        server.end()
    finally:
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream:
                stream.close()


def keep(
    command: Command, name: str, notes: Iterable[dict[str, str]], folder: Path, *options: str
) -> None:
    """Keep notes as those of a persona."""
    path = folder / f"{name}.jsonl"
    path.write_text("".join(json.dumps(note) + "\n" for note in notes))
    command.good("notes", "add", "--persona", command.home / "personas" / name, path, *options)
