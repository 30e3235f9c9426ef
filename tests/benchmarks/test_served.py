"""`croc eval --url` against servers that are busy, broken, picky, or no servers of models at all."""

import base64
import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from croc_cli.benchmarks.files import Picture
from croc_cli.benchmarks.served import key_variable_of, picture_url
from croc_cli.names import EVAL_KEY_VARIABLE
from croc_cli.pipeline.served import served_run_folder
from tests.benchmarks.golden_files import draw_pictures, write_files
from tests.commands.croc import Answer, croc

HTML = b"<html>Sign in</html>"
AI2D = 14


class Stub:
    """A server of models: its list, and its replies in turn, the last one for ever.

    A reply is a text, a status, a (status, message), or the bytes of a body.
    """

    def __init__(self, *replies: Any, models: Any = ("one",), headers: dict[str, str] | None = None) -> None:
        self.replies = list(replies)
        self.models = models
        self.headers = headers or {}
        self.requests: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.seconds = 0.0
        self.at_once = self.most_at_once = 0
        self.lock = threading.Lock()

    def next(self) -> Any:
        with self.lock:
            return self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]


@contextmanager
def served(stub: Stub) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            stub.keys.append(self.headers.get("Authorization"))
            models = stub.models
            if isinstance(models, tuple):
                models = {"data": [{"id": name, "object": "model"} for name in models]}
            self.reply(models)

        def do_POST(self) -> None:
            with stub.lock:
                stub.at_once += 1
                stub.most_at_once = max(stub.most_at_once, stub.at_once)
            stub.requests.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            stub.keys.append(self.headers.get("Authorization"))
            time.sleep(stub.seconds)
            reply = stub.next()
            with stub.lock:
                stub.at_once -= 1
            self.reply({"choices": [{"message": {"content": reply}}]} if isinstance(reply, str) else reply)

        def reply(self, reply: Any) -> None:
            status, message = reply if isinstance(reply, tuple) else (reply, "no")
            said = {"error": {"message": message}} if isinstance(status, int) else reply
            content = reply if isinstance(reply, bytes) else json.dumps(said).encode()
            length = len(content) + (100 if isinstance(reply, bytes) and reply != HTML else 0)
            self.send_response(status if isinstance(status, int) else 200)
            self.send_header("Content-Type", "text/html" if reply == HTML else "application/json")
            for name, value in stub.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(length))
            self.end_headers()
            with suppress(BrokenPipeError):
                self.wfile.write(content)
            self.close_connection = length != len(content)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/v1"
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("croc_cli.benchmarks.endpoint._backoff", lambda _attempt: 0.0)
    monkeypatch.delenv(EVAL_KEY_VARIABLE, raising=False)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("served") / "data"
    for name in ("ai2d", "gqa"):
        draw_pictures(name, write_files(name, root))
    return root


def ask(url: str, data: Path, *more: str, names: str = "ai2d") -> Answer:
    return croc("eval", "--url", url, "--data", str(data), "-b", names, "--run-dir", "run", *more)


def answers(name: str = "ai2d") -> list[dict[str, Any]]:
    file = Path("run") / "benchmarks" / "predictions" / f"{name}.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def test_a_request_has_the_picture_before_the_question_and_openais_form(data: Path) -> None:
    with served(stub := Stub(" B \n")) as url:
        answer = ask(url, data)
    assert answer.code == 0, answer.err
    assert {row["text"] for row in answers()} == {"B"}
    request = stub.requests[0]
    assert set(request) == {"model", "messages", "temperature", "max_tokens"}
    assert (request["model"], request["temperature"], request["max_tokens"]) == ("one", 0, 16)
    picture, text = request["messages"][0]["content"]
    assert picture["image_url"]["url"].startswith("data:image/png;base64,")
    assert text["text"] in {row["prompt"] for row in answers()}
    assert stub.keys == [None] * (1 + AI2D)


def test_concurrency_is_what_was_asked_for(data: Path) -> None:
    stub = Stub("A")
    stub.seconds = 0.05
    with served(stub) as url:
        assert ask(url, data, "--concurrency", "3").code == 0
    assert stub.most_at_once == 3


def test_a_busy_server_is_waited_for_and_half_answers_are_asked_again(data: Path) -> None:
    half = b'{"choices": [{"message": {"content": "hal'
    with served(stub := Stub(429, 503, half, {"no": "choices"}, "A", headers={"Retry-After": "0.01"})) as url:
        answer = ask(url, data, "--concurrency", "1")
    assert answer.code == 0, answer.err
    assert len(stub.requests) == AI2D + 4
    assert [row["text"] for row in answers()] == ["A"] * AI2D
    assert "the server is busy (status 429); waiting 0 s" in answer.err


def test_a_server_that_fails_on_the_way_loses_nothing(data: Path) -> None:
    with served(stub := Stub("A", "B", "A", 500)) as url:
        first = ask(url, data, "--concurrency", "2")
        assert first.code == 1
        assert "gives no answers: the last 8 questions failed, with status 500: no" in first.err
        assert "the answers so far are kept, and the same command resumes" in first.err
        assert len(answers()) == 3
        stub.replies = ["C"]
        before = len(stub.requests)
        again = ask(url, data)
    assert again.code == 0, again.err
    assert len(stub.requests) - before == AI2D - 3
    assert sorted(row["text"] for row in answers()) == ["A", "A", "B"] + ["C"] * (AI2D - 3)


def test_a_question_that_the_server_refuses_stays_open_and_the_others_are_scored(data: Path) -> None:
    refusals = [(400, "policy"), {"choices": [{"message": {"content": None}}]}]
    with served(Stub("A", *refusals, "A")) as url:
        answer = ask(url, data, "--concurrency", "1", "--partial")
    assert answer.code == 0, answer.err
    assert "stays unanswered: status 400: policy" in answer.err
    assert "stays unanswered: a reply without text" in answer.err
    assert len(answers()) == AI2D - 2
    assert f"({AI2D - 2} of {AI2D})" in answer.out


def test_a_picture_that_is_missing_costs_nothing(tmp_path: Path) -> None:
    draw_pictures("gqa", write_files("gqa", tmp_path / "data"))
    pictures = sorted((tmp_path / "data").rglob("*.jpg"))
    pictures[0].unlink()
    with served(stub := Stub("yes")) as url:
        answer = ask(url, tmp_path / "data", names="gqa")
    assert answer.code == 1
    assert f"stays unanswered: {pictures[0].name}: no such file or directory" in " ".join(answer.err.split())
    assert len(stub.requests) == len(answers("gqa")) < 27


def test_a_model_that_wants_the_other_name_of_the_limit_gets_it(data: Path) -> None:
    said = (400, "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead.")
    with served(stub := Stub(said, "A")) as url:
        assert ask(url, data, "--concurrency", "1").code == 0
    assert [request.get("max_completion_tokens") for request in stub.requests] == [None] + [16] * AI2D


REFUSED: list[tuple[Any, Any, int, str]] = [
    (("a", "b"), "A", 2, "has 2 models: a, b"),
    ((), "A", 2, "has 0 models: none"),
    ((None,), "A", 2, "has a model whose id is null, which is not a name"),
    (("a", ""), "A", 2, 'has a model whose id is "", which is not a name'),
    (({"name": "a"},), "A", 2, 'has a model whose id is {"name": "a"}, which is not a name'),
    (("a\ud83d\x1b[31m",), "A", 2, r'has a model whose id is "a\ud83d\u001b[31m", which is not a name'),
    (401, "A", 2, "wants a key, and there is none in CROC_EVAL_API_KEY"),
    (404, "A", 2, "is not a list of models, but '404'"),
    (503, "A", 1, "answers with status 503"),
    (HTML, "A", 2, "is not a list of models, but 'text/html'"),
    ([1], "A", 2, "is not a list of models"),
    (("one",), 401, 2, "wants a key"),
    (("one",), (404, "it is gone"), 2, "has no model 'one' or no chat/completions: it is gone"),
    (("one",), 429, 1, "gives no answers: the last 8 questions failed, with status 429: no"),
    (("one",), HTML, 1, "with a reply without choices: it is 'text/html'"),
    (("one",), b'{"choices"', 1, "with RemoteProtocolError"),
    (("one",), (400, "no pictures, please"), 1, "with status 400: no pictures, please"),
    (("one",), (429, "insufficient_quota"), 1, "has no quota left"),
]


@pytest.mark.parametrize(("models", "reply", "code", "message"), REFUSED)
def test_bad_servers_get_one_line_and_a_hint(models: Any, reply: Any, code: int, message: str, data: Path) -> None:
    with served(Stub(reply, models=models)) as url:
        answer = ask(url, data)
    assert answer.code == code, answer.err
    assert message in answer.err
    assert len([line for line in answer.err.splitlines() if line.startswith("error: ")]) == 1
    assert answer.err.splitlines()[-1].startswith("hint: ")
    assert not answers()


def test_a_server_that_is_not_there_is_named(data: Path) -> None:
    answer = ask("http://127.0.0.1:9/v1", data)
    assert answer.code == 1
    assert "error: the server at http://127.0.0.1:9/v1 cannot be reached: ConnectError" in answer.err
    assert not Path("run").exists()


def test_a_server_without_a_list_is_asked_for_the_model_that_is_named(data: Path) -> None:
    with served(stub := Stub("A", models=404)) as url:
        assert ask(url, data, "--served-model", "mine").code == 0
    assert {request["model"] for request in stub.requests} == {"mine"}


def test_a_name_is_taken_from_the_command_line_whatever_the_list_says_and_not_when_it_is_empty(data: Path) -> None:
    with served(stub := Stub("A", models=(None, {}, "mine"))) as url:
        assert ask(url, data, "--served-model", "mine").code == 0
        assert {request["model"] for request in stub.requests} == {"mine"}
        empty = ask(url, data, "--served-model", " ")
    assert empty.code == 2
    assert "error: --served-model is empty" in empty.err


def test_the_dry_run_sends_nothing_and_says_what_would_be_sent(data: Path) -> None:
    with served(stub := Stub("A")) as url:
        answer = ask(url, data, "--served-model", "one", "--dry-run", names="ai2d,gqa")
        assert not stub.keys
    assert answer.code == 0
    assert "model: one\nno key (CROC_EVAL_API_KEY is not set)" in answer.out
    rows = {line.split()[0]: line.split()[1:] for line in answer.out.splitlines() if line}
    assert rows["ai2d"][:2] == ["14", "14"]
    assert rows["ai2d"][3] == "224"
    assert rows["all"][:2] == ["41", "41"]
    assert all(len(line) <= 80 for line in answer.out.splitlines() if not line.startswith("answers: "))
    assert not list(Path().iterdir())


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--model", "m"), "--model does not go with --url"),
        (("--ranks", "2"), "--gpus does not go with --url"),
        (("--url", "ftp://x/v1"), "the server's URL 'ftp://x/v1' is not an http(s) URL"),
        (("--url", "http://x/v1?key=abc"), "has a part behind ?"),
    ],
)
def test_flags_that_do_not_fit_are_refused_before_anything_is_sent(
    flags: tuple[str, ...], message: str, data: Path
) -> None:
    answer = ask("http://127.0.0.1:9/v1", data, *flags)
    assert answer.code == 2
    assert message in answer.err
    alone = croc("eval", "--model", "m", "--concurrency", "2")
    assert (alone.code, "--concurrency goes with --url alone" in alone.err) == (2, True)


def test_the_key_goes_to_the_server_and_nowhere_else(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-openai-alone")
    with served(stub := Stub("A")) as url:
        assert ask(url, data).code == 0
        assert set(stub.keys) == {None}
        monkeypatch.setenv(EVAL_KEY_VARIABLE, " sk-very-secret\n")
        said = ask(url, data, names="gqa")
        assert stub.keys[-1] == "Bearer sk-very-secret"
        named = ask(url.replace("://", "://user:pass-word@"), data, names="gqa")
        assert (said.code, named.code) == (0, 0), named.err
        assert stub.keys[-1] == "Basic dXNlcjpwYXNzLXdvcmQ="
        stub.replies, stub.models = [(401, "Incorrect API key: sk-very-secret")], ("one",)
        refused = ask(url, data, "--served-model", "two")
    assert "refuses the key in CROC_EVAL_API_KEY (status 401): Incorrect API key: ***" in refused.err
    written = "".join(file.read_text() for file in Path("run").rglob("*") if file.is_file())
    for secret in ("very-secret", "pass-word"):
        assert secret not in written + said.err + said.out + named.err + named.out + refused.err
    assert "://***@127.0.0.1" in written


def test_openais_key_is_for_openai_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    assert key_variable_of("https://api.openai.com/v1") == "OPENAI_API_KEY"
    assert key_variable_of("http://api.openai.com/v1") == EVAL_KEY_VARIABLE
    assert key_variable_of("https://api.openai.com.evil.example/v1") == EVAL_KEY_VARIABLE
    monkeypatch.setenv(EVAL_KEY_VARIABLE, "sk-mine")
    assert key_variable_of("https://api.openai.com/v1") == EVAL_KEY_VARIABLE


def test_pictures_of_other_kinds_become_png_for_servers_of_others() -> None:
    stream = io.BytesIO()
    Image.new("RGB", (5, 3), "red").save(stream, "TIFF")
    picture = Picture("a.tif", data=stream.getvalue())
    head, _, content = picture_url(picture, as_it_is=False).partition(",")
    assert head == "data:image/png;base64"
    assert Image.open(io.BytesIO(base64.b64decode(content))).size == (5, 3)
    assert picture_url(picture, as_it_is=True).startswith("data:application/octet-stream;base64,")


def test_run_folders_are_named_by_model_and_server() -> None:
    assert (
        str(served_run_folder("http://localhost:8000/v1", "org/model 7b")) == "runs/eval-org-model-7b-at-localhost-8000"
    )
    assert str(served_run_folder("https://[::1]/v1", "../..")) == "runs/eval-model-at-1"


def test_ctrl_c_ends_at_once_and_the_same_command_resumes(data: Path) -> None:
    stub = Stub("A")
    stub.seconds = 0.3
    with served(stub) as url:
        words = ["eval", "--url", url, "--data", str(data), "-b", "ai2d", "--run-dir", "run", "--concurrency", "1"]
        command = [sys.executable, "-m", "croc_cli", *words]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ) as process:
            while len(stub.requests) < 3:
                time.sleep(0.01)
            stub.seconds = 20.0
            while len(stub.requests) < 4:
                time.sleep(0.01)
            started = time.monotonic()
            process.send_signal(signal.SIGINT)
            assert process.stderr is not None
            said = process.stderr.read()
            assert process.wait() == 130
        assert time.monotonic() - started < 10
        assert said.endswith("interrupted\n")
        assert 2 <= len(answers()) < AI2D
        num_kept, stub.seconds = len(answers()), 0.0
        again = ask(url, data)
    assert again.code == 0, again.err
    assert f"{num_kept} of {AI2D} questions are answered already" in again.err
