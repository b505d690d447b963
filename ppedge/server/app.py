"""The application: every address, behind the guard."""

from __future__ import annotations

from collections.abc import Collection

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from ppedge.errors import PpedgeError
from ppedge.personalizer import Personalizer
from ppedge.server import page
from ppedge.server.answers import Answers
from ppedge.server.completions import Completions
from ppedge.server.errors import ApiError, on_error, on_http_error
from ppedge.server.guard import Guard, Limits
from ppedge.server.line import Line
from ppedge.server.notes import Notes
from ppedge.server.people import People
from ppedge.server.schema import openapi


def make_app(
    personalizer: Personalizer,
    line: Line,
    *,
    token: str,
    names: Collection[str] = (),
    any_address: bool = False,
    limits: Limits,
) -> ASGIApp:
    """Make the application.

    Args:
        personalizer: writes the answers.
        line: the line before it.
        token, names, any_address: as of `Guard`.
        limits: what one client may take.
    """
    people = People(personalizer)
    answers = Answers(personalizer, people, line, limits)
    llm = personalizer.llm
    created = int(llm.path.stat().st_mtime)
    completions = Completions(answers, people, f"ppedge-{llm.identity[:12]}", created)
    notes = Notes(answers, people)
    described = openapi()

    async def schema(request: Request) -> Response:
        return JSONResponse(described)

    app = Starlette(
        routes=[
            *page.routes(),
            Route("/openapi.json", schema),
            Route("/v1/models", completions.models),
            Route("/v1/models/{model:path}", completions.model),
            Route("/v1/chat/completions", completions.chat, methods=["POST"]),
            Route("/v1/completions", completions.complete, methods=["POST"]),
            Route("/personas", notes.personas),
            Route("/personas/{persona}/notes", notes.search),
            Route("/personas/{persona}/forget", notes.forget, methods=["POST"]),
            Route("/why", notes.why, methods=["POST"]),
        ],
        exception_handlers={
            HTTPException: on_http_error,
            ApiError: on_error,
            PpedgeError: on_error,
        },
    )
    # A path with a slash more is another path, and no redirect to a Host that a client named.
    app.router.redirect_slashes = False
    return Guard(
        app,
        token=token,
        names=names,
        any_address=any_address,
        open_paths=page.PATHS,
        limits=limits,
    )
