import hashlib
import io
import json
import tarfile
import zipfile
from pathlib import Path

import pytest

from croc_cli.errors import UsageError
from croc_cli.sources.fetch.download import Limits
from croc_cli.sources.fetch.fetch import FetchOptions, Outcome, fetch_source
from croc_cli.sources.fetch.plan import make_plan
from croc_cli.sources.known.record import fetched_files, locked
from croc_cli.sources.known.source import Source
from tests.sources.web import COMMIT, Web, cut

OPTIONS = FetchOptions(limits=Limits(tries=2, wait=0.01))


def source(name: str, *files: dict[str, object], **facts: object) -> Source:
    return Source.model_validate({"name": name, "files": files, **facts})


def fetch(one: Source, root: Path, options: FetchOptions = OPTIONS) -> list[Outcome]:
    return fetch_source(one, root, options=options)


def states(outcomes: list[Outcome]) -> list[str]:
    return [outcome.state for outcome in outcomes]


def zipped(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as packed:
        for name, content in files.items():
            packed.writestr(name, content)
    return buffer.getvalue()


def sam_tar(*numbers: int) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as packed:
        for number in numbers:
            for suffix, content in (("jpg", b"image %d" % number), ("json", b"{}")):
                info = tarfile.TarInfo(f"./sa_{number}.{suffix}")
                info.size = len(content)
                packed.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


@pytest.fixture
def hub(web: Web, monkeypatch: pytest.MonkeyPatch) -> Web:
    monkeypatch.setenv("HF_ENDPOINT", web.url)
    web.site.repos["me/set"] = {"rows.json": b'[{"a": 1}]', "d/t-0.parquet": b"PAR1a", "d/t-1.parquet": b"PAR1bb"}
    return web


ROWS = {"kind": "hub", "repo": "me/set", "path": "rows.json", "to": "set/rows.json"}
SHARDS = {"kind": "hub", "repo": "me/set", "path": "d/t-*.parquet", "to": "set/shards/"}


def test_hub_files_land_where_the_catalogue_says_and_are_recorded_with_commit_and_sha256(
    hub: Web, tmp_path: Path
) -> None:
    assert states(fetch(source("set", ROWS, SHARDS), tmp_path)) == ["fetched", "fetched"]
    assert (tmp_path / "set" / "rows.json").read_bytes() == b'[{"a": 1}]'
    assert sorted(path.name for path in (tmp_path / "set" / "shards").iterdir()) == ["t-0.parquet", "t-1.parquet"]
    files = fetched_files(tmp_path, "set")
    rows = files["hub:me/set/rows.json@main"]
    assert (rows["commit"], rows["sha256"]) == (COMMIT, hashlib.sha256(b'[{"a": 1}]').hexdigest())
    assert [part["size"] for part in files["hub:me/set/d/t-*.parquet@main"]["files"]] == [5, 6]


def test_what_is_here_already_is_not_asked_for_again(hub: Web, tmp_path: Path) -> None:
    fetch(source("set", ROWS, SHARDS), tmp_path)
    count = sum(hub.site.asked.values())
    assert states(fetch(source("set", ROWS, SHARDS), tmp_path)) == ["already here", "already here"]
    assert sum(hub.site.asked.values()) == count
    assert make_plan([source("set", ROWS, SHARDS)], tmp_path).sources[0].done


def test_a_file_that_was_removed_is_fetched_again_and_one_that_was_changed_is_left(hub: Web, tmp_path: Path) -> None:
    fetch(source("set", ROWS, SHARDS), tmp_path)
    (tmp_path / "set" / "rows.json").write_bytes(b"[")
    (tmp_path / "set" / "shards" / "t-1.parquet").unlink()
    changed, removed = fetch(source("set", ROWS, SHARDS), tmp_path)
    assert (changed.state, removed.state) == ("failed", "fetched")
    assert (
        changed.message
        == f"{tmp_path / 'set' / 'rows.json'} is a file that croc did not make, so croc does not change it"
    )
    (tmp_path / "set" / "rows.json").unlink()
    assert states(fetch(source("set", ROWS, SHARDS), tmp_path)) == ["fetched", "already here"]
    assert (tmp_path / "set" / "rows.json").read_bytes() == b'[{"a": 1}]'
    assert hub.site.asked["/store/me/set/d/t-0.parquet"] == 1


def test_a_file_that_someone_else_put_there_is_taken_over_when_it_is_the_right_one(hub: Web, tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "rows.json").write_bytes(b'[{"a": 1}]')
    assert states(fetch(source("set", ROWS), tmp_path)) == ["fetched"]
    assert hub.site.asked["/store/me/set/rows.json"] == 0


def test_an_archive_is_unpacked_and_removed(web: Web, tmp_path: Path) -> None:
    web.site.files["/i.zip"] = zipped({"images/1.jpg": b"1", "images/2.jpg": b"2"})
    one = source(
        "pics", {"kind": "web", "url": f"{web.url}/i.zip", "unpack": {"to": "p", "flat": True, "num_files": 2}}
    )
    assert states(fetch(one, tmp_path)) == ["fetched"]
    assert sorted(path.name for path in (tmp_path / "p").iterdir()) == ["1.jpg", "2.jpg"]
    assert not list((tmp_path / ".fetch").rglob("*.zip*"))
    assert fetched_files(tmp_path, "pics")[f"web:{web.url}/i.zip"]["num_files"] == 2
    assert states(fetch(one, tmp_path)) == ["already here"]


def test_an_archive_is_kept_where_that_is_asked_for(web: Web, tmp_path: Path) -> None:
    web.site.files["/i.zip"] = zipped({"1.jpg": b"1"})
    one = source("pics", {"kind": "web", "url": f"{web.url}/i.zip", "unpack": {"to": "p"}})
    fetch(one, tmp_path, FetchOptions(keep_archives=True, limits=OPTIONS.limits))
    assert (tmp_path / ".fetch" / "archives" / "pics" / "i.zip").is_file()


def test_a_broken_archive_is_removed_so_that_the_next_call_fetches_it_again(web: Web, tmp_path: Path) -> None:
    whole = zipped({"1.jpg": b"1" * 1000})
    web.site.files["/i.zip"] = whole[:500]
    one = source("pics", {"kind": "web", "url": f"{web.url}/i.zip", "unpack": {"to": "p"}})
    [outcome] = fetch(one, tmp_path)
    assert (outcome.state, outcome.message) == ("failed", "i.zip is broken: File is not a zip file")
    web.site.files["/i.zip"] = whole
    assert states(fetch(one, tmp_path)) == ["fetched"]


def test_a_folder_that_is_full_already_is_taken_as_it_is(web: Web, tmp_path: Path) -> None:
    (tmp_path / "p").mkdir()
    for number in range(3):
        (tmp_path / "p" / f"{number}.jpg").touch()
    one = source("pics", {"kind": "web", "url": f"{web.url}/i.zip", "unpack": {"to": "p", "num_files": 3}})
    assert states(fetch(one, tmp_path)) == ["already here"]
    (tmp_path / "p" / "2.jpg").unlink()
    assert states(fetch(one, tmp_path)) == ["failed"]


def test_one_files_failure_does_not_keep_the_others_away(hub: Web, tmp_path: Path) -> None:
    gone = {"kind": "web", "url": f"{hub.url}/gone.json", "to": "set/gone.json"}
    first, second = fetch(source("set", gone, ROWS), tmp_path)
    assert (first.state, second.state) == ("failed", "fetched")
    assert "answered 404" in first.message
    assert first.is_missing


def test_another_size_than_the_catalogues_is_refused_with_both(hub: Web, tmp_path: Path) -> None:
    [outcome] = fetch(source("set", {**ROWS, "size": 11}), tmp_path)
    assert outcome.message == "me/set/rows.json has 10 bytes, the catalogue says 11"


def test_a_link_gives_what_another_source_brings_a_second_name(tmp_path: Path) -> None:
    one = source("eval:x", {"kind": "link", "to": "eval/x/val2014", "target": "coco/val2014"})
    [outcome] = fetch(one, tmp_path)
    assert (outcome.state, outcome.message) == ("incomplete", f"{tmp_path}/coco/val2014 is not there yet")
    (tmp_path / "coco" / "val2014").mkdir(parents=True)
    (tmp_path / "coco" / "val2014" / "1.jpg").touch()
    assert states(fetch(one, tmp_path)) == ["already here"]
    assert (tmp_path / "eval" / "x" / "val2014" / "1.jpg").is_file()
    assert not (tmp_path / "eval" / "x" / "val2014").readlink().is_absolute()


def test_what_only_a_person_can_get_is_said_with_its_page(tmp_path: Path) -> None:
    hand = {"kind": "by_hand", "to": "web/images", "page": "https://h/form", "how": "unpack web.zip"}
    [outcome] = fetch(source("web", hand), tmp_path)
    assert (outcome.state, outcome.hint, outcome.is_missing) == ("by hand", "https://h/form", True)
    assert outcome.message == f"unpack web.zip; it goes to {tmp_path}/web/images"
    assert not fetch(source("web", {**hand, "optional": True}), tmp_path)[0].is_missing


SAM = {"kind": "sam", "to": "sam/images", "first": 0, "last": 2, "num_files": 5, "about": 3000}


def test_sam_comes_by_the_users_links_and_only_its_images_are_kept(web: Web, tmp_path: Path) -> None:
    links = tmp_path / "links.txt"
    tars = {"sa_000000.tar": sam_tar(1, 2), "sa_000001.tar": sam_tar(3), "sa_000002.tar": sam_tar(4, 5)}
    web.site.files = {f"/{name}": content for name, content in tars.items()}
    web.site.answers["/sa_000001.tar"] = [403]
    lines = "".join(f"{name}\t{web.url}/{name}?signed=1\n" for name in tars)
    links.write_text("file_name\tcdn_link\n" + lines, encoding="utf-8")
    options = FetchOptions(sam_links=links, limits=OPTIONS.limits)
    [outcome] = fetch(source("sam", SAM), tmp_path, options)
    assert outcome.state == "failed"
    assert outcome.message.startswith("1 tars failed (sa_000001.tar): ")
    assert outcome.hint is not None
    assert "a link that has expired" in outcome.hint
    [planned] = make_plan([source("sam", SAM)], tmp_path).sources
    assert (planned.download_bytes, planned.notes[0]) == (1000, "1 of 3 tars are missing")
    [outcome] = fetch(source("sam", SAM), tmp_path, options)
    assert (outcome.state, outcome.message) == ("fetched", "5 images")
    assert web.site.asked["/sa_000000.tar"] == 1
    assert sorted(path.name for path in (tmp_path / "sam" / "images").iterdir()) == [f"sa_{n}.jpg" for n in range(1, 6)]


def test_sam_comes_from_local_tars_which_stay(tmp_path: Path) -> None:
    tars = tmp_path / "tars"
    tars.mkdir()
    for number, content in enumerate([sam_tar(1, 2), sam_tar(3), sam_tar(4)]):
        (tars / f"sa_{number:06d}.tar").write_bytes(content)
    options = FetchOptions(sam_tars=tars, limits=OPTIONS.limits)
    [outcome] = fetch(source("sam", SAM), tmp_path, options)
    assert (outcome.state, outcome.message) == ("incomplete", "the tars gave 4 images, expected 5")
    assert len(list(tars.iterdir())) == 3


def test_sam_without_links_says_where_the_form_is(tmp_path: Path) -> None:
    [outcome] = fetch(source("sam", SAM), tmp_path)
    assert outcome.state == "by hand"
    assert "3 of 3 tars have no link: fill in the form, then --sam-links FILE" in outcome.message
    (tmp_path / "links.txt").write_text("<!doctype html><html>", encoding="utf-8")
    [outcome] = fetch(source("sam", SAM), tmp_path, FetchOptions(sam_links=tmp_path / "links.txt"))
    assert (outcome.state, "gave a web page" in outcome.message) == ("failed", True)


def test_a_download_that_was_killed_goes_on_and_the_plan_counts_what_is_kept(web: Web, tmp_path: Path) -> None:
    content = zipped({"1.jpg": bytes(range(256)) * 2000})
    web.site.files["/i.zip"] = content
    web.site.answers["/i.zip"] = [cut(300_000), 410]
    file = {"kind": "web", "url": f"{web.url}/i.zip", "size": len(content), "unpack": {"to": "p"}}
    assert states(fetch(source("pics", file), tmp_path)) == ["failed"]
    [planned] = make_plan([source("pics", file)], tmp_path).sources
    assert planned.download_bytes == len(content) - 300_000
    assert states(fetch(source("pics", file), tmp_path)) == ["fetched"]
    assert web.site.seen[-1][1]["Range"] == "bytes=300000-"


def test_a_disk_without_room_is_noticed_before_the_download(
    hub: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("croc_cli.sources.fetch.fetch.free_disk", lambda _path: 5)
    [outcome] = fetch(source("set", ROWS), tmp_path)
    assert outcome.message == f"rows.json needs 0.0 GB more, and 0.0 GB are free at {tmp_path}"
    assert hub.site.asked["/store/me/set/rows.json"] == 0


def test_only_one_fetch_works_in_a_root(tmp_path: Path) -> None:
    another = pytest.raises(UsageError, match=r"another croc is fetching into .* \(process \d+\)")
    with locked(tmp_path), another, locked(tmp_path):
        pass
    with locked(tmp_path):
        pass


def test_a_record_is_json_that_names_its_source(hub: Web, tmp_path: Path) -> None:
    fetch(source("set:a", ROWS), tmp_path)
    content = json.loads((tmp_path / ".fetch" / "set_a.json").read_text(encoding="utf-8"))
    assert content["source"] == "set:a"
