"""The judge: a stub on the loopback address that is down, slow, busy, talks nonsense or refuses the key."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from croc_cli.benchmarks.base import Record
from croc_cli.benchmarks.judge import Judge, JudgeRefused, estimate
from croc_cli.benchmarks.judged import LlavaBench, MmVet
from croc_cli.names import JUDGE_KEY_VARIABLE

RECORDS = [Record(str(i), i, f"Question {i}?", None, "truth", {"capability": ["rec"]}) for i in range(6)]
ANSWERS = [f"answer {i}" for i in range(6)]
VET = MmVet()


class Stub:
    """Replies in turn: a status, or a text; the last one for ever."""

    def __init__(self, *replies: Any, headers: dict[str, str] | None = None) -> None:
        self.replies = list(replies)
        self.headers = headers or {}
        self.requests: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.lock = threading.Lock()

    def next(self) -> Any:
        with self.lock:
            return self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]


@contextmanager
def served(stub: Stub) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            stub.requests.append(json.loads(body))
            stub.keys.append(self.headers.get("Authorization"))
            reply = stub.next()
            status = reply if isinstance(reply, int) else 200
            content: Any = {"error": "no"} if isinstance(reply, int) else reply
            if isinstance(reply, str):
                content = {"choices": [{"message": {"content": reply}}]}
            data = json.dumps(content).encode()
            self.send_response(status)
            for name, value in stub.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            with suppress(BrokenPipeError):  # a client that timed out is gone
                self.wfile.write(data)

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


def judge(url: str, cache: Path, **settings: Any) -> tuple[Judge, list[float]]:
    waits: list[float] = []
    return Judge(url, "judge-1", cache, num_workers=1, sleep=waits.append, **settings), waits


def test_replies_are_asked_for_once_and_kept(tmp_path: Path) -> None:
    stub = Stub("0.5")
    with served(stub) as url:
        ask, _ = judge(url, tmp_path)
        replies, about = ask(VET, RECORDS, ANSWERS)
        assert replies == [["0.5"]] * 6
        assert len(stub.requests) == 6
        ask(VET, RECORDS, ANSWERS)
        assert len(stub.requests) == 6
        ask(VET, RECORDS, [*ANSWERS[:5], "another answer"])
        assert len(stub.requests) == 7
    assert about["model"] == "judge-1"
    assert about["num_judged"] == 6
    assert "Question 0?" in about["example_messages"][0]["content"]
    assert VET.score_replies(RECORDS, replies).value == pytest.approx(50.0)


def test_a_busy_judge_is_waited_for_as_long_as_it_says(tmp_path: Path) -> None:
    stub = Stub(429, 503, "1.0", headers={"Retry-After": "7"})
    with served(stub) as url:
        ask, waits = judge(url, tmp_path)
        replies, _ = ask(VET, RECORDS[:1], ANSWERS[:1])
    assert replies == [["1.0"]]
    assert waits == [7.0, 7.0]


def test_a_failed_judgement_is_counted_and_never_scored(tmp_path: Path) -> None:
    stub = Stub("1.0", 500)
    with served(stub) as url:
        ask, waits = judge(url, tmp_path, num_retries=2)
        replies, about = ask(VET, RECORDS[:3], ANSWERS[:3])
    assert replies == [["1.0"], [], []]
    assert about["num_failed"] == 2
    assert about["failures"]["1"] == "status 500"
    assert len(waits) == 4
    assert waits[0] < waits[1]
    score = VET.score_replies(RECORDS[:3], replies)
    assert score.value == pytest.approx(100.0)
    assert len(score.per_item) == 1


def test_nonsense_is_tried_again_and_then_given_up(tmp_path: Path) -> None:
    stub = Stub({"no": "choices"})
    with served(stub) as url:
        ask, _ = judge(url, tmp_path, num_retries=1)
        replies, about = ask(VET, RECORDS[:1], ANSWERS[:1])
    assert replies == [[]]
    assert about["failures"]["0"] == "a reply without choices"
    assert len(stub.requests) == 2


def test_a_judge_that_is_down_fails_every_judgement_and_says_why(tmp_path: Path) -> None:
    ask, _ = judge("http://127.0.0.1:9/v1", tmp_path, num_retries=1)
    replies, about = ask(VET, RECORDS[:2], ANSWERS[:2])
    assert replies == [[], []]
    assert "ConnectError" in about["failures"]["0"]


def test_a_slow_judge_times_out(tmp_path: Path) -> None:
    class Slow(Stub):
        def next(self) -> Any:
            threading.Event().wait(0.5)
            return "1.0"

    with served(Slow("1.0")) as url:
        ask, _ = judge(url, tmp_path, num_retries=0, timeout=0.05)
        _, about = ask(VET, RECORDS[:1], ANSWERS[:1])
    assert "Timeout" in about["failures"]["0"]


@pytest.mark.parametrize(("status", "word"), [(401, "key"), (403, "key"), (404, "model")])
def test_a_refusal_stops_at_once_and_says_what_to_change(status: int, word: str, tmp_path: Path) -> None:
    stub = Stub(status)
    with served(stub) as url:
        ask, waits = judge(url, tmp_path)
        with pytest.raises(JudgeRefused, match=word):
            ask(VET, RECORDS[:1], ANSWERS[:1])
    assert len(stub.requests) == 1
    assert not waits


def test_the_key_goes_to_the_judge_and_nowhere_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(JUDGE_KEY_VARIABLE, "sk-very-secret")
    stub = Stub("0.5")
    with served(stub) as url:
        ask, _ = judge(url, tmp_path)
        _, about = ask(VET, RECORDS[:1], ANSWERS[:1])
    assert stub.keys == ["Bearer sk-very-secret"]
    assert "secret" not in json.dumps(about)
    assert "secret" not in repr(ask)
    assert all("secret" not in file.read_text() for file in tmp_path.iterdir())


def test_an_unreadable_number_is_asked_for_again_and_the_cache_knows_both(tmp_path: Path) -> None:
    stub = Stub("hm", "0.4")
    with served(stub) as url:
        ask, _ = judge(url, tmp_path)
        first, _ = ask(VET, RECORDS[:1], ANSWERS[:1])
        second, _ = ask(VET, RECORDS[:1], ANSWERS[:1])
    assert first == second == [["hm", "0.4"]]
    assert len(stub.requests) == 2


def test_the_estimate_counts_requests_and_tokens() -> None:
    records = [Record(str(i), i, "Q?", None, "R", {"caption": "C", "category": "llava_bench_conv"}) for i in range(3)]
    costs = estimate(LlavaBench(), records, ["a"] * 3)
    assert costs["requests"] == 3
    assert costs["reply_tokens_at_most"] == 3 * 1024
    assert 700 < costs["prompt_tokens"] < 1200


@pytest.mark.parametrize(
    "reply", [[], 3, None, {"choices": 3}, {"choices": [{"message": {"content": None}}]}, [[[["x"]]]], {"choices": []}]
)
def test_replies_of_any_kind_are_survived(reply: Any, tmp_path: Path) -> None:
    with served(Stub({"choices": reply})) as url:
        ask, _ = judge(url, tmp_path, num_retries=0)
        replies, about = ask(VET, RECORDS[:1], ANSWERS[:1])
    assert replies == [[]]
    assert about["num_failed"] == 1


def test_half_a_surrogate_pair_and_an_odd_wait_are_survived(tmp_path: Path) -> None:
    with served(Stub(429, "0.5 \ud83d", headers={"Retry-After": "nan"})) as url:
        ask, waits = judge(url, tmp_path)
        replies, _ = ask(VET, RECORDS[:1], ANSWERS[:1])
    assert replies == [["0.5 ?"]]
    assert 0 < waits[0] < 10


def test_an_endless_reply_is_given_up(tmp_path: Path) -> None:
    with served(Stub("x" * 5_000_000)) as url:
        ask, _ = judge(url, tmp_path, num_retries=0)
        _, about = ask(VET, RECORDS[:1], ANSWERS[:1])
    assert "more than 4,000,000 bytes" in about["failures"]["0"]
