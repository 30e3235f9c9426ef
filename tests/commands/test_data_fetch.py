import io
import json
import re
import zipfile
from pathlib import Path

import pytest
from PIL import Image

from croc_cli.benchmarks.registry import benchmarks
from tests.commands.croc import croc
from tests.sources.web import Web

POPE = [
    {"question_id": 1, "image": "COCO_val2014_000000000001.jpg", "text": "Is there a cat?", "label": "yes"},
    {"question_id": 2, "image": "COCO_val2014_000000000001.jpg", "text": "Is there a dog?", "label": "no"},
]


@pytest.fixture
def web() -> object:
    with Web() as running:
        yield running


def zipped(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as packed:
        for name, content in files.items():
            packed.writestr(name, content)
    return buffer.getvalue()


def catalogue(path: Path, text: str) -> str:
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_the_plan_of_the_papers_recipe_is_over_600_gb_and_says_what_sam_costs(tmp_path: Path) -> None:
    answer = croc("data", "fetch", "sharegpt4v-pt", "lcs558k", "mix665k", "--root", str(tmp_path), "--dry-run")
    assert answer.code == 0, answer.err
    assert re.search(r"sam-images +560 GB +– +SA-1B research licence \[non-commercial\]", answer.out)
    assert re.search(r"into .*: 66\d GB to download, 38\d GB more on disk", answer.out)
    assert "sam-images: wants a form at https://ai.meta.com/" in answer.out
    assert not list(tmp_path.iterdir())


def test_without_a_terminal_anything_large_needs_yes(tmp_path: Path) -> None:
    answer = croc("data", "fetch", "firefly", "--root", str(tmp_path))
    assert answer.code == 2
    assert (
        "1.17 GB are to be downloaded, and there is no terminal to ask at\nhint: --yes skips the question" in answer.err
    )


def test_what_does_not_fit_on_the_disk_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("croc_cli.sources.fetch.plan.free_disk", lambda _path: 10**9)
    answer = croc("data", "fetch", "firefly", "--root", str(tmp_path), "--yes")
    assert answer.code == 2
    assert "it takes up to 1.17 GB of disk, and 1 GB are free" in answer.err


def test_sources_or_a_recipe_one_of_them() -> None:
    for arguments in ([], ["alpaca", "--recipe", "nano"]):
        answer = croc("data", "fetch", *arguments)
        assert answer.code == 2
        assert "name sources, or a recipe with --recipe" in answer.err


def test_a_recipe_without_mixes_needs_nothing(tmp_path: Path) -> None:
    answer = croc("data", "fetch", "--recipe", "nano", "--root", str(tmp_path))
    assert answer.code == 0, answer.err
    assert "0 B to download" in answer.out


def test_benchmark_files_land_where_croc_eval_reads_them(tmp_path: Path, web: Web) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(buffer, "JPEG")
    web.site.files["/val2014.zip"] = zipped({"val2014/COCO_val2014_000000000001.jpg": buffer.getvalue()})
    for subset in ("adversarial", "popular", "random"):
        web.site.files[f"/coco_pope_{subset}.json"] = "\n".join(map(json.dumps, POPE)).encode()
    shipped = (Path(__file__).parents[2] / "croc_cli" / "sources" / "known" / "eval.yaml").read_text(encoding="utf-8")
    entries = re.findall(r"^(?:coco-val2014|eval:pope):\n(?:  .*\n)+", shipped, flags=re.MULTILINE)
    text = "".join(entries).replace(", num_files: 40504", "")
    text = re.sub(r"https?://\S+/(val2014\.zip|coco_pope_\w+\.json)", rf"{web.url}/\1", text)
    mine = catalogue(tmp_path / "mine.yaml", text)
    answer = croc("data", "fetch", "eval:pope", "--catalog", mine, "--root", str(tmp_path / "data"), "--yes")
    assert answer.code == 0, answer.err
    assert answer.out.endswith("coco-val2014: fetched\neval:pope: fetched\n")
    records = benchmarks()["pope"].read(tmp_path / "data" / "eval")
    assert len(records) == 6
    assert records[0].picture is not None
    assert records[0].picture.open().size == (8, 8)
    again = croc("data", "fetch", "eval:pope", "--catalog", mine, "--root", str(tmp_path / "data"))
    assert (again.code, again.out.count("was here")) == (0, 2)


def test_what_failed_is_named_at_the_end_with_its_hint_and_exit_code_1(tmp_path: Path, web: Web) -> None:
    web.site.files["/rows.json"] = b"[]"
    text = f"""
mine:
  files:
    - {{kind: web, url: "{web.url}/gone.json", to: gone.json, size: 4}}
    - {{kind: web, url: "{web.url}/rows.json", to: rows.json, size: 2}}
    - {{kind: by_hand, to: form.json, page: "https://h/form", how: fill in the form}}
"""
    mine = catalogue(tmp_path / "mine.yaml", text)
    answer = croc("data", "fetch", "mine", "--catalog", mine, "--root", str(tmp_path / "data"))
    assert answer.code == 1
    assert f"mine: failed: {web.url}/gone.json answered 404 Not Found\n  it is no longer there" in answer.out
    assert "mine: by hand: fill in the form; it goes to" in answer.out
    assert "error: 1 of 1 sources are not complete" in answer.err
    assert (tmp_path / "data" / "rows.json").is_file()


def test_the_catalogue_is_listed_by_group_and_one_source_in_full(tmp_path: Path) -> None:
    answer = croc("data", "sources")
    assert answer.code == 0
    assert re.search(r"\nstage 1, align:\nlcs558k +558,128 +181 MB +hub +other", answer.out)
    assert "\nbenchmarks:\neval:vqav2" in answer.out
    one = croc("data", "sources", "lcs558k-urls")
    assert "img2dataset, URLs in llava/llava_pretrain/for_urls/blip_laion_cc_sbu_558k_meta.json" in one.out
    assert "not verified: about 15 % of the URLs were dead by 2023-05, more since" in one.out
    wrong = croc("data", "sources", "lcs")
    assert (wrong.code, "unknown source 'lcs'" in wrong.err) == (2, True)


def test_a_catalogue_of_ones_own_is_listed_with_the_rest(tmp_path: Path) -> None:
    mine = catalogue(tmp_path / "mine.yaml", 'mine:\n  files: [{kind: web, url: "http://h/a", to: a, size: 5}]\n')
    answer = croc("data", "sources", "--catalog", mine)
    assert "\nyour own:\nmine" in answer.out
