"""A server inside the tests' own process, where its limits can be small and looked at."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from ppedge.personalizer import Personalizer
from ppedge.server.app import make_app
from ppedge.server.guard import Limits
from ppedge.server.line import Line
from ppedge.server.listener import Server, listen, make_server
from tests.server.running import TOKEN


@dataclass
class Inside:
    """A server on a thread.

    Attributes:
        server: uvicorn's.
        line: before the model.
        port: that it listens on.
    """

    server: Server
    line: Line
    port: int

    @property
    def connections(self) -> int:
        return len(self.server.server_state.connections)


@contextmanager
def inside(personalizer: Personalizer, limits: Limits) -> Iterator[Inside]:
    with listen("127.0.0.1", 0) as sock, Line(limits.waiting) as line:
        # What it accepts has its buffer, so that a client that does not read is felt at once.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        app = make_app(personalizer, line, token=TOKEN, limits=limits)
        server = make_server(app, limits, line.cancel_all)
        thread = threading.Thread(target=server.run, args=([sock],))
        thread.start()
        try:
            yield Inside(server, line, sock.getsockname()[1])
        finally:
            server.should_exit = True
            thread.join(20)
            assert not thread.is_alive()


def wait_until(happens: Callable[[], bool], seconds: float = 20) -> None:
    """Wait for something that comes about on another thread."""
    until = time.monotonic() + seconds
    while not happens():
        assert time.monotonic() < until, "it did not happen"
        time.sleep(0.02)
