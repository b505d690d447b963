"""The bodies of requests: OpenAI's fields as far as they mean something here, and ppedge's own.

A field that would change the answer and cannot be honoured is refused, never passed over; a field
of a client's book-keeping is taken and does nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from ppedge.errors import ModelError, StoreError
from ppedge.llm.candidates import ensure_count
from ppedge.llm.sampling import MAX_CANDIDATES, MAX_SEED, MAX_STRENGTH, Sampling
from ppedge.notes.text import is_blank
from ppedge.server.errors import bad
from ppedge.server.fields import (
    Anything,
    Field,
    Flag,
    Form,
    Integer,
    ListOf,
    Number,
    OneOrMore,
    Only,
    Text,
)
from ppedge.store.scope import Scope, parse_scope
from ppedge.turns.form import Turn

_ONE_ANSWER: Final = "ask again, with another seed, for another answer"
_NO_TOOLS: Final = "ppedge calls no tools"
_NO_PROBABILITIES: Final = "ppedge reports no probabilities"
_NO_PENALTIES: Final = "ppedge has its own rules against loops and copies"

_SAMPLING: Final[dict[str, Field]] = {
    "max_tokens": Integer(1, 1_000_000),
    "temperature": Number(0, 2),
    "top_p": Number(0, 1, above=True),
    "seed": Integer(0, MAX_SEED),
    "stop": OneOrMore(Text(1, 256), ListOf(Text(1, 256), 0, 16)),
}
# Which notes of the persona bear on the answer.
_SCOPE: Final[dict[str, Field]] = {
    "only": ListOf(Text(1, 300), 0, 20),
    "since": Number(-1e11, 1e11),
    "until": Number(-1e11, 1e11),
}
_SHARED: Final[dict[str, Field]] = {
    "model": Text(1, 300),
    **_SAMPLING,
    **_SCOPE,
    "stream": Flag(),
    "stream_options": Form({"include_usage": Flag(), "include_obfuscation": Only((False,))}),
    "strength": Number(0, MAX_STRENGTH),
    "best_of": Integer(1, MAX_CANDIDATES),
    "n": Only((1,), _ONE_ANSWER),
    "presence_penalty": Only((0,), _NO_PENALTIES),
    "frequency_penalty": Only((0,), _NO_PENALTIES),
    "logit_bias": Only(({},), "ppedge takes no bias of tokens"),
    "user": Anything(),
    "metadata": Anything(),
}
_PART: Final = Form({"type": Only(("text",), "ppedge reads text alone"), "text": Text()}, ["text"])
_MESSAGE: Final = Form(
    {
        "role": Only(("system", "developer", "user", "assistant"), _NO_TOOLS),
        "content": OneOrMore(Text(), ListOf(_PART, 1, 100)),
        "name": Anything(),
        # What OpenAI's own client gives back of an earlier answer.
        "refusal": Only(()),
        "annotations": Only(([],)),
        "audio": Only(()),
        "function_call": Only(()),
        "tool_calls": Only(([],), _NO_TOOLS),
    },
    ["role", "content"],
)

CHAT: Final = Form(
    {
        **_SHARED,
        "messages": ListOf(_MESSAGE, 1, 1000),
        "max_completion_tokens": Integer(1, 1_000_000),
        "logprobs": Only((False,), _NO_PROBABILITIES),
        "top_logprobs": Only((0,), _NO_PROBABILITIES),
        "response_format": Only(({"type": "text"},), "ppedge writes free text"),
        "modalities": Only((["text"],), "ppedge writes text alone"),
        "tools": Only(([],), _NO_TOOLS),
        "tool_choice": Only(("none", "auto"), _NO_TOOLS),
        "parallel_tool_calls": Anything(),
        "store": Only((False,), "ppedge keeps no answers"),
        "safety_identifier": Anything(),
        "prompt_cache_key": Anything(),
    },
    ["model", "messages"],
)
COMPLETION: Final = Form(
    {
        **_SHARED,
        "prompt": OneOrMore(Text(), ListOf(Text(), 1, 1)),
        "echo": Only((False,), "put the prompt before the answer yourself"),
        "suffix": Only(("",), "ppedge writes no text before another"),
        "logprobs": Only((), _NO_PROBABILITIES),
    },
    ["model", "prompt"],
)
WHY: Final = Form(
    {"model": Text(1, 300), "prompt": Text(), "top": Integer(0, 100), **_SCOPE},
    ["model", "prompt"],
)
FORGET: Final = Form({"ids": ListOf(Text(1, 10_000), 1, 100)}, ["ids"])


@dataclass(frozen=True, slots=True)
class Asked:
    """What a client wants written.

    Attributes:
        model: by the name that the client gave.
        scope: which of the persona's notes.
        prompt: what is asked.
        conversation: what was asked and answered before, oldest first.
        sampling: how tokens are chosen.
        strength: how much of the persona.
        best_of: answers to choose from.
        stream: whether pieces are sent as they come.
        include_usage: whether a stream ends with the counts.
    """

    model: str
    scope: Scope
    prompt: str
    conversation: list[Turn]
    sampling: Sampling
    strength: float
    best_of: int
    stream: bool
    include_usage: bool


def read_chat(body: Any) -> Asked:
    """Read the body of ``/v1/chat/completions``.

    Raises:
        ApiError: 400.
    """
    given = CHAT.read(body)
    longest = given.pop("max_completion_tokens", None)
    if longest is not None and given.setdefault("max_tokens", longest) != longest:
        raise bad("give max_completion_tokens or max_tokens, not both", "max_tokens")
    prompt, conversation = _dialogue(given["messages"])
    return _asked(given, prompt, conversation, "messages")


def read_completion(body: Any) -> Asked:
    """Read the body of ``/v1/completions``.

    Raises:
        ApiError: 400.
    """
    given = COMPLETION.read(body)
    return _asked(given, given["prompt"][0], [], "prompt")


def read_scope(given: dict[str, Any]) -> Scope:
    """The scope that a body's fields name; all notes where they name none.

    Raises:
        ApiError: 400.
    """
    try:
        return parse_scope(tuple(given.get("only", ())), given.get("since"), given.get("until"))
    except StoreError as error:
        raise bad(str(error), "only") from None


def _asked(given: dict[str, Any], prompt: str, conversation: list[Turn], where: str) -> Asked:
    if is_blank(prompt):
        raise bad(f"{where}: the prompt is blank; say what to write about", where)
    stream, best_of = given.get("stream", False), given.get("best_of", 1)
    options = given.get("stream_options")
    if options is not None and not stream:
        raise bad("stream_options is for streams; give stream: true too", "stream_options")
    if stream and best_of > 1:
        raise bad("the best of several answers cannot be streamed; leave out stream", "best_of")
    sampling = {name: given[name] for name in _SAMPLING if name in given}
    sampling["stop"] = tuple(given.get("stop", ()))
    try:
        ensure_count(best_of)
        drawn = Sampling(**sampling)
    except ModelError as error:
        raise bad(str(error)) from None
    return Asked(
        given["model"],
        read_scope(given),
        prompt,
        conversation,
        drawn,
        given.get("strength", 1.0),
        best_of,
        stream,
        bool(options and options.get("include_usage")),
    )


# --- a conversation ---


def _dialogue(messages: Sequence[dict[str, Any]]) -> tuple[str, list[Turn]]:
    """The last prompt, and the turns before it.

    ppedge's turns know two sides only. What a system message says is put before the last prompt,
    where it stays however much of a long conversation has to make way.
    """
    system: list[str] = []
    said: list[tuple[str, str]] = []
    for message in messages:
        side, text = message["role"], _text(message["content"])
        if side in ("system", "developer"):
            system += [] if is_blank(text) else [text]
        elif said and said[-1][0] == side:
            said[-1] = (side, f"{said[-1][1]}\n\n{text}")
        else:
            said.append((side, text))
    if not said or said[-1][0] != "user":
        raise bad(
            "the last of messages must be the user's, as that is what is answered", "messages"
        )
    if said[0][0] != "user":
        raise bad("the first of messages, system's aside, must be the user's", "messages")
    *before, (_, last) = said
    turns = [
        Turn(ask, answer) for (_, ask), (_, answer) in zip(before[::2], before[1::2], strict=True)
    ]
    return last if is_blank(last) else "\n\n".join([*system, last]), turns


def _text(content: Sequence[str | dict[str, Any]]) -> str:
    return "\n".join(part if isinstance(part, str) else part["text"] for part in content)
