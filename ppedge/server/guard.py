"""Who may ask: the address that a request came to, where it came from, its token, its size."""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ppedge.server.errors import ApiError, as_api_error, note_down
from ppedge.server.secret import is_same

_LOOPBACK_NAMES: Final = ("localhost", "127.0.0.1", "::1")
_HEADERS: Final = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"x-frame-options", b"DENY"),
)
_NO_STORE: Final = (b"cache-control", b"no-store")


@dataclass(frozen=True, slots=True)
class Limits:
    """What one client may take of the server.

    Attributes:
        head_bytes: of a request.
        body_bytes: of a request.
        body_seconds: for a request's body to arrive.
        head_seconds: for a request's head to arrive.
        stuck_seconds: that a client may read nothing of what is ready for it.
        answer_seconds: for an answer; it then ends as if ``max_tokens`` were used up.
        waiting: requests that may wait for the model.
        requests: at once, those that do not need the model included.
        connections: at once.
    """

    head_bytes: int = 16 << 10
    body_bytes: int = 1 << 20
    body_seconds: float = 10.0
    head_seconds: float = 30.0
    stuck_seconds: float = 30.0
    answer_seconds: float = 600.0
    waiting: int = 16
    requests: int = 64
    connections: int = 256


class Guard:
    """Lets in requests that may be answered, and refuses the others before anything reads them.

    The order is: host, origin, token, type, size. A page that a browser shows can reach loopback
    too, by a name of its own that points there (DNS rebinding) or across origins; neither gets
    past the first two.

    Args:
        app: answers the requests that are let in.
        token: every path but those in ``open_paths`` needs it.
        names: hosts, beside loopback's, by which this server goes.
        any_address: whether any IP address is a name of this server, as it is where it listens on
            more than loopback. Rebinding needs a name, so an address is safe.
        open_paths: paths of the page, which holds nothing of anybody.
        limits: sizes and times.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        token: str,
        names: Collection[str],
        any_address: bool,
        open_paths: Collection[str],
        limits: Limits,
    ) -> None:
        """Guard nothing yet."""
        self._app, self._token, self._limits = app, token, limits
        self._names = {*_LOOPBACK_NAMES, *(name.lower() for name in names)}
        self._any_address, self._open_paths = any_address, frozenset(open_paths)
        self._active = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it."""
        if scope["type"] != "http":
            return
        outgoing = _Outgoing(send)
        self._active += 1
        try:
            self._ensure_allowed(scope)
            body = await self._body(scope, receive)
            await self._app(scope, _again(body, receive), outgoing)
        except Exception as error:
            if outgoing.started:
                # Part of a response is out; it must not look whole.
                note_down(error)
                raise ConnectionAbortedError from None
            await as_api_error(error).response()(scope, receive, outgoing)
        finally:
            self._active -= 1

    # --- who ---

    def _ensure_allowed(self, scope: Scope) -> None:
        # h11 bounds a head that comes piece by piece, and lets one pass that comes at once.
        if _head_bytes(scope) > self._limits.head_bytes:
            raise ApiError(431, "the head of the request is too large; send less", code="head")
        host = _only(scope, b"host")
        if host is None or not self._is_ours(_name(host)):
            raise ApiError(
                403, "this server does not go by that Host; --allow-host NAME adds one", code="host"
            )
        origins = [value for key, value in scope["headers"] if key == b"origin"]
        if any(origin.lower() != b"http://" + host.lower() for origin in origins):
            raise ApiError(403, "pages from elsewhere may not ask this server", code="origin")
        if scope["path"] in self._open_paths:
            return
        given = _only(scope, b"authorization") or b""
        scheme, _, token = given.partition(b" ")
        if scheme.lower() != b"bearer" or not is_same(token.strip(), self._token):
            raise ApiError(
                401,
                "give the token that `ppedge serve` shows at its start, as "
                "`Authorization: Bearer TOKEN`",
                code="invalid_api_key",
            )
        if self._active > self._limits.requests:
            raise ApiError(503, "too many requests at once; ask again", code="busy", retry_after=1)

    def _is_ours(self, name: str) -> bool:
        if name in self._names:
            return True
        if not self._any_address:
            return False
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True

    # --- what ---

    async def _body(self, scope: Scope, receive: Receive) -> bytes:
        """The whole body; nothing of a method that has none here."""
        if scope["method"] != "POST":
            return b""
        kind = (_only(scope, b"content-type") or b"").partition(b";")[0].strip().lower()
        if kind != b"application/json":
            raise ApiError(415, "send JSON, with `Content-Type: application/json`")
        length = _only(scope, b"content-length")
        if length and length.isdigit() and int(length[:20]) > self._limits.body_bytes:
            raise self._too_large()
        try:
            async with asyncio.timeout(self._limits.body_seconds):
                return await self._arriving(receive)
        except TimeoutError:
            seconds = f"{self._limits.body_seconds:g}"
            raise ApiError(408, f"the body did not arrive within {seconds} seconds") from None

    async def _arriving(self, receive: Receive) -> bytes:
        body = bytearray()
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ApiError(400, "the client went away before its body had arrived")
            body += message.get("body", b"")
            if len(body) > self._limits.body_bytes:
                raise self._too_large()
            if not message.get("more_body", False):
                return bytes(body)

    def _too_large(self) -> ApiError:
        return ApiError(413, f"the body has more than {self._limits.body_bytes} bytes")


class _Outgoing:
    """Sends a response, with what every response says to a browser; knows whether it has begun."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.started = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.started = True
            headers = list(message.get("headers", []))
            has_own = any(key.lower() == b"cache-control" for key, _ in headers)
            message["headers"] = [*headers, *_HEADERS, *(() if has_own else (_NO_STORE,))]
        await self._send(message)


def _again(body: bytes, receive: Receive) -> Receive:
    """A `receive` that gives the whole body, and then tells when the client has gone."""
    left = [body]

    async def received() -> Message:
        if left:
            return {"type": "http.request", "body": left.pop(), "more_body": False}
        return await receive()

    return received


def _head_bytes(scope: Scope) -> int:
    """About how many bytes the head of a request had: target and header lines."""
    lines = sum(len(name) + len(value) + len(": \r\n") for name, value in scope["headers"])
    return len(scope.get("raw_path", b"")) + len(scope["query_string"]) + lines


def _only(scope: Scope, name: bytes) -> bytes | None:
    """The header's value; None where it is missing, or given twice to be read in two ways."""
    found = [value for key, value in scope["headers"] if key == name]
    return bytes(found[0]) if len(found) == 1 else None


def _name(host: bytes) -> str:
    """The name or address in a Host header, without its port."""
    text = host.decode("latin-1").strip().lower()
    if text.startswith("["):
        return text[1:].partition("]")[0]
    return text.partition(":")[0]
