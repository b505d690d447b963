"""Listening: a socket, and a uvicorn that gives up on clients who do nothing, and ends well."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Final

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from ppedge.errors import PpedgeError
from ppedge.server.errors import ApiError
from ppedge.server.guard import Limits

_END_SECONDS: Final = 3
"""For what is under way when the server ends, once it was cancelled."""

_IDLE_SECONDS: Final = 30
"""That a connection may stay open between two requests."""


class ListenError(PpedgeError):
    """The address cannot be listened on."""


def listen(host: str, port: int) -> socket.socket:
    """Listen on an address.

    Args:
        host: an IP address.
        port: 0 takes any that is free.

    Raises:
        ListenError: another program has it, or it is not this machine's.
    """
    family = socket.AF_INET6 if ipaddress.ip_address(host).version == 6 else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=128)
    except OSError as error:
        reason = error.strerror or error
        raise ListenError(
            f"{host}, port {port}: {reason}; choose another with --port or --host"
        ) from None


def make_server(app: ASGIApp, limits: Limits, ending: Callable[[], None]) -> Server:
    """Make what `run` runs.

    Args:
        app: answers requests.
        limits: times and counts.
        ending: is called on the event loop once nobody new is let in, to cancel what goes on.
    """
    config = uvicorn.Config(
        app,
        loop="asyncio",
        http=_protocol(limits),
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=limits.connections,
        timeout_keep_alive=_IDLE_SECONDS,
        timeout_graceful_shutdown=_END_SECONDS,
    )
    # Its lines are about requests; what a person should know is told by `Guard`.
    logging.getLogger("uvicorn").setLevel(logging.CRITICAL)
    return Server(config, ending)


def run(server: Server, sock: socket.socket) -> None:
    """Serve until a signal ends it; for the main thread.

    Args:
        server: of `make_server`.
        sock: of `listen`; closed afterwards.

    Raises:
        KeyboardInterrupt: Ctrl-C ended it. SIGTERM and SIGHUP end it without an error.
    """
    with _ended_by_signals(server):
        server.run([sock])


class Server(uvicorn.Server):
    """Cancels what is under way before it waits for that to end.

    Args:
        config: uvicorn's.
        ending: cancels it.
    """

    def __init__(self, config: uvicorn.Config, ending: Callable[[], None]) -> None:
        """Serve nothing yet."""
        super().__init__(config)
        self._ending = ending

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End."""
        self._ending()
        await super().shutdown(sockets)


def _protocol(limits: Limits) -> type[H11Protocol]:
    """A protocol that waits for its client only so long.

    uvicorn itself times idle connections only behind a first request: a client that never sends
    one, or reads nothing of its response, would be held for ever.
    """

    class Patient(H11Protocol):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self._head: asyncio.TimerHandle | None = None
            self._is_begun = False  # A head, of which the rest is still to come.
            self._stuck: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self._head = self.loop.call_later(limits.head_seconds, self._give_up)

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            idle = self.cycle is None or self.cycle.response_complete
            self._is_begun = idle
            if not idle:
                self._stop_head()
            elif self._head is None:
                self._head = self.loop.call_later(limits.head_seconds, self._give_up)

        def on_response_complete(self) -> None:
            self._stop_head()
            super().on_response_complete()

        def pause_writing(self) -> None:
            super().pause_writing()
            self._stuck = self.loop.call_later(limits.stuck_seconds, self.transport.abort)

        def resume_writing(self) -> None:
            self._stop_stuck()
            super().resume_writing()

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop_head()
            self._stop_stuck()
            super().connection_lost(exc)

        def _give_up(self) -> None:
            if not self._is_begun or self.transport.is_closing():
                self.transport.abort()  # Nobody has asked for anything.
                return
            self.transport.write(_too_late(limits.head_seconds))
            self.transport.close()

        def _stop_head(self) -> None:
            if self._head is not None:
                self._head.cancel()
            self._head = None

        def _stop_stuck(self) -> None:
            if self._stuck is not None:
                self._stuck.cancel()
            self._stuck = None

    return Patient


def _too_late(seconds: float) -> bytes:
    """The whole response to a head that does not end."""
    told = f"the head of the request did not arrive within {seconds:g} seconds"
    response = ApiError(408, told, code="head").response()
    lines = b"".join(b"%b: %b\r\n" % header for header in response.raw_headers)
    begin = b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\n"
    return begin + lines + b"\r\n" + bytes(response.body)


@contextmanager
def _ended_by_signals(server: Server) -> Iterator[None]:
    """Let SIGHUP end a server as SIGTERM does, and neither end anything more."""
    # uvicorn takes SIGTERM while it runs, and hands it on to this one when it has ended.
    before = {signal.SIGTERM: signal.signal(signal.SIGTERM, _ignored)}
    hang_up = getattr(signal, "SIGHUP", None)  # Windows has none
    # What nohup has made deaf stays deaf.
    if hang_up is not None and signal.getsignal(hang_up) != signal.SIG_IGN:
        before[hang_up] = signal.signal(hang_up, server.handle_exit)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _ignored(number: int, frame: FrameType | None) -> None:
    """Take a signal that has done its work."""
