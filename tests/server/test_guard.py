"""Who may ask `ppedge serve`, and what of: token, Host, Origin, type and size."""

from __future__ import annotations

import http.client
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from ppedge.server.secret import kept_token
from tests.command import Command
from tests.server.running import TOKEN, Running, running

ASK = {"model": "ppedge", "prompt": "rain", "max_tokens": 1}
GUARDED = ("/v1/models", "/v1/models/ppedge", "/personas", "/personas/anna/notes", "/openapi.json")
PAGE = ("/", "/page.js", "/page.css", "/icon.svg")


def error_of(response: httpx.Response, status: int) -> str:
    """The line of an error in OpenAI's shape."""
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert "\n" not in error["message"]
    return error["message"]


def sent(server: Running, data: bytes) -> bytes:
    """All that the server responds to these bytes."""
    with server.raw(data) as sock:
        received = b""
        while more := sock.recv(1 << 16):
            received += more
        return received


# --- the token ---


@pytest.mark.parametrize("path", GUARDED)
def test_every_path_needs_the_token(served: Running, path: str) -> None:
    assert served.get(path).status_code == 200
    for value in ("", "Bearer", f"Basic {TOKEN}", f"Bearer {TOKEN}x", "Bearer \xff"):
        headers = {b"Authorization": value.encode("latin-1")} if value else {}
        refused = httpx.get(served.base + path, headers=headers)
        assert "the token that `ppedge serve` shows" in error_of(refused, 401)
        assert refused.headers["www-authenticate"] == "Bearer"


def test_posting_needs_it_before_the_body_is_looked_at(served: Running) -> None:
    for path in ("/v1/chat/completions", "/v1/completions", "/why", "/personas/anna/forget"):
        error_of(httpx.post(served.base + path, content=b"{"), 401)


def test_two_tokens_in_one_request_are_none(served: Running) -> None:
    headers = [("Authorization", f"Bearer {TOKEN}"), ("Authorization", "Bearer other")]
    error_of(httpx.get(served.base + "/personas", headers=headers), 401)


@pytest.mark.parametrize("path", PAGE)
def test_the_page_needs_none_and_holds_nothing_of_anybody(served: Running, path: str) -> None:
    response = httpx.get(served.base + path)
    assert response.status_code == 200
    assert "default-src 'none'" in response.headers["content-security-policy"]
    assert "unsafe" not in response.headers["content-security-policy"]
    assert TOKEN not in response.text


# --- where it comes from ---


@pytest.mark.parametrize("path", ["/", "/personas"])
def test_a_name_that_was_bound_to_loopback_is_refused(served: Running, path: str) -> None:
    for host in (
        "evil.example",
        "localhost.evil.example",
        "192.168.1.5",
        "127.0.0.1.nip.io",
        "[::2]",
    ):
        refused = httpx.get(served.base + path, headers={**served.headers, "Host": host})
        assert "does not go by that Host" in error_of(refused, 403)
    for host in ("localhost", "LOCALHOST:1", "127.0.0.1:80", f"[::1]:{served.port}"):
        assert served.get(path).status_code == 200
        good = httpx.get(served.base + path, headers={**served.headers, "Host": host})
        assert good.status_code == 200


def test_a_request_with_no_host_or_with_two_is_refused(served: Running) -> None:
    old = sent(served, b"GET /personas HTTP/1.0\r\n\r\n")
    assert old.startswith(b"HTTP/1.1 403")
    two = b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\nConnection: close\r\n\r\n"
    assert sent(served, two).startswith((b"HTTP/1.1 400", b"HTTP/1.1 403"))


def test_a_page_of_another_origin_is_refused_even_with_the_token(served: Running) -> None:
    host = f"127.0.0.1:{served.port}"
    for origin in (
        "http://evil.example",
        "null",
        f"https://{host}",
        "http://127.0.0.1:1",
        f"http://localhost:{served.port}",
    ):
        headers = {**served.headers, "Origin": origin}
        refused = httpx.post(served.base + "/v1/completions", headers=headers, json=ASK)
        assert "pages from elsewhere" in error_of(refused, 403)
        assert "access-control-allow-origin" not in refused.headers
        preflight = httpx.options(served.base + "/v1/completions", headers={"Origin": origin})
        assert preflight.status_code == 403
    headers = {**served.headers, "Origin": f"http://{host}"}
    assert httpx.get(served.base + "/personas", headers=headers).status_code == 200


def test_other_machines_are_let_in_only_where_that_was_said(
    tmp_path: Path, endless_model: list[str | Path]
) -> None:
    command = Command(tmp_path / "home")
    told = command.error("serve", "--host", "0.0.0.0", code=2)
    assert "nothing is encrypted" in told
    assert "--allow-network" in told
    words = ("--host", "0.0.0.0", "--allow-network", "--allow-host", "Laptop.Example")
    with running(command, *endless_model, *words) as server:
        assert any("warning: other machines" in line for line in server.errors)
        base = f"http://127.0.0.1:{server.port}/personas"
        for host, status in (
            ("laptop.example", 200),
            ("192.168.1.5:80", 200),
            ("[fe80::1]", 200),
            ("evil.example", 403),
        ):
            got = httpx.get(base, headers={**server.headers, "Host": host})
            assert got.status_code == status, host


# --- what is sent ---


@pytest.mark.parametrize(
    ("body", "line"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON at line 1"),
        (b"[]", "the body must be a JSON object, not a list"),
        (b"null", "the body must be a JSON object, not null"),
        (b"\xff", "not UTF-8"),
        (b'{"model": "ppedge", "prompt": NaN}', "not JSON"),
        (b'{"model": "ppedge", "prompt": "\\ud800"}', "half a surrogate pair"),
        (b'{"model": 1, "prompt": "x"}', "model must be a string, not a number"),
        (b'{"prompt": "x"}', "model is missing"),
        (b'{"model": "ppedge", "prompt": null}', "prompt is missing"),
        (b'{"model": "ppedge", "prompt": "x", "seed": 1e999}', "seed must be a whole number"),
        (b'{"model": "ppedge", "prompt": "x", "seed": true}', "not a boolean"),
        (b'{"model": "ppedge", "prompt": "x", "n": true}', "n can only be 1 here"),
        (b'{"model": "ppedge", "prompt": "x", "seed": ' + b"9" * 5000 + b"}", "not JSON"),
        (b'{"model": "ppedge", "prompt": ["a", "b"]}', "prompt must have 1 to 1 entries"),
        (b'{"model": "ppedge", "prompt": [1, 2]}', "prompt must have 1 to 1 entries"),
        (b'{"a\\u0000\\ud800": 1}', "a?? is not known here"),
        (b"[" * 100_000, "nested too deeply"),
    ],
)
def test_a_bad_body_is_told_in_one_line(served: Running, body: bytes, line: str) -> None:
    headers = {**served.headers, "Content-Type": "application/json"}
    refused = httpx.post(served.base + "/v1/completions", headers=headers, content=body)
    assert line in error_of(refused, 400)


def test_a_whole_number_may_be_written_with_a_point(served: Running) -> None:
    served.said("/v1/completions", {**ASK, "max_tokens": 1.0, "n": 1.0})


def test_a_body_that_does_not_say_it_is_json_is_refused(served: Running) -> None:
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""):
        headers = {**served.headers, "Content-Type": kind}
        content = json.dumps(ASK)
        refused = httpx.post(served.base + "/v1/completions", headers=headers, content=content)
        assert "Content-Type: application/json" in error_of(refused, 415)


def test_a_body_too_large_is_refused_whether_it_says_so_or_not(served: Running) -> None:
    headers = {**served.headers, "Content-Type": "application/json"}
    path = served.base + "/v1/completions"
    large = json.dumps({**ASK, "user": "x" * (1 << 20)}).encode()
    assert "more than 1048576 bytes" in error_of(
        httpx.post(path, headers=headers, content=large), 413
    )
    pieces = (large[i : i + 65536] for i in range(0, len(large), 65536))
    told = b"413"
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=30)
    try:
        connection.request("POST", "/v1/completions", pieces, headers, encode_chunked=True)
        told = str(connection.getresponse().status).encode()
    except (BrokenPipeError, ConnectionResetError):
        pass  # It was refused before all of it was sent.
    finally:
        connection.close()
    assert told == b"413"
    served.said("/v1/completions", {**ASK, "user": "x" * 900_000})


def test_a_length_that_lies_starts_nothing(served: Running) -> None:
    huge = served.request("/v1/completions", ASK, **{"Content-Length": "9" * 30})
    assert sent(served, huge).startswith((b"HTTP/1.1 413", b"HTTP/1.1 400"))


def test_what_is_no_http_is_refused_and_the_next_is_answered(served: Running) -> None:
    for junk in (b"\x16\x03\x01\x02\x00\x01", b"GET\r\n\r\n", b"A" * 100_000, b"\0" * 50):
        assert sent(served, junk + b"\r\n\r\n").startswith(b"HTTP/1.1 400")
    served.said("/v1/completions", ASK)


@pytest.mark.parametrize("n_bytes", [20_000, 60_000])
def test_a_head_that_is_too_large_is_refused_however_it_comes(
    served: Running, n_bytes: int
) -> None:
    get = f"GET / HTTP/1.1\r\nHost: 127.0.0.1:{served.port}\r\nConnection: close\r\n".encode()
    for padding in (b"X: y\r\n" * (n_bytes // 6), b"X: " + b"y" * n_bytes + b"\r\n"):
        received = sent(served, get + padding + b"\r\n")
        assert received.startswith((b"HTTP/1.1 431", b"HTTP/1.1 400"))
    assert sent(served, get + b"X: y\r\n" * 100 + b"\r\n").startswith(b"HTTP/1.1 200")


def test_unknown_paths_and_methods_are_told(served: Running) -> None:
    assert "there is no /v1/embeddings" in error_of(served.get("/v1/embeddings"), 404)
    assert "there is no /personas/" in error_of(served.get("/personas/"), 404)
    told = error_of(served.get("/v1/completions"), 405)
    assert "takes no GET" in told
    assert error_of(served.post("/personas", {}), 405)
    assert error_of(httpx.delete(served.base + "/personas", headers=served.headers), 405)


def test_every_response_tells_the_browser_to_keep_it_to_itself(served: Running) -> None:
    for response in (
        httpx.get(served.base),
        served.get("/personas"),
        served.get("/nothing"),
        httpx.get(served.base + "/personas"),
    ):
        assert response.headers["x-content-type-options"] == "nosniff"
        assert response.headers["x-frame-options"] == "DENY"
        assert response.headers["referrer-policy"] == "no-referrer"
        assert "server" not in response.headers
    assert served.get("/personas").headers["cache-control"] == "no-store"


def test_what_was_asked_is_not_shown_on_the_terminal(served: Running) -> None:
    secret = "xylophone-of-the-tests"
    served.said("/v1/completions", {**ASK, "prompt": secret})
    served.get(f"/personas/anna/notes?text={secret}")
    served.post("/v1/completions", {**ASK, "prompt": secret * 2000})
    assert not any(secret in line for line in [*served.shown, *served.errors])


# --- the token's file ---


def test_the_token_is_made_once_and_for_its_owner_alone(tmp_path: Path) -> None:
    home = tmp_path / "new" / "home"
    token = kept_token(home)
    assert len(token) >= 40
    file = home / "server.token"
    assert file.stat().st_mode & 0o777 == 0o600
    assert home.stat().st_mode & 0o777 == 0o700
    file.chmod(0o644)
    assert kept_token(home) == token
    assert file.stat().st_mode & 0o777 == 0o600
    assert [each.name for each in home.iterdir()] == ["server.token"]


def test_servers_that_start_at_once_agree_on_the_token(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from ppedge.server.secret import kept_token;"
        "print(kept_token(Path(sys.argv[1])))"
    )
    runs: list[subprocess.Popen[Any]] = [
        subprocess.Popen([sys.executable, "-c", code, tmp_path / "home"], stdout=subprocess.PIPE)
        for _ in range(4)
    ]
    assert len({run.communicate(timeout=60)[0] for run in runs}) == 1
    assert all(run.returncode == 0 for run in runs)
