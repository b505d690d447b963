"""/openapi.json: what may be asked, and what is answered."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from ppedge.server.bodies import CHAT, COMPLETION, FORGET, WHY
from ppedge.server.fields import Field, Schema
from ppedge.server.notes import SEARCH
from ppedge.version import __version__

_TEXT: Final[Schema] = {"type": "string"}
_COUNT: Final[Schema] = {"type": "integer", "minimum": 0}
_SHARE: Final[Schema] = {
    "anyOf": [{"type": "number", "minimum": 0, "maximum": 1.001}, {"type": "null"}]
}


def openapi() -> Schema:
    """The OpenAPI 3.1 description of the server."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "ppedge",
            "version": __version__,
            "description": "A small language model that writes like its owner, offline.",
        },
        "security": [{"token": []}],
        "paths": {
            "/v1/models": {"get": _get("List the models", {"$ref": _at("Models")})},
            "/v1/models/{model}": {
                "get": _get("One model", {"$ref": _at("Model")}, _in_path("model"))
            },
            "/v1/chat/completions": {
                "post": _post("Answer a conversation", CHAT, "ChatCompletion", stream=True)
            },
            "/v1/completions": {
                "post": _post("Answer a prompt", COMPLETION, "Completion", stream=True)
            },
            "/personas": {"get": _get("List the personas", {"$ref": _at("Personas")})},
            "/personas/{persona}/notes": {
                "get": _get(
                    "Search notes",
                    {"$ref": _at("Found")},
                    _in_path("persona"),
                    *(_in_query(name, field) for name, field in SEARCH.items()),
                )
            },
            "/personas/{persona}/forget": {
                "post": _post("Forget notes for good", FORGET, "Receipt", _in_path("persona"))
            },
            "/why": {"post": _post("Which notes bear on an answer", WHY, "Why")},
        },
        "components": {
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
            "schemas": _schemas(),
        },
    }


def _at(name: str) -> str:
    return f"#/components/schemas/{name}"


def _get(summary: str, answer: Schema, *parameters: Schema) -> Schema:
    return _operation(summary, {"application/json": {"schema": answer}}, *parameters)


def _post(
    summary: str, body: Field, answer: str, *parameters: Schema, stream: bool = False
) -> Schema:
    content: Schema = {"application/json": {"schema": {"$ref": _at(answer)}}}
    if stream:
        content["text/event-stream"] = {"schema": _TEXT}
    operation = _operation(summary, content, *parameters)
    operation["requestBody"] = {
        "required": True,
        "content": {"application/json": {"schema": body.schema()}},
    }
    return operation


def _operation(summary: str, content: Schema, *parameters: Schema) -> Schema:
    refused = {"application/json": {"schema": {"$ref": _at("Error")}}}
    codes = {
        400: "The request makes no sense as it is",
        401: "No token, or a wrong one",
        403: "Another host or origin",
        404: "No such persona, model or note",
        405: "Another method",
        408: "The body came too slowly",
        409: "The store cannot do that now",
        413: "The body is too large",
        415: "The body is not JSON",
        500: "The model or the plug failed",
        503: "Busy, or about to end",
    }
    responses: Schema = {"200": {"description": "Done", "content": content}}
    for code, description in codes.items():
        responses[str(code)] = {"description": description, "content": refused}
    return {"summary": summary, "parameters": list(parameters), "responses": responses}


def _in_path(name: str) -> Schema:
    return {
        "name": name,
        "in": "path",
        "required": True,
        "schema": {"type": "string", "minLength": 1},
    }


def _in_query(name: str, field: Field) -> Schema:
    return {"name": name, "in": "query", "schema": field.schema()}


# --- what is answered ---


def _object(fields: Mapping[str, Schema]) -> Schema:
    return {"type": "object", "properties": dict(fields), "required": list(fields)}


def _list(each: Schema) -> Schema:
    return {"type": "array", "items": each}


def _or_null(each: Schema) -> Schema:
    return {"anyOf": [each, {"type": "null"}]}


def _schemas() -> dict[str, Any]:
    model = _object(
        {"id": _TEXT, "object": {"const": "model"}, "created": _COUNT, "owned_by": _TEXT}
    )
    persona = _object(
        {"name": _TEXT, "model": _TEXT, "notes": _or_null(_COUNT), "problem": _or_null(_TEXT)}
    )
    note_fields = {
        "name": _TEXT,
        "text": _TEXT,
        "input": _TEXT,
        "time": _or_null({"type": "number"}),
        "tags": _list(_TEXT),
        "source": _TEXT,
        "mark": {"enum": ["pinned", "muted", None]},
    }
    weighed = _object({"weight": _SHARE, **note_fields})
    flag = {"type": "boolean"}
    return {
        "Error": _object(
            {
                "error": _object(
                    {
                        "message": _TEXT,
                        "type": _TEXT,
                        "param": _or_null(_TEXT),
                        "code": _or_null(_TEXT),
                    }
                )
            }
        ),
        "Model": model,
        "Models": _object({"object": {"const": "list"}, "data": _list(model)}),
        "ChatCompletion": _answer(
            {
                "message": _object(
                    {"role": {"const": "assistant"}, "content": _TEXT, "refusal": {"type": "null"}}
                )
            }
        ),
        "Completion": _answer({"text": _TEXT}),
        "Personas": _object({"personas": _list(persona)}),
        "Found": _object({"notes": _list(_object(note_fields)), "more": flag, "total": _COUNT}),
        "Receipt": _object(
            {
                "ids": _list(_TEXT),
                "time": _TEXT,
                "store_before": _TEXT,
                "store_after": _TEXT,
                "notes": _COUNT,
            }
        ),
        "Why": _object(
            {
                "model": _TEXT,
                "prompt": _TEXT,
                "turns": _list(weighed),
                "heaviest": _list(weighed),
                "null_weight": _SHARE,
                "bears": _object({"turns": flag, "attention": flag, "manner": flag}),
                "notes": _COUNT,
                "manner_notes": _COUNT,
            }
        ),
    }


def _answer(content: Mapping[str, Schema]) -> Schema:
    choice = _object(
        {
            "index": {"const": 0},
            **content,
            "finish_reason": {"enum": ["stop", "length"]},
            "logprobs": {"type": "null"},
        }
    )
    counts = ("prompt_tokens", "completion_tokens", "total_tokens")
    return _object(
        {
            "id": _TEXT,
            "object": _TEXT,
            "created": _COUNT,
            "model": _TEXT,
            "system_fingerprint": _TEXT,
            "choices": _list(choice),
            "usage": _object(dict.fromkeys(counts, _COUNT)),
            "ppedge": _object({"seed": _COUNT}),
        }
    )
