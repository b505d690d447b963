"""Many clients, slow ones, ones that go away, and an end in the middle of it all."""

from __future__ import annotations

import asyncio
import http.client
import json
import signal
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from ppedge.personalizer import Personalizer
from ppedge.server.app import make_app
from ppedge.server.errors import ApiError
from ppedge.server.guard import Limits
from ppedge.server.line import Job, Line
from tests.server.inside import inside, wait_until
from tests.server.running import TOKEN, Running

HEADERS = {"Authorization": f"Bearer {TOKEN}"}
LONG = {"model": "ppedge", "prompt": "go on", "max_tokens": 90_000, "temperature": 0}
SHORT = {**LONG, "max_tokens": 6}
BRIEFLY = 30
"""Seconds: nothing here takes so long on a busy machine, and LONG far longer on an idle one."""


def events(response: httpx.Response) -> Iterator[Any]:
    """The events of a stream, parsed; "[DONE]" as it is."""
    for line in response.iter_lines():
        if line:
            data = line.removeprefix("data: ")
            yield data if data == "[DONE]" else json.loads(data)


# --- who goes away ---


def test_a_client_that_goes_away_frees_the_model(endless: Running) -> None:
    url = f"{endless.base}/v1/completions"
    with httpx.stream("POST", url, headers=HEADERS, json={**LONG, "stream": True}) as response:
        seen = events(response)
        texts = [next(seen)["choices"][0]["text"] for _ in range(20)]
        assert "onagi" in "".join(texts)
    waiting = [endless.raw(endless.request("/v1/completions", LONG)) for _ in range(3)]
    assert endless.get("/personas").status_code == 200  # Those before it are in the line.
    for sock in waiting:
        sock.close()
    began = time.monotonic()
    done = endless.said("/v1/completions", SHORT)
    # Any one of the four would take longer than this.
    assert time.monotonic() - began < BRIEFLY
    assert done["usage"]["completion_tokens"] == 6


def test_openai_s_client_stops_a_stream_by_closing_it(endless: Running) -> None:
    stream = endless.client.completions.create(**LONG, stream=True)
    assert next(iter(stream)) is not None
    stream.close()
    began = time.monotonic()
    endless.said("/v1/completions", SHORT)
    assert time.monotonic() - began < BRIEFLY


# --- who is slow ---


@pytest.fixture(scope="module")
def personalizer(endless_model: list[str | Path]) -> Iterator[Personalizer]:
    with Personalizer.open(endless_model[1], "none", n_ctx=100_000, n_threads=1) as opened:
        yield opened


def scope_of(body: dict[str, Any]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """What an ASGI server hands on of a request."""
    headers = {
        b"host": b"localhost",
        b"authorization": f"Bearer {TOKEN}".encode(),
        b"content-type": b"application/json",
    }
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/v1/completions",
        "headers": list(headers.items()),
        "query_string": b"",
    }
    return scope, [{"type": "http.request", "body": json.dumps(body).encode(), "more_body": False}]


def test_a_client_that_reads_nothing_keeps_the_model_from_nobody(
    personalizer: Personalizer,
) -> None:
    async def ask(app: Any, body: dict[str, Any], may_send: asyncio.Event) -> list[Any]:
        scope, left = scope_of(body)
        sent: list[Any] = []

        async def receive() -> Any:
            if left:
                return left.pop()
            await asyncio.Event().wait()

        async def send(message: Any) -> None:
            sent.append(message)
            await may_send.wait()

        await app(scope, receive, send)
        return sent

    async def both() -> None:
        with Line(4) as line:
            app = make_app(personalizer, line, token=TOKEN, limits=Limits())
            reads, never = asyncio.Event(), asyncio.Event()
            reads.set()
            slow = asyncio.create_task(ask(app, {**LONG, "max_tokens": 300, "stream": True}, never))
            await asyncio.sleep(0)
            async with asyncio.timeout(30):
                fast = await ask(app, SHORT, reads)
            assert json.loads(fast[-1]["body"])["usage"]["completion_tokens"] == 6
            assert not slow.done()
            never.set()
            async with asyncio.timeout(30):
                late = await slow
            # Nothing of it was lost: an opening, the pieces, a closing, and [DONE].
            assert len(late) > 100
            assert late[-1]["body"] == b"data: [DONE]\n\n"

    asyncio.run(both())


def test_a_client_that_reads_nothing_for_long_is_given_up(personalizer: Personalizer) -> None:
    limits = Limits(stuck_seconds=0.5)
    with inside(personalizer, limits) as server:
        body = json.dumps({**LONG, "stream": True}).encode()
        head = (
            f"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        with socket.socket() as stuck:
            stuck.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
            stuck.connect(("127.0.0.1", server.port))
            stuck.sendall(head.encode() + body)
            wait_until(lambda: server.connections == 1)
            wait_until(lambda: server.connections == 0, 60)
            wait_until(lambda: not server.line._jobs)


def test_a_client_that_asks_nothing_is_given_up(personalizer: Personalizer) -> None:
    with inside(personalizer, Limits(head_seconds=0.3)) as server:
        where = ("127.0.0.1", server.port)
        with socket.create_connection(where, timeout=20) as silent, suppress(ConnectionResetError):
            assert silent.recv(100) == b""
        with socket.create_connection(where, timeout=20) as slow:
            slow.sendall(b"GET / HTTP/1.1\r\nHo")
            response = http.client.HTTPResponse(slow)
            response.begin()
            assert (response.status, response.getheader("connection")) == (408, "close")
            told = json.load(response)["error"]["message"]
            assert told == "the head of the request did not arrive within 0.3 seconds"
            assert slow.recv(100) == b""
        # One that did ask is not hurried.
        with httpx.Client(base_url=f"http://127.0.0.1:{server.port}", headers=HEADERS) as client:
            for _ in range(2):
                assert client.get("/personas").status_code == 200
                time.sleep(0.5)
            assert server.connections == 1


def test_a_body_that_comes_too_slowly_is_refused(personalizer: Personalizer) -> None:
    with inside(personalizer, Limits(body_seconds=0.3)) as server:
        head = (
            f"POST /why HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\n"
            "Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{"
        )
        with socket.create_connection(("127.0.0.1", server.port), timeout=20) as slow:
            slow.sendall(head.encode())
            response = http.client.HTTPResponse(slow)
            response.begin()
            assert response.status == 408
            assert "did not arrive within 0.3 seconds" in json.load(response)["error"]["message"]


def test_an_answer_ends_when_its_time_is_up(personalizer: Personalizer) -> None:
    with inside(personalizer, Limits(answer_seconds=0.5)) as server:
        url = f"http://127.0.0.1:{server.port}/v1/completions"
        done = httpx.post(url, headers=HEADERS, json=LONG, timeout=60).json()
    assert done["choices"][0]["finish_reason"] == "length"
    assert 0 < done["usage"]["completion_tokens"] < LONG["max_tokens"]


# --- the line ---


def test_a_full_line_says_when_to_come_back(personalizer: Personalizer) -> None:
    with inside(personalizer, Limits(waiting=1)) as server, ThreadPoolExecutor(2) as pool:
        url = f"http://127.0.0.1:{server.port}/v1/completions"
        with httpx.stream(
            "POST", url, headers=HEADERS, json={**LONG, "stream": True}, timeout=60
        ) as response:
            seen = events(response)
            assert "choices" in next(seen)
            waits = pool.submit(httpx.post, url, headers=HEADERS, json=SHORT, timeout=60)
            wait_until(lambda: len(server.line._jobs) == 2)
            refused = httpx.post(url, headers=HEADERS, json=SHORT)
            assert refused.status_code == 503
            assert refused.headers["retry-after"] == "2"
            assert refused.json()["error"]["code"] == "busy"
            # What needs no model is answered all the same.
            assert httpx.get(url.replace("/v1/completions", "/personas"), headers=HEADERS)
        assert waits.result(60).status_code == 200


def test_jobs_are_done_one_by_one_in_the_order_in_which_they_came() -> None:
    done: list[str] = []
    gate = threading.Event()

    def work(name: str) -> Any:
        def worked(job: Job) -> None:
            gate.wait(20)
            done.append(f"{name} begins")
            job.tell(name)
            done.append(f"{name} ends")

        return worked

    async def all_of_them() -> None:
        with Line(3) as line:
            first, second, third = (line.join(work(name)) for name in "abc")
            last = line.join(work("d"))
            with pytest.raises(ApiError, match="3 requests wait"):
                line.join(work("e"))
            third.cancel()
            gate.set()
            told = [[piece async for piece in job] for job in (last, third, second, first)]
            assert told == [["d"], [], ["b"], ["a"]]

    asyncio.run(all_of_them())
    assert done == [f"{name} {what}" for name in "abd" for what in ("begins", "ends")]


def test_what_a_job_raises_is_raised_where_it_is_read() -> None:
    def fails(job: Job) -> None:
        job.tell(1)
        raise ValueError("such")

    async def read() -> None:
        with Line(1) as line:
            told = aiter(line.join(fails))
            assert await anext(told) == 1
            with pytest.raises(ValueError, match="such"):
                await anext(told)
            # And the thread goes on.
            assert [piece async for piece in line.join(lambda job: job.tell(2))] == [2]

    asyncio.run(read())


def test_nobody_joins_a_line_that_ends() -> None:
    async def join() -> None:
        with Line(1) as line:
            line.cancel_all()
            with pytest.raises(ApiError, match="the server is ending"):
                line.join(lambda job: None)

    asyncio.run(join())


# --- many at once ---


def test_many_clients_of_two_personas_get_what_each_gets_alone(served: Running) -> None:
    prompts = ["Write about the rain", "How is the bread?", "And the bicycle?"]
    asks = [
        {"model": f"ppedge:{name}", "prompt": prompt, "seed": 5, "max_tokens": 10}
        for prompt in prompts
        for name in ("anna", "bert")
    ]

    def text(ask: dict[str, Any]) -> str:
        return str(served.said("/v1/completions", ask)["choices"][0]["text"])

    def streamed(ask: dict[str, Any]) -> str:
        chunks = served.client.completions.create(**ask, stream=True)
        return "".join(chunk.choices[0].text for chunk in chunks)

    alone = [text(ask) for ask in asks]
    assert not set(alone[::2]) & set(alone[1::2])
    assert all(text == text.upper() != text.lower() for text in alone[1::2])
    with ThreadPoolExecutor(12) as pool:
        whole = [pool.submit(text, ask) for ask in asks]
        parts = [pool.submit(streamed, ask) for ask in reversed(asks)]
        assert [each.result() for each in whole] == alone
        assert [each.result() for each in reversed(parts)] == alone


# --- the end ---


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130), (signal.SIGHUP, 0)]
)
def test_a_signal_ends_it_under_load_and_each_client_is_told(
    endless: Running, number: int, code: int
) -> None:
    stream, whole = (
        endless.request("/v1/completions", {**LONG, "stream": each}) for each in (True, False)
    )
    asleep = endless.raw(stream, receive_buffer=2048)
    assert asleep.recv(12) == b"HTTP/1.1 200"
    waiting = [endless.raw(whole), endless.raw(whole), endless.raw(stream)]
    # By when this one is answered, those before it are in the line.
    assert endless.get("/personas").status_code == 200
    began = time.monotonic()
    assert endless.end(number, BRIEFLY) == code
    assert time.monotonic() - began < BRIEFLY
    for sock in waiting:
        with sock:
            received = b"".join(iter(lambda sock=sock: sock.recv(1 << 16), b""))
        assert received.startswith(b"HTTP/1.1 503")
        assert b'"code":"ending"' in received
    asleep.close()
    assert endless.errors[-1] in ("ppedge: ended", "Aborted!")


def test_a_stream_that_is_cut_by_the_end_does_not_look_whole(endless: Running) -> None:
    url = f"{endless.base}/v1/completions"
    body = {**LONG, "stream": True}
    with httpx.stream("POST", url, headers=HEADERS, json=body, timeout=60) as response:
        seen = events(response)
        assert "choices" in next(seen)
        endless.process.send_signal(signal.SIGTERM)
        *_, last = seen
    assert last["error"]["code"] == "ending"
    assert endless.end() == 0


def test_an_idle_server_ends_at_once(endless: Running) -> None:
    with httpx.Client(base_url=endless.base, headers=HEADERS) as client:
        assert client.get("/personas").status_code == 200
        began = time.monotonic()
        assert endless.end(signal.SIGINT, BRIEFLY) == 130
        assert time.monotonic() - began < BRIEFLY
