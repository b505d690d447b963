"""The page: three files of this package, read once, and sent with a strict policy."""

from __future__ import annotations

from importlib.resources import files
from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

_FILES: Final = {
    "/": ("index.html", "text/html"),
    "/page.js": ("page.js", "text/javascript"),
    "/page.css": ("page.css", "text/css"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}
PATHS: Final = tuple(_FILES)

# Nothing but this server's own files runs, shows or is asked; no page may hold this one in a frame.
_POLICY: Final = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
    )
)


def routes() -> list[Route]:
    """A route for each file of the page."""
    folder = files("ppedge.server") / "page"
    return [
        _route(path, (folder / name).read_bytes(), kind) for path, (name, kind) in _FILES.items()
    ]


def _route(path: str, content: bytes, kind: str) -> Route:
    headers = {"Content-Security-Policy": _POLICY, "Cache-Control": "no-cache"}

    async def send(request: Request) -> Response:
        return Response(content, headers=headers, media_type=kind)

    return Route(path, send, methods=["GET"])
