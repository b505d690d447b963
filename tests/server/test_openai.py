"""OpenAI's own client talks to `ppedge serve`, with the default model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import openai
import pytest

from tests.command import Command
from tests.server.conftest import ANNA, with_output
from tests.server.running import Running, keep, running

PROMPT = "Write a short note about the rain"
ASK = [{"role": "user", "content": PROMPT}]
SHORT: dict[str, Any] = {"seed": 3, "max_tokens": 12}
ANNA_MODEL, BERT_MODEL = "ppedge:anna", "ppedge:bert"


def chatted(served: Running, model: str, messages: Any = ASK, **more: Any) -> str:
    done = served.client.chat.completions.create(model=model, messages=messages, **SHORT, **more)
    return done.choices[0].message.content or ""


def test_the_models_are_the_bare_one_and_the_personas(served: Running) -> None:
    models = served.client.models.list().data
    assert [model.id for model in models] == ["ppedge", ANNA_MODEL, BERT_MODEL, "ppedge:carl"]
    assert served.client.models.retrieve(BERT_MODEL).id == BERT_MODEL
    with pytest.raises(openai.NotFoundError, match="/v1/models lists them"):
        served.client.models.retrieve("ppedge:nobody")


def test_an_answer_is_that_of_personalize(served: Running) -> None:
    done = served.client.chat.completions.create(model=ANNA_MODEL, messages=ASK, **SHORT)
    folder = served.home / "personas" / "anna"
    words = ("--persona", folder, "--seed", "3", "--max-tokens", "12")
    told = Command(served.home).json("personalize", *words, PROMPT)
    assert done.choices[0].message.content == told["text"]
    assert done.choices[0].message.role == "assistant"
    assert done.choices[0].finish_reason in ("stop", "length")
    assert done.model == ANNA_MODEL
    assert done.usage.prompt_tokens == told["tokens"]["prompt"]
    assert done.usage.completion_tokens == told["tokens"]["new"]
    assert done.usage.total_tokens == done.usage.prompt_tokens + done.usage.completion_tokens


def test_a_stream_has_the_same_text_in_pieces_and_ends_with_the_counts(served: Running) -> None:
    whole = served.client.chat.completions.create(model=BERT_MODEL, messages=ASK, **SHORT)
    stream = served.client.chat.completions.create(
        model=BERT_MODEL, messages=ASK, stream=True, stream_options={"include_usage": True}, **SHORT
    )
    first, *middle, last, counts = list(stream)
    assert first.choices[0].delta.role == "assistant"
    pieces = [chunk.choices[0].delta.content for chunk in middle]
    assert len(pieces) > 3
    assert "".join(pieces) == whole.choices[0].message.content
    assert last.choices[0].finish_reason == whole.choices[0].finish_reason
    assert counts.choices == []
    assert counts.usage == whole.usage
    assert len({chunk.id for chunk in (first, *middle, last, counts)}) == 1


def test_completions_answer_a_prompt_whole_and_streamed(served: Running) -> None:
    ask = {"model": ANNA_MODEL, "prompt": PROMPT, **SHORT}
    whole = served.client.completions.create(**ask)
    pieces = [
        chunk.choices[0].text for chunk in served.client.completions.create(**ask, stream=True)
    ]
    assert "".join(pieces) == whole.choices[0].text == chatted(served, ANNA_MODEL)
    assert whole.object == "text_completion"


def test_the_person_and_nobody_are_told_apart(served: Running) -> None:
    anna, bert, nobody = (chatted(served, model) for model in (ANNA_MODEL, BERT_MODEL, "ppedge"))
    assert bert.upper() == bert != bert.lower()
    assert anna.lower() == anna
    assert nobody not in (anna, bert)


def test_a_strength_of_nothing_is_the_bare_model(served: Running) -> None:
    none = chatted(served, ANNA_MODEL, temperature=0, extra_body={"strength": 0})
    assert none == chatted(served, "ppedge", temperature=0)
    full = chatted(served, ANNA_MODEL, temperature=0, extra_body={"strength": 1})
    assert full == chatted(served, ANNA_MODEL, temperature=0) != none


def test_the_best_of_two_is_counted_as_two(served: Running) -> None:
    ask = {"model": ANNA_MODEL, "prompt": PROMPT, **SHORT, "temperature": 1}
    one = served.client.completions.create(**ask)
    two = served.client.completions.create(**ask, best_of=2)
    assert two.usage.completion_tokens > one.usage.completion_tokens
    assert len(two.choices) == 1


def test_a_seed_is_told_and_writes_the_same_again(served: Running) -> None:
    ask = {"model": ANNA_MODEL, "prompt": PROMPT, "max_tokens": 12, "temperature": 2}
    drawn = served.said("/v1/completions", ask)
    again = served.said("/v1/completions", {**ask, "seed": drawn["ppedge"]["seed"]})
    other = served.said("/v1/completions", {**ask, "seed": drawn["ppedge"]["seed"] ^ 1})
    text, same, different = (each["choices"][0]["text"] for each in (drawn, again, other))
    assert text == same != different


def test_stop_ends_an_answer_before_the_string(served: Running) -> None:
    whole = chatted(served, BERT_MODEL)
    stop = whole.split()[2]
    for given in (stop, [stop, "never"]):
        done = served.client.chat.completions.create(
            model=BERT_MODEL, messages=ASK, stop=given, **SHORT
        )
        assert done.choices[0].message.content == whole[: whole.index(stop)]
        assert done.choices[0].finish_reason == "stop"


def test_max_tokens_ends_an_answer_by_length(served: Running) -> None:
    for name in ("max_tokens", "max_completion_tokens"):
        done = served.client.chat.completions.create(
            model="ppedge", messages=ASK, temperature=0, **{name: 3}
        )
        assert done.choices[0].finish_reason == "length"
        assert done.usage.completion_tokens == 3


def test_what_was_said_before_counts_and_so_does_the_system(served: Running) -> None:
    before = [
        {"role": "user", "content": "My cat is called Tom."},
        {"role": "assistant", "content": "A fine name."},
    ]
    alone, talk, told = (
        served.client.chat.completions.create(model=ANNA_MODEL, messages=messages, **SHORT)
        for messages in (
            ASK,
            [*before, *ASK],
            [{"role": "system", "content": "Be brief."}, *before, *ASK],
        )
    )
    counts = [done.usage.prompt_tokens for done in (alone, talk, told)]
    assert counts == sorted(set(counts))


def test_content_in_parts_is_read_as_text(served: Running) -> None:
    part = {"type": "text", "text": PROMPT}
    parts = [{"role": "user", "content": [part]}]
    assert chatted(served, ANNA_MODEL, parts) == chatted(served, ANNA_MODEL)


def test_what_a_client_gave_back_of_an_answer_is_taken(served: Running) -> None:
    first = served.client.chat.completions.create(model="ppedge", messages=ASK, **SHORT)
    given_back = first.choices[0].message.model_dump()
    talk = [*ASK, given_back, {"role": "user", "content": "And tomorrow?"}]
    assert chatted(served, "ppedge", talk)


def test_what_is_refused_is_an_error_of_the_client_with_one_line(served: Running) -> None:
    refused: list[tuple[dict[str, Any], str]] = [
        ({"n": 2}, "n can only be 1 here; ask again, with another seed"),
        ({"logprobs": True}, "ppedge reports no probabilities"),
        ({"presence_penalty": 0.5}, "ppedge has its own rules"),
        ({"tools": [{"type": "function"}]}, "ppedge calls no tools"),
        ({"response_format": {"type": "json_object"}}, "ppedge writes free text"),
        ({"temperature": 2.5}, "temperature must be 0 to 2"),
        ({"top_p": 0}, "top_p must be above 0 and at most 1"),
        ({"seed": -1}, "seed must be 0 to 4294967294"),
        ({"max_tokens": 0}, "max_tokens must be 1 to"),
        ({"stop": [""]}, r"stop\[0\] must have 1 to 256 characters"),
        ({"max_tokens": 5, "max_completion_tokens": 6}, "not both"),
        ({"stream_options": {"include_usage": True}}, "stream_options is for streams"),
        ({"extra_body": {"strenght": 1}}, "strenght is not known here; leave it out"),
        ({"extra_body": {"best_of": 2}, "stream": True}, "cannot be streamed"),
        ({"extra_body": {"best_of": 2}}, "the bare model has nothing to choose the best by"),
        ({"messages": []}, "messages must have 1 to 1000 entries"),
        ({"messages": [{"role": "user", "content": " "}]}, "the prompt is blank"),
        ({"messages": [{"role": "assistant", "content": "hi"}]}, "must be the user's"),
        ({"messages": [{"role": "tool", "content": "hi"}]}, "ppedge calls no tools"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
            "ppedge reads text alone",
        ),
    ]
    for given, line in refused:
        with pytest.raises(openai.BadRequestError, match=line) as caught:
            served.client.chat.completions.create(**{"model": "ppedge", "messages": ASK, **given})
        assert caught.value.type == "invalid_request_error"
        assert "\n" not in caught.value.message


def test_an_unknown_model_or_persona_is_not_found(served: Running) -> None:
    for model in ("gpt-4o", "ppedge:", "ppedge:nobody", "ppedge:../anna", "ppedge:.", "ppedge:a/b"):
        with pytest.raises(openai.NotFoundError) as caught:
            served.client.chat.completions.create(model=model, messages=ASK)
        assert caught.value.code == "model_not_found"
        with pytest.raises(openai.NotFoundError):
            served.client.chat.completions.create(model=model, messages=ASK, stream=True)


def test_a_prompt_over_the_context_says_how_many_tokens_fit(served: Running) -> None:
    for stream in (False, True):
        with pytest.raises(openai.BadRequestError, match="2048 fit; shorten it"):
            served.client.completions.create(model="ppedge", prompt="rain " * 3000, stream=stream)


def test_a_wrong_key_is_an_authentication_error(served: Running) -> None:
    stranger = openai.OpenAI(base_url=f"{served.base}/v1", api_key="wrong", max_retries=0)
    with pytest.raises(openai.AuthenticationError, match="the token that `ppedge serve` shows"):
        stranger.models.list()


def test_a_model_without_a_plug_answers_and_explains(tmp_path: Path) -> None:
    command = Command(tmp_path / "home")
    keep(command, "anna", with_output(ANNA), tmp_path)
    with running(command, "--plug", "none") as server:
        assert chatted(server, ANNA_MODEL)
        found = server.said("/why", {"model": ANNA_MODEL, "prompt": PROMPT})
        assert found["null_weight"] is None
        assert found["heaviest"] == []
        assert {turn["name"] for turn in found["turns"]} == {"a1", "a2", "a3", "a4"}
