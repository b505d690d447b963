"""What OpenAI's clients call: ``/v1/chat/completions``, ``/v1/completions``, ``/v1/models``."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from ppedge.server.answers import Answers, Begun, Written
from ppedge.server.bodies import Asked, read_chat, read_completion
from ppedge.server.errors import ApiError, as_api_error
from ppedge.server.fields import parse
from ppedge.server.people import People, model_name

_STREAM_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
]


@dataclass(frozen=True, slots=True)
class Shape:
    """How one endpoint writes an answer down.

    Attributes:
        mark: what its ids begin with.
        whole: the name of a whole answer.
        part: the name of a streamed part.
        opening: what a stream's first choice holds.
        piece: a piece of text in a streamed choice.
        text: the whole text in a choice.
        closing: what a stream's last choice holds.
    """

    mark: str
    whole: str
    part: str
    opening: dict[str, Any]
    piece: Callable[[str], dict[str, Any]]
    text: Callable[[str], dict[str, Any]]
    closing: dict[str, Any]


CHAT = Shape(
    "chatcmpl-",
    "chat.completion",
    "chat.completion.chunk",
    {"delta": {"role": "assistant", "content": ""}},
    lambda piece: {"delta": {"content": piece}},
    lambda text: {"message": {"role": "assistant", "content": text, "refusal": None}},
    {"delta": {}},
)
COMPLETION = Shape(
    "cmpl-",
    "text_completion",
    "text_completion",
    {"text": ""},
    lambda piece: {"text": piece},
    lambda text: {"text": text},
    {"text": ""},
)


class Completions:
    """The endpoints that OpenAI's clients call.

    Args:
        answers: writes answers.
        people: whose personas are models.
        fingerprint: of the model, in each answer.
        created: when the model was made, in Unix seconds.
    """

    def __init__(self, answers: Answers, people: People, fingerprint: str, created: int) -> None:
        """Answer nothing yet."""
        self._answers, self._people = answers, people
        self._fingerprint, self._created = fingerprint, created

    async def chat(self, request: Request) -> Response:
        """Answer the last message of a conversation."""
        return await self._respond(request, read_chat, CHAT)

    async def complete(self, request: Request) -> Response:
        """Answer a prompt."""
        return await self._respond(request, read_completion, COMPLETION)

    def models(self, request: Request) -> Response:
        """List the bare model and one for each persona."""
        names = [None, *self._people.names()]
        return JSONResponse({"object": "list", "data": [self._model(name) for name in names]})

    def model(self, request: Request) -> Response:
        """Describe one model."""
        wanted = request.path_params["model"]
        for name in [None, *self._people.names()]:
            if model_name(name) == wanted:
                return JSONResponse(self._model(name))
        raise ApiError(404, "no model of that name; /v1/models lists them", code="model_not_found")

    def _model(self, persona: str | None) -> dict[str, Any]:
        return {
            "id": model_name(persona),
            "object": "model",
            "created": self._created,
            "owned_by": "ppedge",
        }

    async def _respond(
        self, request: Request, read: Callable[[Any], Asked], shape: Shape
    ) -> Response:
        asked = read(parse(await request.body()))
        paper = Paper(shape, asked.model, self._fingerprint)
        if asked.stream:
            return Stream(self._answers, asked, paper)
        async with self._answers.answer(asked, request.receive) as answer, aclosing(answer):
            seed = 0
            async for told in answer:
                if isinstance(told, Begun):
                    seed = told.seed
                elif isinstance(told, Written):
                    return JSONResponse(paper.whole(told, seed))
        raise AssertionError("an answer ends with `Written`, or raises")


class Paper:
    """Writes one answer down in its endpoint's shape."""

    def __init__(self, shape: Shape, model: str, fingerprint: str) -> None:
        """Draw an id, and look at the clock."""
        self._shape = shape
        self._head = {
            "id": shape.mark + secrets.token_hex(12),
            "created": int(time.time()),
            "model": model,
            "system_fingerprint": fingerprint,
        }

    def whole(self, written: Written, seed: int) -> dict[str, Any]:
        """The whole answer."""
        return {
            **self._head,
            "object": self._shape.whole,
            "choices": [_choice(self._shape.text(written.text), written.finish)],
            "usage": written.usage,
            "ppedge": {"seed": seed},
        }

    def part(self, told: Begun | str | Written) -> dict[str, Any]:
        """One event of a stream."""
        head = {**self._head, "object": self._shape.part}
        if isinstance(told, str):
            return {**head, "choices": [_choice(self._shape.piece(told), None)]}
        if isinstance(told, Written):
            return {**head, "choices": [_choice(self._shape.closing, told.finish)]}
        choices = [_choice(self._shape.opening, None)]
        return {**head, "choices": choices, "ppedge": {"seed": told.seed}}

    def usage(self, written: Written) -> dict[str, Any]:
        """The counts, as a stream ends with where they are asked for."""
        head = {**self._head, "object": self._shape.part}
        return {**head, "choices": [], "usage": written.usage}


def _choice(content: dict[str, Any], finish: str | None) -> dict[str, Any]:
    return {"index": 0, **content, "logprobs": None, "finish_reason": finish}


class Stream(Response):
    """An answer as server-sent events.

    What is wrong with a request is told with a status of its own, so nothing is sent before the
    answer has begun; what goes wrong afterwards is an event.
    """

    def __init__(self, answers: Answers, asked: Asked, paper: Paper) -> None:
        """Send nothing yet."""
        super().__init__()
        self._answers, self._asked, self._paper = answers, asked, paper

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the answer as it is written."""
        begun = False
        async with self._answers.answer(self._asked, receive) as answer, aclosing(answer):
            try:
                async for told in answer:
                    if not begun:
                        begun = True
                        await send(
                            {
                                "type": "http.response.start",
                                "status": 200,
                                "headers": _STREAM_HEADERS,
                            }
                        )
                    await self._send(send, self._paper.part(told))
                    if isinstance(told, Written) and self._asked.include_usage:
                        await self._send(send, self._paper.usage(told))
                last = b"data: [DONE]\n\n"
            except Exception as error:
                if not begun:
                    raise
                last = _event(as_api_error(error).body)
        await send({"type": "http.response.body", "body": last, "more_body": False})

    async def _send(self, send: Send, part: dict[str, Any]) -> None:
        await send({"type": "http.response.body", "body": _event(part), "more_body": True})


def _event(content: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(content, ensure_ascii=False).encode("utf-8") + b"\n\n"
