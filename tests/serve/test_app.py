"""The server over real sockets: OpenAI's own client, plain HTTP, and clients that misbehave."""

import base64
import io
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import httpx
import openai
import pytest
from PIL import Image

from croc_cli.chat.images import ChatImage
from croc_cli.chat.session import ChatSession
from croc_cli.checkpoint.load import load_for_inference
from croc_cli.serve.engine import Engine
from croc_cli.serve.rows import Rows
from croc_cli.serve.settings import Limits, ServeSettings
from tests.serve.conftest import Running


def data_url(colour: str = "red", size: tuple[int, int] = (60, 40)) -> str:
    file = io.BytesIO()
    Image.new("RGB", size, colour).save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def about(question: str, *urls: str) -> list[dict[str, Any]]:
    pictures = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    return [{"role": "user", "content": [*pictures, {"type": "text", "text": question}]}]


@pytest.fixture
def client(server: Running) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)


def ask(client: openai.OpenAI, messages: list[dict[str, Any]], **settings: Any) -> Any:
    settings = {"max_tokens": 12, **settings}
    return client.chat.completions.create(model="tiny", messages=messages, **settings)  # type: ignore[call-overload]


def test_the_openai_client_lists_the_model(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["tiny"]


def test_an_answer_is_the_one_that_croc_chat_gives(client: openai.OpenAI, folder: Any) -> None:
    session = ChatSession(load_for_inference(folder), max_tokens=12)
    session.show(ChatImage("red.png", Image.new("RGB", (60, 40), "red")))
    wanted = session.ask("What is this?").text
    answer = ask(client, about("What is this?", data_url()))
    assert answer.choices[0].message.content == wanted
    assert wanted
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage.completion_tokens == 12
    assert answer.usage.prompt_tokens > 16
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 12


def test_a_streamed_answer_has_the_same_text_in_pieces_and_its_usage(client: openai.OpenAI) -> None:
    messages = about("What is this?", data_url())
    whole = ask(client, messages)
    chunks = list(ask(client, messages, stream=True, stream_options={"include_usage": True}))
    pieces = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    assert "".join(pieces) == whole.choices[0].message.content
    assert len([piece for piece in pieces if piece]) > 1
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "length"
    assert chunks[-1].usage == whole.usage


def test_answers_to_many_at_once_are_those_to_one_after_another(client: openai.OpenAI) -> None:
    colours = ["red", "green", "blue", "white", "black", "yellow", "grey", "orange"]
    asked = [about(f"Which colour is number {n}? " + "Look. " * n, data_url(c)) for n, c in enumerate(colours)]
    asked += [[{"role": "user", "content": f"Say {n} words."}] for n in range(4)]
    lengths = [4 + 5 * (n % 6) for n in range(len(asked))]

    def answer(job: tuple[list[dict[str, Any]], int]) -> str:
        return str(ask(client, job[0], max_tokens=job[1]).choices[0].message.content)

    one_by_one = [answer(job) for job in zip(asked, lengths, strict=True)]
    with ThreadPoolExecutor(len(asked)) as pool:
        at_once = list(pool.map(answer, zip(asked, lengths, strict=True)))
    assert at_once == one_by_one
    assert len(set(one_by_one)) > len(asked) // 2


def test_a_seed_repeats_a_drawn_answer_whatever_is_beside_it(client: openai.OpenAI) -> None:
    def drawn(seed: int) -> str:
        settings = {"temperature": 1.5, "seed": seed, "max_tokens": 20}
        return str(ask(client, about("Tell me.", data_url()), **settings).choices[0].message.content)

    alone = [drawn(seed) for seed in (1, 2, 1)]
    with ThreadPoolExecutor(6) as pool:
        together = list(pool.map(drawn, [1, 3, 2, 1, 4, 5]))
    assert alone[0] == alone[2] == together[0] == together[3]
    assert alone[1] == together[2] != alone[0]


def test_an_answer_ends_before_a_stop_string(client: openai.OpenAI) -> None:
    messages = about("What is this?", data_url())
    whole = str(ask(client, messages, max_tokens=30).choices[0].message.content)
    stop = whole[len(whole) // 2 :][:3]
    answer = ask(client, messages, max_tokens=30, stop=[stop, "never said"])
    assert answer.choices[0].message.content == whole[: whole.index(stop)]
    assert answer.choices[0].finish_reason == "stop"
    streamed = ask(client, messages, max_tokens=30, stop=stop, stream=True)
    assert "".join(c.choices[0].delta.content or "" for c in streamed) == whole[: whole.index(stop)]


def test_several_turns_and_a_system_message_are_taken(client: openai.OpenAI) -> None:
    first = about("What is this?", data_url())
    turns = [
        {"role": "system", "content": "Be brief."},
        *first,
        {"role": "assistant", "content": "A red thing."},
        {"role": "user", "content": "And its shape?"},
    ]
    longer, shorter = ask(client, turns).usage.prompt_tokens, ask(client, first).usage.prompt_tokens
    assert longer > shorter


BAD: list[tuple[dict[str, Any], int, str]] = [
    ({"messages": []}, 400, "messages"),
    ({"messages": [{"role": "robot", "content": "hi"}]}, 400, "role"),
    ({"messages": [{"role": "user", "content": 7}]}, 400, "content"),
    ({"messages": [{"role": "assistant", "content": "hi"}]}, 400, "the last message must be the user's"),
    ({"messages": [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]}, 400, "take turns"),
    ({"messages": [{"role": "user", "content": "an <image> here"}]}, 400, "send pictures as image_url"),
    ({"messages": [{"role": "user", "content": "\ud83d"}]}, 400, "surrogate"),
    ({"temperature": -1}, 400, "temperature"),
    ({"temperature": "warm"}, 400, "temperature"),
    ({"max_tokens": 0}, 400, "max_tokens"),
    ({"n": 2}, 400, "n"),
    ({"tools": [{}]}, 400, "tools"),
    ({"stop": ["a", "b", "c", "d", "e"]}, 400, "stop"),
    ({"model": "another"}, 404, "this server has tiny"),
    ({"messages": about("?", "data:image/png;base64,AAAA")}, 422, "picture 1"),
    ({"messages": about("?", "data:image/png;base64,%%%")}, 422, "not base64"),
    ({"messages": about("?", "data:text/html,<p>")}, 415, "text/html is not a picture"),
    ({"messages": about("?", "file:///etc/passwd")}, 422, "file:// is not fetched"),
    ({"messages": about("?", "http://169.254.169.254/latest")}, 422, "link-local"),
    ({"messages": about("?", *[data_url()] * 9)}, 400, "9 pictures, at most 8"),
    ({"messages": [{"role": "user", "content": "word " * 900}]}, 400, "the model takes 512"),
]


@pytest.mark.parametrize(("change", "status", "words"), BAD)
def test_bad_requests_get_their_status_and_openais_form(
    server: Running, change: dict[str, Any], status: int, words: str
) -> None:
    body = {"model": "tiny", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 2, **change}
    answer = httpx.post(
        f"{server.url}/v1/chat/completions",
        content=json.dumps(body),
        headers={"Content-Type": "application/json"},
        timeout=60,
    )
    error = answer.json()["error"]
    assert answer.status_code == status, error
    assert words in (error["message"] + (error["param"] or ""))
    assert set(error) == {"message", "type", "param", "code"}


@pytest.mark.parametrize(
    ("body", "kind", "status"),
    [
        (b"{", "application/json", 400),
        (b"[1]", "application/json", 400),
        (b"[" * 100_000, "application/json", 400),
        (b"\xff\xfe", "application/json", 400),
        (b'{"messages": []}', "text/plain", 415),
    ],
)
def test_bodies_that_are_no_request_are_refused(server: Running, body: bytes, kind: str, status: int) -> None:
    answer = httpx.post(f"{server.url}/v1/chat/completions", content=body, headers={"Content-Type": kind})
    assert answer.status_code == status
    assert answer.json()["error"]["type"] == "invalid_request_error"


def test_other_paths_methods_and_hosts_get_openais_form_too(server: Running) -> None:
    assert httpx.get(f"{server.url}/v1/nothing").json()["error"]["message"] == "Not Found"
    assert httpx.get(f"{server.url}/v1/chat/completions").status_code == 405
    answer = httpx.get(f"{server.url}/v1/models", headers={"Host": "evil.example"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "wrong_host")


def test_health_says_that_the_server_is_there(server: Running) -> None:
    assert httpx.get(f"{server.url}/health").json() == {"status": "ok", "answering": 0, "waiting": 0}


def test_a_key_is_asked_for_and_never_needed_for_the_page(serve: Callable[..., Any]) -> None:
    with serve(ServeSettings(port=0, key="s3cret")) as server:
        url = f"{server.url}/v1"
        with pytest.raises(openai.AuthenticationError):
            openai.OpenAI(base_url=url, api_key="wrong", max_retries=0).models.list()
        assert openai.OpenAI(base_url=url, api_key="s3cret", max_retries=0).models.list().data
        assert httpx.get(server.url).status_code == 200
        assert "s3cret" not in httpx.get(server.url).text


@contextmanager
def busy_with_something_else(engine: Engine) -> Iterator[None]:
    done, begun = threading.Event(), threading.Event()

    def work(_model: object) -> None:
        begun.set()
        done.wait()

    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(engine.exclusively, work)
        begun.wait()
        try:
            yield
        finally:
            done.set()
        asked.result()


def test_limits_of_body_queue_and_time_have_their_status(serve: Callable[..., Any]) -> None:
    settings = ServeSettings(port=0, limits=Limits(body_bytes=2**20, queue=1, batch=1))
    with serve(settings) as server:
        engine = server.service.models["tiny"].engine
        client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
        large = httpx.post(
            f"{server.url}/v1/chat/completions",
            content=b"x" * (2**20 + 1),
            headers={"Content-Type": "application/json"},
        )
        assert large.status_code == 413
        with ThreadPoolExecutor(1) as pool:
            with busy_with_something_else(engine):
                asked = pool.submit(ask, client, about("?"))
                while engine.load() != (0, 1):
                    time.sleep(0.01)
                with pytest.raises(openai.RateLimitError) as busy:
                    ask(client, about("?"))
            assert asked.result().choices
        assert busy.value.response.headers["retry-after"] == "1"
        quick = replace(settings, limits=replace(settings.limits, seconds=0.1))
        with busy_with_something_else(engine):
            server.service.settings = quick
            with pytest.raises(openai.InternalServerError) as late:
                ask(client, about("?"))
            server.service.settings = settings
        assert late.value.status_code == 503
        assert ask(client, about("still there?")).choices


def test_clients_that_go_away_leave_nothing_behind(server: Running, client: openai.OpenAI) -> None:
    engine = server.service.models["tiny"].engine
    stream = ask(client, about("A long story.", data_url()), max_tokens=400, stream=True)
    next(iter(stream))
    stream.close()
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as raw:  # half a body, then gone
        raw.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n")
        raw.sendall(b'Content-Length: 1000\r\n\r\n{"messages": [')
    assert ask(client, about("still there?")).choices
    while engine.load() != (0, 0):  # the test's own time limit ends this if a request is never let go
        time.sleep(0.01)


def test_a_model_that_fails_answers_503_and_serves_the_next(
    server: Running, client: openai.OpenAI, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Rows, "read", lambda *_: 1 / 0)
        with pytest.raises(openai.InternalServerError) as caught:
            ask(client, about("a secret question"))
    assert caught.value.status_code == 503
    said = capsys.readouterr().err
    assert "ZeroDivisionError" in said
    assert "secret" not in said
    assert ask(client, about("again")).choices


def test_attention_to_a_picture_is_a_grid_of_shares(server: Running) -> None:
    body = {"model": "tiny", "messages": about("What?", data_url(), data_url("blue")), "answer": "a red thing"}
    found = httpx.post(f"{server.url}/v1/attention", json=body, timeout=60).json()
    assert [[len(row) for row in grid] for grid in found["pictures"]] == [[4] * 4] * 2
    total = sum(value for grid in found["pictures"] for row in grid for value in row)
    assert total == pytest.approx(found["share"])
    assert 0 < found["share"] < 1
    refused = httpx.post(f"{server.url}/v1/attention", json={**body, "answer": ""})
    assert refused.status_code == 400
