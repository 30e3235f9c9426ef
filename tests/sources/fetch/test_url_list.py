"""Against the real img2dataset, which takes some seconds a run to start: one run serves most tests."""

import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from croc_cli.errors import UsageError
from croc_cli.progress import Task
from croc_cli.sources.fetch.url_list import UrlReport, fetch_url_list
from croc_cli.sources.known.source import UrlList
from tests.sources.web import Web, redirect, trickle

QUICK = {"url_seconds": 250, "processes_count": 1, "retries": 1, "timeout": 250, "max_tries": 2, "stall_seconds": 250}
QUICK["allow_private"] = True  # the test's own server is at no public address
"""No limit of time that a busy machine reaches: what comes is what the server answers."""


def picture(number: int, *, size: tuple[int, int] = (400, 350), form: str = "JPEG") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, (number % 256, number * 7 % 256, number // 256 * 40)).save(buffer, form)
    return buffer.getvalue()


def entry(**settings: Any) -> UrlList:
    return UrlList(
        kind="url_list",
        path="list.json",
        key_column="image",
        to="images",
        rows_to="rows.jsonl",
        download={**QUICK, **settings},
    )


def write_list(root: Path, web: Web, numbers: range) -> list[str]:
    keys = [f"{number // 100:05d}/{number:09d}.jpg" for number in numbers]
    rows = [
        {"id": f"{number:09d}", "image": key, "url": f"{web.url}/{number}.jpg", "caption": f"picture {number}"}
        for number, key in zip(numbers, keys, strict=True)
    ]
    (root / "list.json").write_text(json.dumps(rows), encoding="utf-8")
    return keys


@dataclass
class Fetched:
    root: Path
    web: Web
    keys: list[str]
    report: UrlReport
    updates: list[int]

    @property
    def work(self) -> Path:
        return self.root / ".fetch" / "urls"

    def failures(self) -> dict[str, Any]:
        lines = (self.work / "failures.jsonl").read_text(encoding="utf-8").splitlines()
        return {row["key"]: row for row in map(json.loads, lines)}


class Told(Task):
    def __init__(self) -> None:
        self.updates: list[int] = []
        self.notes: list[str] = []

    def update(self, done: int, total: int | None = None) -> None:
        self.updates.append(done)

    def note(self, text: str) -> None:
        self.notes.append(text)


@pytest.fixture(scope="module")
def fetched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fetched]:
    """500 URLs: 100 are dead, and seven more misbehave in ways of their own."""
    root = tmp_path_factory.mktemp("urls")
    with Web() as web:
        site = web.site
        site.files = {f"/{number}.jpg": picture(number) for number in range(500) if number % 5}
        site.files["/1.jpg"] = b"<!DOCTYPE html><html>Not here</html>"
        site.answers["/2.jpg"] = [403, 403]
        site.answers["/3.jpg"] = [500]
        site.answers["/4.jpg"] = [redirect("/4.jpg")]
        site.headers["/6.jpg"] = {"X-Robots-Tag": "noai"}
        site.files["/8.jpg"] = picture(8, size=(20, 20))
        site.files["/9.jpg"] = picture(9)[:200]
        site.files["/11.jpg"] = picture(11, form="GIF")
        site.files["/12.jpg"] = site.files["/13.jpg"]
        site.headers["/14.jpg"] = {"X-Robots-Tag": "googlebot: noindex"}
        keys = write_list(root, web, range(500))
        told = Told()
        report = fetch_url_list(entry(), root, root / ".fetch" / "urls", task=told)
        yield Fetched(root, web, keys, report, told.updates)


def test_what_came_and_what_did_not_adds_up_though_img2dataset_calls_it_a_success(fetched: Fetched) -> None:
    report = fetched.report
    assert (report.num_urls, report.num_present, report.num_new) == (500, 394, 394)
    assert sum(report.reasons.values()) == report.num_missing == 106
    assert report.reasons["HTTP Error 404: Not Found"] == 100


def test_every_failure_is_kept_with_its_reason(fetched: Fetched) -> None:
    failures = fetched.failures()
    reasons = {number: failures[fetched.keys[number]]["reason"] for number in (1, 2, 4, 6, 8, 9)}
    assert reasons == {
        1: "Image decoding error",
        2: "HTTP Error 403: Forbidden",
        4: "HTTP Error 302: The HTTP server returned a redirect error that would lead to an infinite loop.",
        6: "Use of image disallowed by X-Robots-Tag directive",
        8: "image too small",
        9: "Image decoding error",
    }
    assert len(failures) == 106
    assert {row["tries"] for row in failures.values()} == {1}


def test_500_then_200_comes_in_the_same_call(fetched: Fetched) -> None:
    assert (fetched.root / "images" / fetched.keys[3]).is_file()
    assert fetched.web.site.asked["/3.jpg"] == 2


def test_images_lie_under_our_own_padded_keys_and_hold_the_right_picture(fetched: Fetched) -> None:
    for number in (3, 11, 14, 123, 499):
        with Image.open(fetched.root / "images" / f"{number // 100:05d}" / f"{number:09d}.jpg") as image:
            red, green, blue = image.convert("RGB").getpixel((5, 5))  # type: ignore[misc]
            assert image.format == "JPEG"
            assert abs(red - number % 256) + abs(green - number * 7 % 256) + abs(blue - number // 256 * 40) < 20
            assert min(image.size) == 336


def test_rows_of_the_images_that_came_are_written_in_the_lists_order(fetched: Fetched) -> None:
    rows = [json.loads(line) for line in (fetched.root / "rows.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(rows) == 394
    assert rows[0] == {
        "id": "000000003",
        "image": "images/00000/000000003.jpg",
        "url": f"{fetched.web.url}/3.jpg",
        "caption": "picture 3",
    }
    assert [row["id"] for row in rows] == sorted(row["id"] for row in rows)


def test_the_same_bytes_under_two_names_are_counted(fetched: Fetched) -> None:
    assert fetched.report.num_repeated == 2


def test_progress_goes_up_to_the_end_and_nothing_of_the_run_is_left(fetched: Fetched) -> None:
    assert fetched.updates[-1] == 394
    assert sorted(path.name for path in fetched.work.iterdir()) == ["failures.jsonl", "images.jsonl"]


def test_nobody_but_the_images_server_was_asked_and_we_said_who_we_are(fetched: Fetched) -> None:
    agents = {headers["User-Agent"] for _, headers in fetched.web.site.seen}
    assert len(agents) == 1
    assert "compatible; croc;" in agents.pop()


def test_the_next_call_tries_failed_urls_again_until_they_were_tried_often_enough(fetched: Fetched) -> None:
    """Runs last of those with `fetched`: it changes it."""
    site = fetched.web.site
    site.files |= {f"/{number}.jpg": picture(number) for number in range(0, 250, 5)}
    before = dict(site.asked)
    report = fetch_url_list(entry(), fetched.root, fetched.work)
    assert (report.num_new, report.num_present) == (51, 445)  # 50 that are alive again, and the 403 of before
    assert site.asked["/123.jpg"] == before["/123.jpg"]
    assert report.num_waiting == 0
    count = sum(site.asked.values())
    again = fetch_url_list(entry(), fetched.root, fetched.work)
    assert (again.num_new, again.num_missing) == (0, 55)
    assert sum(site.asked.values()) == count


def test_an_image_that_trickles_in_is_left_at_its_limit(tmp_path: Path, web: Web) -> None:
    web.site.files = {"/0.jpg": picture(0)}
    web.site.answers["/0.jpg"] = [trickle(0.2), trickle(0.2)]
    write_list(tmp_path, web, range(1))
    report = fetch_url_list(entry(url_seconds=1, retries=0), tmp_path, tmp_path / "work")
    assert report.reasons == {"incomplete after 1 seconds": 1}


def test_a_killed_calls_images_are_kept(tmp_path: Path, web: Web) -> None:
    keys = write_list(tmp_path, web, range(3))
    shard = tmp_path / "work" / "run-1-0" / "out" / "00000"
    shard.mkdir(parents=True)
    for number in (0, 1):
        (shard / f"00000{number}.jpg").write_bytes(picture(number))
        note = {"croc_key": keys[number], "key": f"00000{number}", "status": "success", "sha256": str(number)}
        (shard / f"00000{number}.json").write_text(json.dumps(note), encoding="utf-8")
    (shard / "000002.jpg").write_bytes(b"half a pict")
    (shard / "000002.json").write_text('{"croc_key": "0', encoding="utf-8")
    (tmp_path / "images" / "00000").mkdir(parents=True)
    (tmp_path / "images" / keys[2]).write_bytes(picture(2))
    report = fetch_url_list(entry(), tmp_path, tmp_path / "work")  # all is there: img2dataset is not started
    assert (report.num_present, report.num_missing) == (3, 0)
    assert (tmp_path / "images" / keys[0]).read_bytes() == picture(0)
    assert not list((tmp_path / "work").glob("run-*"))


def test_rows_of_another_file_are_kept_where_their_image_came(tmp_path: Path, web: Web) -> None:
    keys = write_list(tmp_path, web, range(3))
    (tmp_path / "images" / "00000").mkdir(parents=True)
    for key in (keys[0], keys[2]):
        (tmp_path / "images" / key).write_bytes(picture(0))
    work = tmp_path / "work"
    work.mkdir()
    gone = {"key": keys[1], "url": f"{web.url}/1.jpg", "reason": "gone", "tries": 2}
    (work / "failures.jsonl").write_text(json.dumps(gone), encoding="utf-8")
    chats = [{"image": key, "conversations": [key]} for key in keys] + [{"conversations": ["text alone"]}]
    (tmp_path / "chat.json").write_text(json.dumps(chats), encoding="utf-8")
    one = entry().model_copy(update={"rows_from": "chat.json"})
    assert fetch_url_list(one, tmp_path, work).reasons == {"gone": 1}
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text(encoding="utf-8").splitlines()]
    assert rows == [chats[0], chats[2], chats[3]]


def test_a_distributor_that_is_not_installed_is_named(tmp_path: Path, web: Web) -> None:
    write_list(tmp_path, web, range(1))
    with pytest.raises(UsageError, match="download.distributor is pyspark, and pyspark is not installed") as raised:
        fetch_url_list(entry(distributor="pyspark"), tmp_path, tmp_path / "work")
    assert raised.value.hint == "pip install pyspark, or leave it out"


@pytest.mark.slow
def test_a_run_that_hangs_is_ended_its_images_kept_and_the_hanging_url_named(tmp_path: Path, web: Web) -> None:
    web.site.files = {f"/{number}.jpg": picture(number) for number in range(40)}
    web.site.answers["/7.jpg"] = [trickle(0.5)]
    keys = write_list(tmp_path, web, range(40))
    told = Told()
    settings = entry(url_seconds=10_000, stall_seconds=5, retries=0)
    report = fetch_url_list(settings, tmp_path, tmp_path / "work", task=told)
    assert report.num_hangs >= 1
    assert "img2dataset made no more progress" in told.notes[0]
    assert report.num_present == 39
    assert report.reasons == {"img2dataset came to no end with it within 5 s": 1}
    assert not (tmp_path / "images" / keys[7]).exists()
