import hashlib
from pathlib import Path

import pytest

from croc_cli.sources.fetch.download import Limits, download
from croc_cli.sources.fetch.hub import list_files, place_below, remote_of
from croc_cli.sources.known.source import HubFile
from croc_cli.sources.read.content import FetchError
from tests.sources.web import COMMIT, Web

QUICK = Limits(tries=2, wait=0.01)


@pytest.fixture
def hub(web: Web, monkeypatch: pytest.MonkeyPatch) -> Web:
    monkeypatch.setenv("HF_ENDPOINT", web.url)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    web.site.repos["me/set"] = {
        "rows.json": b"[]",
        "data/train-0.parquet": b"PAR1a",
        "data/train-1.parquet": b"PAR1bb",
        "data/test-0.parquet": b"PAR1c",
        "data/deep/train-2.parquet": b"PAR1d",
    }
    return web


def entry(path: str, revision: str = "main", to: str = "x/") -> HubFile:
    return HubFile(kind="hub", repo="me/set", path=path, revision=revision, to=to)


def test_a_branch_and_the_beginning_of_a_commit_are_pinned_to_the_whole_commit(hub: Web) -> None:
    for revision in ("main", COMMIT[:7], COMMIT):
        assert list_files(entry("rows.json", revision), limits=QUICK).commit == COMMIT


def test_a_pattern_stands_for_the_files_of_its_folder(hub: Web) -> None:
    file = entry("data/train-*.parquet")
    listing = list_files(file, limits=QUICK)
    assert [one.path for one in listing.entries] == ["data/train-0.parquet", "data/train-1.parquet"]
    assert [one.size for one in listing.entries] == [5, 6]
    assert place_below(file, listing.entries[0]) == "train-0.parquet"


def test_a_file_comes_with_size_and_sha256_from_where_the_hub_stores_it(hub: Web, tmp_path: Path) -> None:
    file = entry("rows.json")
    listing = list_files(file, limits=QUICK)
    remote = remote_of(file, listing.entries[0], listing.commit, limits=QUICK)
    assert (remote.size, remote.sha256) == (2, hashlib.sha256(b"[]").hexdigest())
    assert remote.shown == "me/set/rows.json@0123456"
    download(lambda: remote, tmp_path / "rows.json", limits=QUICK)
    assert (tmp_path / "rows.json").read_bytes() == b"[]"


def test_a_token_goes_to_the_hub_and_not_to_a_store_elsewhere(hub: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    file = entry("rows.json")
    listing = list_files(file, limits=QUICK)
    assert remote_of(file, listing.entries[0], listing.commit).headers == {"Authorization": "Bearer hf_secret"}
    hub.site.url = hub.url.replace("127.0.0.1", "localhost")  # the redirect leads to another host now
    assert remote_of(file, listing.entries[0], listing.commit).headers == {}


def test_a_gated_repository_asks_for_consent_and_token(hub: Web) -> None:
    hub.site.gated.add("me/set")
    with pytest.raises(FetchError, match="me/set requires a login and consent") as raised:
        list_files(entry("rows.json"), limits=QUICK)
    assert raised.value.hint == f"agree at {hub.url}/datasets/me/set, then set HF_TOKEN"


def test_what_is_not_there_is_named(hub: Web) -> None:
    with pytest.raises(FetchError, match="me/set has no file rows.jsonl at 0123456"):
        list_files(entry("rows.jsonl"), limits=QUICK)
    with pytest.raises(FetchError, match="has no dataset you/set, or not for you"):
        list_files(HubFile(kind="hub", repo="you/set", path="a", to="x"), limits=QUICK)
    with pytest.raises(FetchError, match="me/set has no revision v9"):
        list_files(entry("rows.json", "v9"), limits=QUICK)
    with pytest.raises(FetchError, match="me/set has no commit abcdef0 any more"):
        list_files(entry("rows.json", "abcdef0"), limits=QUICK)


def test_500_of_the_hub_is_asked_again(hub: Web) -> None:
    hub.site.answers["/api/datasets/me/set/revision/main"] = [500]
    assert list_files(entry("rows.json"), limits=QUICK).commit == COMMIT


def test_a_hub_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(FetchError, match=r"http://127.0.0.1:9 cannot be reached .* about me/set \(2 tries\)"):
        list_files(entry("rows.json"), limits=QUICK)
