"""Personas and their notes: ``/personas``, search, forgetting, and ``/why``."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict
from functools import partial
from itertools import islice
from typing import Any, Final, TypeVar

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from ppedge.errors import PpedgeError, StoreError
from ppedge.notes.reader import Note
from ppedge.personalizer import Personalizer
from ppedge.server.answers import Answers
from ppedge.server.bodies import FORGET, WHY, read_scope
from ppedge.server.errors import ApiError, bad
from ppedge.server.fields import Field, Integer, Text, parse
from ppedge.server.people import People, model_name, persona_name
from ppedge.store.persona import PIN, Persona, handle
from ppedge.store.scope import Scope

Result = TypeVar("Result")

_READERS: Final = 4
"""Stores that are read at once; a long search must not take every thread."""

SEARCH: Final[dict[str, Field]] = {
    "text": Text(0, 1000),
    "limit": Integer(1, 200),
    "offset": Integer(0, 10_000_000),
}


class Notes:
    """The endpoints that show and forget notes.

    Args:
        answers: explains them.
        people: whose notes.
    """

    def __init__(self, answers: Answers, people: People) -> None:
        """Read nothing yet."""
        self._answers, self._people = answers, people
        self._readers = asyncio.Semaphore(_READERS)

    async def personas(self, request: Request) -> Response:
        """List the personas."""
        return JSONResponse({"personas": await self._aside(self._personas)})

    async def search(self, request: Request) -> Response:
        """List the notes of a persona that hold a text."""
        given = _query(request)
        find = partial(
            _found, given.get("text") or None, given.get("limit", 50), given.get("offset", 0)
        )
        return JSONResponse(await self._of_persona(request, find))

    async def forget(self, request: Request) -> Response:
        """Forget notes by their ids, for good."""
        ids = FORGET.read(parse(await request.body()))["ids"]
        return JSONResponse(await self._of_persona(request, partial(_forgotten, ids)))

    async def why(self, request: Request) -> Response:
        """Say which notes bear on the answer to a prompt."""
        given = WHY.read(parse(await request.body()))
        name = persona_name(given["model"])
        if name is None:
            raise bad("no note bears on the bare model's answers; name a persona's model", "model")
        work = partial(_explained, name, read_scope(given), given["prompt"], given.get("top", 5))
        return JSONResponse(await self._answers.one(work, request.receive))

    # --- inside ---

    def _personas(self) -> list[dict[str, Any]]:
        return [
            _described(name, partial(self._people.opened, name)) for name in self._people.names()
        ]

    async def _of_persona(
        self, request: Request, work: Callable[[Persona], dict[str, Any]]
    ) -> dict[str, Any]:
        """Do something with the notes of the persona that the address names."""
        name = request.path_params["persona"]

        def worked() -> dict[str, Any]:
            with self._people.opened(name) as persona:
                return work(persona)

        return await self._aside(worked)

    async def _aside(self, work: Callable[[], Result]) -> Result:
        """Do something with stores, beside the event loop."""
        async with self._readers:
            return await asyncio.to_thread(work)


def _query(request: Request) -> dict[str, Any]:
    """The search that an address asks for."""
    given: dict[str, Any] = {}
    for key, value in request.query_params.multi_items():
        field = SEARCH.get(key)
        if field is None or key in given:
            known = ", ".join(SEARCH)
            raise bad(f"the address may hold each of {known} once, and nothing else")
        is_number = isinstance(field, Integer)
        if is_number and not (value.isascii() and value.isdigit() and len(value) < 10):
            raise bad(f"{key} must be a whole number", key)
        given[key] = field.read(int(value) if is_number else value, key)
    return given


def _described(name: str, opened: Callable[[], AbstractContextManager[Persona]]) -> dict[str, Any]:
    """A persona in a list, also where its store is damaged or another plug's."""
    try:
        with opened() as persona:
            found: dict[str, Any] = {"notes": len(persona), "problem": None}
    except (ApiError, PpedgeError) as error:
        found = {"notes": None, "problem": str(error)}
    return {"name": name, "model": model_name(name), **found}


def _found(text: str | None, limit: int, offset: int, persona: Persona) -> dict[str, Any]:
    notes = list(islice(persona.notes(text=text), offset, offset + limit + 1))
    marks = persona.marks()
    return {
        "notes": [_fields(note, marks) for note in notes[:limit]],
        "more": len(notes) > limit,
        "total": len(persona),
    }


def _forgotten(ids: list[str], persona: Persona) -> dict[str, Any]:
    for name in ids:
        try:
            persona.get(name)
        except StoreError as error:
            raise ApiError(404, str(error), param="ids", code="note_not_found") from None
    return asdict(persona.forget(ids=ids))


def _explained(
    name: str, scope: Scope, prompt: str, top: int, personalizer: Personalizer, people: People
) -> dict[str, Any]:
    with people.opened(name, scope) as persona:
        found = personalizer.explain(prompt, persona, heaviest=top)
        marks = persona.marks()
    told = found.fields(lambda note: _fields(note, marks))
    return {"model": model_name(name), "prompt": prompt, **told}


def _fields(note: Note, marks: dict[str, int]) -> dict[str, Any]:
    name = handle(note)
    mark = marks.get(name)
    return {
        "name": name,
        "text": note.output,
        "input": note.input,
        "time": note.time,
        "tags": list(note.tags),
        "source": note.source,
        "mark": None if mark is None else "pinned" if mark == PIN else "muted",
    }
