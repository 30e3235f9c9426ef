import hashlib
import os
import re
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from croc_cli.errors import UsageError
from croc_cli.progress import Task
from croc_cli.sources.fetch.download import Limits, Remote, download
from croc_cli.sources.read.content import FetchError, WrongContentError
from tests.sources.web import Web, cut, redirect, trickle

QUICK = Limits(tries=3, wait=0.01)
"""Asks again at once; no limit of time that an answer on a busy machine reaches."""
BODY = os.urandom(300_000)


class Told(Task):
    def __init__(self) -> None:
        self.updates: list[tuple[int, int | None]] = []
        self.notes: list[str] = []

    def update(self, done: int, total: int | None = None) -> None:
        self.updates.append((done, total))

    def note(self, text: str) -> None:
        self.notes.append(text)


def get(web: Web, to: Path, *, path: str = "/a.bin", task: Task | None = None, **known: object) -> str:
    remote = Remote(f"{web.url}{path}", **known)  # type: ignore[arg-type]
    return download(lambda: remote, to, task=task, limits=QUICK).sha256


def test_a_file_lands_whole_with_its_sha256_and_leaves_nothing_beside_it(web: Web, tmp_path: Path) -> None:
    web.site.files["/a.bin"] = BODY
    told = Told()
    assert get(web, tmp_path / "in" / "a.bin", task=told) == hashlib.sha256(BODY).hexdigest()
    assert (tmp_path / "in" / "a.bin").read_bytes() == BODY
    assert [path.name for path in (tmp_path / "in").iterdir()] == ["a.bin"]
    assert told.updates[-1] == (len(BODY), len(BODY))


def test_a_cut_connection_is_taken_up_by_byte_range(web: Web, tmp_path: Path) -> None:
    web.site.files["/a.bin"] = BODY
    web.site.answers["/a.bin"] = [cut(100_000), cut(50_000)]
    told = Told()
    get(web, tmp_path / "a.bin", task=told)
    assert (tmp_path / "a.bin").read_bytes() == BODY
    ranges = [headers.get("Range") for _, headers in web.site.seen]
    assert ranges == [None, "bytes=100000-", "bytes=150000-"]
    assert "the connection broke" in told.notes[0]


def test_what_an_earlier_process_left_is_gone_on_from(web: Web, tmp_path: Path) -> None:
    web.site.files["/a.bin"] = BODY
    web.site.answers["/a.bin"] = [cut(120_000), 404]
    with pytest.raises(FetchError, match="answered 404"):
        get(web, tmp_path / "a.bin")
    assert not (tmp_path / "a.bin").exists()
    get(web, tmp_path / "a.bin", sha256=hashlib.sha256(BODY).hexdigest())
    assert web.site.seen[-1][1]["Range"] == "bytes=120000-"
    assert (tmp_path / "a.bin").read_bytes() == BODY


def test_a_file_that_changed_meanwhile_is_fetched_from_its_start(web: Web, tmp_path: Path) -> None:
    web.site.files["/a.bin"] = BODY
    web.site.answers["/a.bin"] = [cut(120_000), 403]
    with pytest.raises(FetchError):
        get(web, tmp_path / "a.bin")
    web.site.files["/a.bin"] = other = os.urandom(200_000)
    get(web, tmp_path / "a.bin")
    assert (tmp_path / "a.bin").read_bytes() == other


def test_a_server_without_ranges_sends_everything_again(web: Web, tmp_path: Path) -> None:
    web.site.files["/a.bin"] = BODY
    web.site.ranges = False
    web.site.answers["/a.bin"] = [cut(120_000)]
    get(web, tmp_path / "a.bin")
    assert (tmp_path / "a.bin").read_bytes() == BODY


def test_500_is_tried_again_and_404_is_not(web: Web, tmp_path: Path) -> None:
    web.site.files["/a.bin"] = BODY
    web.site.answers["/a.bin"] = [500, 503]
    get(web, tmp_path / "a.bin")
    assert web.site.asked["/a.bin"] == 3
    with pytest.raises(FetchError, match="/gone.bin answered 404") as raised:
        get(web, tmp_path / "gone.bin", path="/gone.bin")
    assert web.site.asked["/gone.bin"] == 1
    assert raised.value.hint is not None
    assert "it is no longer there" in raised.value.hint


def test_403_says_what_may_be_behind_it(web: Web, tmp_path: Path) -> None:
    web.site.files["/a.bin"] = BODY
    web.site.answers["/a.bin"] = [403]
    with pytest.raises(FetchError, match="answered 403 Forbidden") as raised:
        get(web, tmp_path / "a.bin")
    assert raised.value.hint == "it is forbidden to you: consent on its page, or a link that has expired"


def test_a_server_that_stays_out_of_order_is_given_up_after_some_tries(web: Web, tmp_path: Path) -> None:
    web.site.answers["/a.bin"] = [500] * 10
    with pytest.raises(FetchError, match=r"a.bin cannot be fetched: .* answered 500 \(3 tries\)"):
        get(web, tmp_path / "a.bin")
    assert web.site.asked["/a.bin"] == 3


def test_a_server_that_is_not_there_is_named(tmp_path: Path) -> None:
    remote = Remote("http://127.0.0.1:9/a.bin")
    with pytest.raises(FetchError, match=r"http://127.0.0.1:9/a.bin: cannot be reached .* \(3 tries\)"):
        download(lambda: remote, tmp_path / "a.bin", limits=QUICK)


def test_a_slow_trickle_is_left_and_in_the_end_given_up(web: Web, tmp_path: Path) -> None:
    web.site.files["/a.bin"] = BODY
    web.site.answers["/a.bin"] = [trickle(0.05)]
    limits = Limits(tries=3, wait=0.01, window=0.3, window_bytes=1000)
    with pytest.raises(FetchError, match=r"sent only \d+ bytes in 0.3 s \(3 tries\)"):
        download(lambda: Remote(f"{web.url}/a.bin"), tmp_path / "a.bin", limits=limits)


def test_redirects_in_a_circle_end(web: Web, tmp_path: Path) -> None:
    web.site.answers["/a.bin"] = [redirect("/b.bin")]
    web.site.answers["/b.bin"] = [redirect("/a.bin")]
    with pytest.raises(FetchError, match="leads from address to address without end"):
        get(web, tmp_path / "a.bin")


def test_another_size_than_the_known_one_is_refused_before_it_is_downloaded(web: Web, tmp_path: Path) -> None:
    web.site.files["/a.bin"] = BODY
    with pytest.raises(WrongContentError, match="has 300,000 bytes, expected 299,999"):
        get(web, tmp_path / "a.bin", size=299_999)
    assert list(tmp_path.glob("a.bin")) == []


def test_another_content_than_the_known_one_is_refused(web: Web, tmp_path: Path) -> None:
    web.site.files["/a.bin"] = BODY
    with pytest.raises(WrongContentError, match="has sha256 .*, expected 000000000000…"):
        get(web, tmp_path / "a.bin", sha256="0" * 64)
    assert list(tmp_path.iterdir()) == []


def test_a_part_that_was_spoiled_is_fetched_once_more_from_the_start(web: Web, tmp_path: Path) -> None:
    web.site.files["/a.bin"] = BODY
    (tmp_path / ".a.bin.part").write_bytes(b"x" * 1000)
    (tmp_path / ".a.bin.part.json").write_text('{"total": 5}', encoding="utf-8")
    get(web, tmp_path / "a.bin", sha256=hashlib.sha256(BODY).hexdigest())
    assert (tmp_path / "a.bin").read_bytes() == BODY


@pytest.mark.parametrize("name", ["a.bin", ".a.bin.part", ".a.bin.part.json"])
def test_a_file_that_croc_did_not_fetch_is_never_replaced(web: Web, tmp_path: Path, name: str) -> None:
    web.site.files["/a.bin"] = BODY
    (tmp_path / name).write_bytes(b"the user's")
    with pytest.raises(
        UsageError, match=rf"{re.escape(name)} (is a file that croc did not make|exists, and croc did not create it)"
    ):
        get(web, tmp_path / "a.bin")
    assert (tmp_path / name).read_bytes() == b"the user's"


@pytest.mark.parametrize(
    ("name", "body", "message"),
    [
        ("a.zip", b"<!DOCTYPE html><html>Log in</html>", "gave a web page in place of a.zip"),
        ("a.json", b"\n <html><body>", "gave a web page in place of a.json"),
        ("a.json", b"version https://git-lfs.github.com/spec/v1\noid sha256:1", "gave a git-lfs pointer in place of"),
        ("a.zip", b"not a zip at all", "does not begin as a .zip file does"),
        ("a.parquet", b"oh no", "does not begin as a .parquet file does"),
        ("a.jsonl", b"Not Found", "it begins with 'Not Found'"),
    ],
)
def test_what_comes_in_place_of_data_is_named(web: Web, tmp_path: Path, name: str, body: bytes, message: str) -> None:
    web.site.files[f"/{name}"] = body
    with pytest.raises(WrongContentError, match=message):
        get(web, tmp_path / name, path=f"/{name}")
    assert not (tmp_path / name).exists()


def test_a_signature_in_an_address_is_not_shown(web: Web, tmp_path: Path) -> None:
    with pytest.raises(FetchError) as raised:
        get(web, tmp_path / "a.bin", path="/a.bin?token=secret")
    assert "secret" not in raised.value.message


@pytest.mark.parametrize("first", ["headers", "chunk"])
def test_headers_and_chunk_lengths_that_trickle_in_end_at_the_limit(web: Web, tmp_path: Path, first: str) -> None:
    def drip(handler: Any) -> None:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\n")
        handler.wfile.write(b"A: " if first == "headers" else b"Transfer-Encoding: chunked\r\n\r\n")
        with suppress(OSError):
            while True:
                handler.wfile.write(b"0")
                time.sleep(0.05)

    web.site.answers["/a.bin"] = [drip] * 9
    quick = Limits(tries=1, wait=0.01, silence=0.5, window=0.5, window_bytes=1000)
    with pytest.raises(FetchError, match=r"a\.bin sent neither its headers nor a block in 0.5 s"):
        download(lambda: Remote(f"{web.url}/a.bin"), tmp_path / "a.bin", limits=quick)


def test_an_answer_that_goes_on_beyond_what_is_expected_is_left(web: Web, tmp_path: Path) -> None:
    def endless(handler: Any) -> None:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n")
        with suppress(OSError):
            while True:
                handler.wfile.write(b"x" * 4096)

    web.site.answers["/a.bin"] = [endless] * 9
    with pytest.raises(FetchError, match=r"sent more than the 5,000 bytes it announced"):
        download(lambda: Remote(f"{web.url}/a.bin", size=5000), tmp_path / "a.bin", limits=QUICK)


def test_lengths_that_are_no_numbers_are_not_believed(web: Web, tmp_path: Path) -> None:
    web.site.answers["/a.bin"] = [503, 503]
    web.site.headers["/a.bin"] = {"Retry-After": "\xb2"}
    web.site.files["/a.bin"] = BODY
    assert get(web, tmp_path / "a.bin") == hashlib.sha256(BODY).hexdigest()


def test_a_redirect_from_a_public_server_into_a_private_network_is_refused(
    web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    web.site.files["/a.bin"] = BODY
    web.site.answers["/to.bin"] = [redirect(f"{web.url}/a.bin")]
    assert get(web, tmp_path / "b.bin", path="/to.bin") == hashlib.sha256(BODY).hexdigest()  # from one of its own
    web.site.answers["/to.bin"] = [redirect(f"{web.url}/a.bin"), redirect("http://169.254.169.254/latest")]
    with monkeypatch.context() as patched:
        patched.setattr("croc_cli.sources.fetch.feed.is_private", lambda _url: False)
        with pytest.raises(FetchError, match="leads to another address: 127.0.0.1 is a private address"):
            get(web, tmp_path / "c.bin", path="/to.bin")
    with pytest.raises(FetchError, match=r"169\.254\.169\.254 is a link-local address"):
        get(web, tmp_path / "d.bin", path="/to.bin")
