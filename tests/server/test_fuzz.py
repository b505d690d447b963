"""Requests that nobody thought of: none fails inside, each is answered as /openapi.json says."""

from __future__ import annotations

import copy
from typing import Any
from urllib.parse import quote

import jsonschema_rs
import pytest
import schemathesis
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from schemathesis.checks import CHECKS
from schemathesis.generation import GenerationMode

from ppedge.server.bodies import CHAT, COMPLETION, FORGET, WHY, read_chat, read_completion
from ppedge.server.errors import ApiError
from ppedge.server.fields import Form, parse
from ppedge.server.schema import openapi
from tests.server.running import Running

CALM = settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)
CHECKED = [
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_schema_conformance",
    "negative_data_rejection",
]
CONFIG = schemathesis.Config()
CONFIG.projects.default.generation.modes = [GenerationMode.POSITIVE, GenerationMode.NEGATIVE]
# A body may be too large as well.
_rejection = CONFIG.projects.default.checks.negative_data_rejection
_rejection.expected_statuses = [*_rejection.expected_statuses, "413"]
SCHEMA = schemathesis.openapi.from_dict(openapi(), config=CONFIG)


@SCHEMA.parametrize()
@CALM
def test_every_request_is_answered_as_the_schema_says(case: Any, tiny: Running) -> None:
    response = case.call(base_url=tiny.base, headers=tiny.headers, timeout=60)
    case.validate_response(response, checks=CHECKS.get_by_names(CHECKED))
    assert b"Traceback" not in response.content


def test_the_schema_is_sound_and_is_what_the_server_shows(tiny: Running) -> None:
    shown = tiny.get("/openapi.json").json()
    assert shown == openapi()
    SCHEMA.validate()


# --- what the schema allows is what is read ---

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 20)
    | st.sampled_from([2**32 - 2, 2**32 - 1, 10**30])
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from(["", "x", "ppedge", "user", "system", "text", "none", "y" * 300]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["role", "content", "type", "text", "name", "include_usage", "odd"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=6,
)
BODIES: list[tuple[Form, dict[str, Any]]] = [
    (CHAT, {"model": "ppedge", "messages": [{"role": "user", "content": "hi"}]}),
    (COMPLETION, {"model": "ppedge", "prompt": "hi"}),
    (WHY, {"model": "ppedge:a", "prompt": "hi"}),
    (FORGET, {"ids": ["a"]}),
]


@pytest.mark.parametrize(("form", "body"), BODIES, ids=["chat", "completion", "why", "forget"])
@settings(CALM, max_examples=400)
@given(data=st.data())
def test_what_the_schema_allows_is_read_and_nothing_else(
    form: Form, body: dict[str, Any], data: st.DataObject
) -> None:
    body = copy.deepcopy(body)
    for _ in range(data.draw(st.integers(1, 2))):
        body[data.draw(st.sampled_from([*form.fields, "odd"]))] = data.draw(VALUES)
    allowed = jsonschema_rs.Draft202012Validator(form.schema()).is_valid(body)
    if allowed:
        form.read(body)
        return
    with pytest.raises(ApiError) as caught:
        form.read(body)
    assert caught.value.status == 400
    assert "\n" not in caught.value.message


@settings(CALM, max_examples=300)
@given(st.binary(max_size=200) | st.text(max_size=200).map(lambda text: text.encode()))
@example(b"\xef\xbb\xbf{}")
@example(b'{"a": 1e400}')
def test_any_bytes_are_read_or_refused(body: bytes) -> None:
    for read in (read_chat, read_completion):
        with pytest.raises(ApiError) as caught:
            read(parse(body))
        assert caught.value.status == 400


# --- over the wire ---


@settings(CALM, max_examples=60)
@given(
    prompt=st.text(max_size=60),
    sampling=st.fixed_dictionaries(
        {"max_tokens": st.integers(1, 8)},
        optional={
            "temperature": st.floats(0, 2),
            "top_p": st.floats(0, 1, exclude_min=True),
            "seed": st.integers(0, 2**32 - 2),
            "stop": st.lists(st.text(min_size=1, max_size=3), max_size=3),
            "strength": st.floats(0, 5),
            "stream": st.booleans(),
        },
    ),
    model=st.sampled_from(["ppedge", "ppedge:anna"]),
)
def test_any_text_is_answered_or_refused(
    tiny: Running, prompt: str, sampling: dict[str, Any], model: str
) -> None:
    response = tiny.post("/v1/completions", {"model": model, "prompt": prompt, **sampling})
    assert response.status_code in (200, 400), response.text
    if response.status_code == 200 and not sampling.get("stream"):
        choice = response.json()["choices"][0]
        assert not any(stop in choice["text"] for stop in sampling.get("stop", []))
    if sampling.get("stream") and response.status_code == 200:
        assert response.text.endswith("data: [DONE]\n\n")
        assert '"error"' not in response.text


@settings(CALM, max_examples=40)
@given(name=st.text(min_size=1, max_size=20), text=st.text(max_size=20))
@example(name="..", text="")
@example(name="../../etc", text="\0")
def test_any_name_and_any_search_is_answered(tiny: Running, name: str, text: str) -> None:
    path = f"/personas/{quote(name, safe='')}/notes"
    response = tiny.get(path, params={"text": text})
    assert response.status_code in (404, 200)
    found = tiny.get("/personas/anna/notes", params={"text": text})
    assert found.status_code == 200
    assert all(
        text.casefold() in (note["text"] + "\n" + note["input"]).casefold()
        for note in found.json()["notes"]
    )


def test_nothing_of_all_this_failed_inside(tiny: Running) -> None:
    assert not any("inner error" in line for line in tiny.errors), tiny.errors
