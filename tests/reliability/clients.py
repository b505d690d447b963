"""``ppedge serve`` under many clients at once: honest, slow, gone in the middle, and hostile ones.

Each person's answers are known from asking alone, and no two persons have one in common: an answer
that is not the person's own shows, and so does one that is another's.
"""

from __future__ import annotations

import json
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import httpx

from tests.reliability.setting import Found, letters, scratch, tiny_command
from tests.server.running import Running, keep, running

PEOPLE = 8
TIMES = 3
"""Requests that each client makes."""

SHARES = {"honest": 0.6, "slow": 0.1, "gone": 0.1, "hostile": 0.2}
PATIENCE = 600
"""Seconds that an honest client goes on asking while it is told to come back."""

COME_BACK = (503, 408)
"""Told to come back; where the machine is so busy that a body takes 10 seconds, too."""


@dataclass
class Crowd:
    """All clients of one server, and what they were told.

    Attributes:
        server: asked by all.
        alone: what each model answers to each prompt when nobody else asks.
        secrets: words of the notes, one each, that no answer to a stranger may hold.
    """

    server: Running
    alone: dict[tuple[str, str], str]
    secrets: list[str]
    counts: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def count(self, what: str) -> None:
        """Count one more."""
        with self.lock:
            self.counts[what] += 1

    def blame(self, what: str) -> None:
        """Note what must not be."""
        with self.lock:
            self.wrong.append(what)


def run(clients: int) -> Found:
    """So many clients at once, then an end by a signal."""
    with scratch() as folder:
        command, chance = tiny_command(folder), random.Random(11)
        secrets = [letters(chance, 12) for _ in range(PEOPLE)]
        for number, secret in enumerate(secrets):
            notes = [{"id": f"{i}", "text": f"{secret} {letters(chance, 40)}"} for i in range(6)]
            keep(command, f"p{number}", notes, folder)
        with running(command, "--context", "512") as server:
            crowd = Crowd(server, _asked_alone(server), secrets)
            kinds = [kind for kind, share in SHARES.items() for _ in range(round(clients * share))]
            with ThreadPoolExecutor(len(kinds)) as pool:
                for number, kind in enumerate(kinds):
                    pool.submit(_client, crowd, kind, random.Random(number))
            still = server.get("/personas").status_code
            began = time.monotonic()
            code = server.end()  # It checks that no traceback was shown.
            ended = time.monotonic() - began
    if still != 200 or code:
        crowd.wrong.append(f"afterwards it answered {still}, and ended with {code}")
    return Found(
        {
            "clients at once": len(kinds),
            **crowd.counts,
            "answers of another person": sum("another's" in line for line in crowd.wrong),
            "exit code": code,
            "seconds to end": round(ended, 1),
        },
        crowd.wrong,
    )


def _asked_alone(server: Running) -> dict[tuple[str, str], str]:
    alone = {
        (f"ppedge:p{number}", prompt): _text(server.said("/v1/completions", body))
        for number in range(PEOPLE)
        for prompt in ("rain", "bread")
        for body in [_body(f"ppedge:p{number}", prompt)]
    }
    assert len(set(alone.values())) == len(alone), "two persons answer alike"
    return alone


def _body(model: str, prompt: str, **more: Any) -> dict[str, Any]:
    return {"model": model, "prompt": prompt, "seed": 5, "max_tokens": 12, **more}


def _text(answer: dict[str, Any]) -> str:
    return str(answer["choices"][0]["text"])


def _client(crowd: Crowd, kind: str, chance: random.Random) -> None:
    act: Callable[[Crowd, random.Random], None] = {
        "honest": _honest, "slow": _slow, "gone": _gone, "hostile": _hostile,
    }[kind]  # fmt: skip
    for _ in range(TIMES):
        try:
            act(crowd, chance)
        except Exception as error:
            crowd.blame(f"a {kind} client: {type(error).__name__}: {error}")


def _honest(crowd: Crowd, chance: random.Random) -> None:
    """Ask for a person's answer, whole or as a stream, until it comes."""
    model, prompt = chance.choice([*crowd.alone])
    stream = chance.random() < 0.5
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        response = crowd.server.post("/v1/completions", _body(model, prompt, stream=stream))
        if response.status_code == 200:
            _judge(crowd, (model, prompt), _streamed(response.text) if stream else None, response)
            return
        if response.status_code not in COME_BACK:
            crowd.blame(f"an honest client was told {response.status_code}: {response.text[:200]}")
            return
        crowd.count("told to come back")
        time.sleep(chance.uniform(0.5, 3))
    crowd.blame("an honest client was never answered")


def _judge(
    crowd: Crowd, asked: tuple[str, str], text: str | None, response: httpx.Response
) -> None:
    text = _text(response.json()) if text is None else text
    if text == crowd.alone[asked]:
        crowd.count("answers")
    elif any(text == other for key, other in crowd.alone.items() if key != asked):
        crowd.blame(f"{asked} was given another's answer")
    else:
        crowd.blame(f"{asked} was answered otherwise than alone: {text!r}")


def _streamed(body: str) -> str:
    datas = [line.removeprefix("data: ") for line in body.splitlines() if line]
    return "".join(_text(json.loads(data)) for data in datas if data != "[DONE]")


def _slow(crowd: Crowd, chance: random.Random) -> None:
    """Ask for a stream, and read it a few bytes at a time through a small buffer."""
    model, prompt = chance.choice([*crowd.alone])
    request = crowd.server.request("/v1/completions", _body(model, prompt, stream=True))
    with crowd.server.raw(request, receive_buffer=1024) as sock:
        data = b""
        while b"[DONE]" not in data and b"HTTP/1.1 503" not in data:
            piece = sock.recv(64)
            if not piece:
                break
            data += piece
            time.sleep(0.002)
    if any(secret.encode() in data for secret in crowd.secrets):
        crowd.blame("a stream held a secret")
    crowd.count("slow streams")


def _gone(crowd: Crowd, chance: random.Random) -> None:
    """Ask, and hang up at some moment."""
    model, prompt = chance.choice([*crowd.alone])
    stream = chance.random() < 0.5
    request = crowd.server.request("/v1/completions", _body(model, prompt, stream=stream))
    cut = chance.choice((len(request), len(request), chance.randrange(1, len(request))))
    with crowd.server.raw(request[:cut]):
        time.sleep(chance.uniform(0, 0.5))
    crowd.count("hung up")


def _hostile(crowd: Crowd, chance: random.Random) -> None:
    """Send what no honest client sends; nothing of anybody may come back, and no inner error."""
    attack = chance.choice(_ATTACKS)
    with crowd.server.raw(attack(crowd.server, chance)) as sock:
        sock.settimeout(60)
        try:
            data = b"".join(iter(lambda: sock.recv(1 << 16), b""))
        except (TimeoutError, ConnectionResetError):
            data = b""
    status = data.split(b" ", 2)[1:2]
    if status and status[0] not in (b"400", b"401", b"403", b"404", b"405", b"408", b"413", b"415",
                                    b"421", b"422", b"431", b"503"):  # fmt: skip
        crowd.blame(f"an attack was answered {status[0]!r}: {data[:200]!r}")
    if any(secret.encode() in data for secret in crowd.secrets):
        crowd.blame("an attack was answered with a secret")
    crowd.count("attacks")


def _close(server: Running, body: Any, path: str = "/v1/completions", **headers: str) -> bytes:
    return server.request(path, body, Connection="close", **headers)


_ATTACKS: tuple[Callable[[Running, random.Random], bytes], ...] = (
    lambda server, chance: chance.randbytes(400) + b"\r\n\r\n",
    lambda server, chance: (
        b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"X: y\r\n" * 60_000 + b"\r\n"
    ),
    lambda server, chance: _close(server, _body("ppedge:p0", "x"), Authorization="Bearer no"),
    lambda server, chance: _close(server, _body("ppedge:p0", "x"), Host="evil.example"),
    lambda server, chance: _close(server, _body("ppedge:p0", "x"), Origin="http://evil.example"),
    lambda server, chance: _close(server, _body("ppedge:../p0", "x")),
    lambda server, chance: _close(server, _body("ppedge:p0/../p1", "x")),
    lambda server, chance: _close(server, _body("ppedge:p0", "x", n=99)),
    lambda server, chance: _close(server, "[" * 100_000),
    lambda server, chance: _close(server, {"ids": ["nobody"]}, "/personas/p0%2f..%2fp1/forget"),
    lambda server, chance: _close(server, {"ids": ["nobody"]}, "/personas/nobody/forget"),
    lambda server, chance: server.request("/why", {"model": "x"}, **{"Content-Length": "9" * 30}),
    lambda server, chance: _close(server, _body("ppedge:p0", "x"), **{"Content-Type": "text/xml"}),
)
