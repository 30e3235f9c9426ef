"""Clients that speak HTTP badly, slowly or not at all: a status or an end, and never a traceback or their words."""

import json
import socket
import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from croc_cli.serve.settings import Limits, ServeSettings
from tests.serve.conftest import Running

START = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
ASKED = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 2}
SECRET = "the-secret-words"


def connect(server: Running) -> socket.socket:
    host, port = server.url.removeprefix("http://").split(":")
    connection = socket.create_connection((host, int(port)))
    connection.settimeout(20)
    return connection


def with_body(body: bytes) -> bytes:
    return START + b"Content-Length: %d\r\n\r\n" % len(body) + body


def to_the_end(connection: socket.socket) -> bytes:
    """Return everything up to where the server closes."""
    said = b""
    try:
        while piece := connection.recv(65536):
            said += piece
    except ConnectionResetError:
        pass
    return said


def ask(server: Running, *sent: bytes) -> bytes:
    """Send bytes, ask for the end after them, and return what comes back."""
    with connect(server) as connection:
        for piece in sent:
            connection.sendall(piece)
        return to_the_end(connection)


CLOSE = b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
BODY = json.dumps(ASKED).encode()


def test_pipelined_chunked_and_old_requests_are_answered(server: Running) -> None:
    chunked = START + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n" % (len(BODY), BODY)
    said = ask(server, with_body(BODY) + chunked + CLOSE)
    assert said.count(b"HTTP/1.1 200 OK") == 3
    assert said.count(b'"chat.completion"') == 2
    old = ask(server, with_body(BODY).replace(b"HTTP/1.1", b"HTTP/1.0"))
    assert b" 200 OK" in old


@pytest.mark.parametrize(
    "sent",
    [
        b"GET /health HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 200_000 + b"\r\n\r\n",
        START + b"Transfer-Encoding: chunked\r\n\r\nZZ\r\n",
        START + b"Content-Length: -1\r\n\r\n",
        START + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n",
    ],
)
def test_what_is_no_http_gets_400_and_the_end(server: Running, sent: bytes) -> None:
    assert b" 400 " in ask(server, sent).split(b"\r\n")[0]


def test_nonsense_behind_an_answer_ends_the_connection(server: Running, capfd: pytest.CaptureFixture[str]) -> None:
    with connect(server) as connection:
        connection.sendall(START.replace(b"application/json", b"text/plain") + b"Transfer-Encoding: chunked\r\n\r\n")
        assert b" 415 " in connection.recv(1000)
        connection.sendall(b"ZZ\r\n")
        assert b"HTTP/" not in to_the_end(connection)
    assert "Traceback" not in capfd.readouterr().err


def test_methods_that_a_path_lacks_are_told_which_it_has(server: Running) -> None:
    url = f"{server.url}/v1/chat/completions"
    for method in ("OPTIONS", "HEAD", "GET", "DELETE"):
        answer = httpx.request(method, url)
        assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
    head = httpx.head(f"{server.url}/health")
    assert (head.status_code, head.content) == (200, b"")


@pytest.mark.parametrize("host", ["[::1]", "[::1]:80", "LOCALHOST:80", "localhost.", "127.0.0.1", "127.1.2.3:8000"])
def test_every_spelling_of_this_machine_is_let_in(server: Running, host: str) -> None:
    assert httpx.get(f"{server.url}/v1/models", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "host", ["[::", "evil.example", "localhost.evil.example", "\xff", "127.0.0.1.evil.example:80", ":80"]
)
def test_other_hosts_are_not(server: Running, host: str, capfd: pytest.CaptureFixture[str]) -> None:
    sent = f"GET /v1/models HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode("latin-1")
    assert b" 403 " in ask(server, sent).split(b"\r\n")[0]
    assert "Traceback" not in capfd.readouterr().err


def about(url: str) -> dict[str, Any]:
    picture = {"type": "image_url", "image_url": {"url": url}}
    return {"messages": [{"role": "user", "content": [picture, {"type": "text", "text": SECRET}]}]}


@pytest.mark.parametrize(
    ("change", "status"),
    [
        (about("data:\ud800/x,AA"), 422),
        (about("http://\ud800.example/x"), 422),
        (about("data:image/png;base64,\ud800"), 422),
        (about(f"data:image/png;base64,{SECRET}"), 422),
        (about(f"file:///{SECRET}"), 422),
        ({"messages": [{"role": "user", "content": [{"type": SECRET, "text": SECRET}]}]}, 400),
        ({"messages": [{"role": SECRET, "content": SECRET}]}, 400),
        ({"messages": SECRET}, 400),
        ({"stop": [SECRET] * 9}, 400),
        ({"temperature": SECRET}, 400),
        ({SECRET: SECRET, "n": SECRET}, 400),
        ({"model": "\ud800"}, 404),
    ],
)
def test_no_word_of_a_request_is_logged_or_said_back(
    server: Running, change: dict[str, Any], status: int, capfd: pytest.CaptureFixture[str]
) -> None:
    body = json.dumps({**ASKED, **change})  # half a pair as an escape, which httpx would not write
    headers = {"Content-Type": "application/json"}
    answer = httpx.post(f"{server.url}/v1/chat/completions", content=body, headers=headers)
    assert answer.status_code == status, answer.text
    assert answer.json()["error"]["message"]
    assert SECRET not in answer.text
    logged = capfd.readouterr().err
    assert SECRET not in logged
    assert "Traceback" not in logged


def test_a_compressed_body_is_refused_by_name(server: Running) -> None:
    headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
    answer = httpx.post(f"{server.url}/v1/chat/completions", content=b"\x1f\x8b", headers=headers)
    assert (answer.status_code, "Content-Encoding" in answer.json()["error"]["message"]) == (415, True)


def test_the_word_before_a_key_may_be_written_in_any_case(serve: Callable[..., Any]) -> None:
    with serve(ServeSettings(port=0, key="s3cret")) as server:
        url = f"{server.url}/v1/models"
        for scheme in ("Bearer", "bearer", "BEARER "):
            assert httpx.get(url, headers={"Authorization": f"{scheme} s3cret"}).status_code == 200
        for wrong in ("Bearer", "Basic s3cret", "Bearer s3cre", "s3cret2", ""):
            assert httpx.get(url, headers={"Authorization": wrong}).status_code == 401


def test_clients_that_hang_are_cut_off_and_slow_readers_are_not(serve: Callable[..., Any]) -> None:
    limits = Limits(stall_seconds=1.0, body_seconds=0.5)
    with serve(ServeSettings(port=0, limits=limits)) as server:
        engine = server.service.models["tiny"].engine
        silent, half_head, half_body = (connect(server) for _ in range(3))
        half_head.sendall(b"GET /health HTTP/1.1\r\nHost: ")
        half_body.sendall(START + b"Content-Length: 1000\r\n\r\n{")
        started = time.monotonic()
        assert to_the_end(silent) == to_the_end(half_head) == b""
        assert b" 408 " in to_the_end(half_body).split(b"\r\n")[0]
        assert time.monotonic() - started < 15
        body = json.dumps({**ASKED, "max_tokens": 30, "stream": True}).encode()
        with connect(server) as reader:
            reader.sendall(with_body(body).replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n", 1))
            time.sleep(1.5)  # longer than a client may hang, but all of the answer fits into the buffers
            assert to_the_end(reader).rstrip().endswith(b"0")
        assert engine.load() == (0, 0)


def test_an_answer_that_nobody_reads_ends(serve: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("croc_cli.serve.app._event", lambda _content: b"data: " + b"x" * 1_000_000 + b"\n\n")
    with serve(ServeSettings(port=0, limits=Limits(stall_seconds=0.5))) as server:
        engine = server.service.models["tiny"].engine
        with connect(server) as reader:
            reader.sendall(with_body(json.dumps({**ASKED, "max_tokens": 300, "stream": True}).encode()))
            deadline = time.monotonic() + 30
            while engine.load() == (0, 0) and time.monotonic() < deadline:
                time.sleep(0.01)
            while engine.load() != (0, 0) and time.monotonic() < deadline:
                time.sleep(0.05)
            said = to_the_end(reader)  # what was in the buffers, then the end
            assert b"[DONE]" not in said
        assert engine.load() == (0, 0)
