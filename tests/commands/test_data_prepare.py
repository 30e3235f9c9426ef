"""From files on a server to a trained stage: hub file, archive, URL list and text set, all on the loopback address."""

import io
import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow
import pytest
from PIL import Image
from pyarrow import parquet

from croc_cli.run_dir import RunDir
from croc_cli.sources.read.manifest import read_manifest
from tests.commands.croc import croc
from tests.sources.web import Web

NUM_CAPTIONS, NUM_URLS, NUM_TEXTS = 48, 40, 30
DEAD = range(0, NUM_URLS, 5)


def jpeg(number: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (90 + number, 80), (number * 5 % 256, number * 3 % 256, 90)).save(buffer, "JPEG")
    return buffer.getvalue()


def chat(number: int) -> dict[str, object]:
    turns = [("human", "<image>\nWhat is shown?"), ("gpt", f"a red square number {number}")]
    return {
        "id": number,
        "image": f"{number:05d}.jpg",
        "conversations": [{"from": who, "value": value} for who, value in turns],
    }


def fill(web: Web) -> None:
    """Put every source on the server."""
    images = io.BytesIO()
    with zipfile.ZipFile(images, "w") as packed:
        for number in range(NUM_CAPTIONS):
            packed.writestr(f"images/{number:05d}.jpg", jpeg(number))
    web.site.files["/images.zip"] = images.getvalue()
    for number in range(NUM_URLS):
        if number not in DEAD:
            web.site.files[f"/url/{number}.jpg"] = jpeg(number)
    table = io.BytesIO()
    rows = [
        {"url": f"{web.url}/url/{number}.jpg", "caption": f"a blue circle, number {number}"}
        for number in range(NUM_URLS)
    ]
    parquet.write_table(pyarrow.Table.from_pylist(rows), table)
    texts = [
        {"instruction": f"Count to {number}.", "input": "", "output": f"1 to {number}"} for number in range(NUM_TEXTS)
    ]
    web.site.repos["me/set"] = {
        "captions.json": json.dumps([chat(number) for number in range(NUM_CAPTIONS)]).encode(),
        "urls.parquet": table.getvalue(),
        "texts.json": json.dumps(texts).encode(),
    }


CATALOGUE = """
my-captions:
  title: Captions of a hub file, images of an archive
  rows: {captions}
  licence: cc0-1.0
  annotation: mine/captions.json
  image_root: mine/images
  images: {{"": my-images}}
  files:
    - {{kind: hub, repo: me/set, revision: "0123456", path: captions.json, to: mine/captions.json}}
my-images:
  files:
    - kind: web
      url: {url}/images.zip
      unpack: {{to: mine/images, flat: true, only: ["*.jpg"], num_files: {captions}}}
my-links:
  licence: cc-by-4.0
  annotation: links/rows.jsonl
  image_root: .
  files:
    - {{kind: hub, repo: me/set, path: urls.parquet, to: links/urls.parquet}}
    - kind: url_list
      path: links/urls.parquet
      to: links/images
      rows_to: links/rows.jsonl
      download: {{image_size: 64, min_image_size: 8, processes_count: 1, retries: 0, max_tries: 1}}
my-texts:
  rows: {texts}
  annotation: texts.json
  files:
    - {{kind: hub, repo: me/set, path: texts.json, to: texts.json}}
"""

RECIPE = """
extends: nano
name: mine
runs_folder: {folder}/runs
data:
  root: {folder}/data
  catalogs: [{folder}/sources.yaml]
  align:
    kind: mix
    sources: {{my-captions: {{}}}}
  reconstruct:
    kind: mix
    sources:
      my-captions: {{count: 20}}
      my-links: {{columns: {{image: image, gpt: [caption], prompt: Describe the image.}}}}
      my-texts: {{}}
  finetune:
    kind: mix
    sources: {{my-captions: {{fraction: 0.5}}}}
  num_workers: 0
align: {{batch: {{global_size: 4, micro_size: 4}}, max_steps: 2, template: plain}}
reconstruct: {{batch: {{global_size: 4, micro_size: 4}}, max_steps: 2, log_gradient_shares_every: null}}
finetune: {{batch: {{global_size: 4, micro_size: 4}}, max_steps: 2}}
eval: {{benchmarks: []}}
"""


@pytest.fixture
def web(monkeypatch: pytest.MonkeyPatch) -> Iterator[Web]:
    with Web() as running:
        fill(running)
        monkeypatch.setenv("HF_ENDPOINT", running.url)
        yield running


@pytest.fixture
def recipe(web: Web, tmp_path: Path) -> Path:
    text = CATALOGUE.format(url=web.url, captions=NUM_CAPTIONS, texts=NUM_TEXTS)
    (tmp_path / "sources.yaml").write_text(text, encoding="utf-8")
    file = tmp_path / "mine.yaml"
    file.write_text(RECIPE.format(folder=tmp_path), encoding="utf-8")
    return file


def begin(recipe: Path, *arguments: str) -> "subprocess.Popen[str]":
    """Start it as users do, in a process of its own."""
    command = [sys.executable, "-m", "croc_cli", "data", "prepare", str(recipe), "--yes", *arguments]
    return subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=dict(os.environ))


def kill_when(process: "subprocess.Popen[str]", condition: Callable[[], bool]) -> None:
    """Kill a process, as the machine's power would, as soon as something is so."""
    deadline = time.monotonic() + 200
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()


def part_of(file: Path) -> int:
    part = file.with_name(f".{file.name}.part")
    return part.stat().st_size if part.exists() else 0


def test_a_dry_run_says_what_would_be_fetched_and_mixed_and_touches_nothing(recipe: Path, web: Web) -> None:
    answer = croc("data", "prepare", str(recipe), "--dry-run")
    assert answer.code == 0, answer.err
    assert "my-captions" in answer.out
    assert "reconstruct: " in answer.out
    assert not (recipe.parent / "data").exists()
    assert not web.site.asked


def test_one_stage_is_prepared_checked_and_found_ready_again(recipe: Path, web: Web) -> None:
    answer = croc("data", "prepare", str(recipe), "--stage", "align", "--yes")
    assert answer.code == 0, answer.err
    assert answer.out.endswith(f"ready: `croc run {recipe}` trains on align\n")
    manifest = read_manifest(recipe.parent / "data" / "mixes" / "mine-align")
    [source] = manifest.sources
    assert (manifest.rows, source.rows_in, source.licence) == (NUM_CAPTIONS, NUM_CAPTIONS, "cc0-1.0")
    assert source.revision == "0123456789abcdef0123456789abcdef01234567"
    count = sum(web.site.asked.values())
    again = croc("data", "prepare", str(recipe), "--stage", "align")
    assert again.code == 0, again.err
    assert "every source is here" in again.err
    assert "was checked before and is in order" in again.err
    assert sum(web.site.asked.values()) == count


def test_a_source_that_cannot_be_had_stops_before_the_mix_and_is_named(recipe: Path, web: Web) -> None:
    del web.site.files["/images.zip"]
    answer = croc("data", "prepare", str(recipe), "--stage", "align", "--yes")
    assert answer.code == 1
    assert "error: my-images is not complete, so nothing was mixed" in answer.err
    assert not (recipe.parent / "data" / "mixes").exists()


def test_images_that_are_missing_make_it_end_with_exit_code_2_and_their_number(
    recipe: Path, web: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("croc_cli.pipeline.lengths.count_lengths", lambda *_: None)
    text = (recipe.parent / "sources.yaml").read_text(encoding="utf-8").replace(", num_files: 48", "")
    (recipe.parent / "sources.yaml").write_text(text, encoding="utf-8")
    images = io.BytesIO()
    with zipfile.ZipFile(images, "w") as packed:
        for number in range(NUM_CAPTIONS - 2):
            packed.writestr(f"images/{number:05d}.jpg", jpeg(number))
    web.site.files["/images.zip"] = images.getvalue()
    answer = croc("data", "prepare", str(recipe), "--stage", "align", "--yes")
    assert answer.code == 2
    assert "image-missing: 2 × " in answer.out
    assert "--fix` writes a copy without the rows that have them" in answer.err


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_it_survives_three_kills_and_the_recipe_trains_on_what_it_made(recipe: Path, web: Web) -> None:
    data = recipe.parent / "data"
    site = web.site
    site.block = 1000
    slow = {"/images.zip": 0.02, "/store/me/set/captions.json": 0.1}
    site.pause.update(slow)
    kill_when(begin(recipe), lambda: part_of(data / ".fetch/archives/my-images/images.zip") > 3000)
    kill_when(begin(recipe), lambda: part_of(data / "mine/captions.json") > 3000)
    site.pause.clear()
    site.pause["/url/39.jpg"] = 30.0  # img2dataset waits for this one while all others are there
    runs = data / ".fetch" / "urls" / "my-links"
    kill_when(begin(recipe), lambda: len(list(runs.glob("run-*/out/00000/*.json"))) >= 20)
    site.pause.clear()
    last = begin(recipe)
    out, err = last.communicate(timeout=400)
    assert last.returncode == 0, out + err
    # Nothing that was whole was fetched again, and what was begun was gone on from.
    ranges = [headers["Range"] for path, headers in site.seen if path == "/images.zip" and "Range" in headers]
    assert len(ranges) == 1
    assert int(ranges[0][6:-1]) > 3000
    assert sum(path == "/images.zip" for path, _ in site.seen) == 2
    assert sum(site.asked[f"/url/{number}.jpg"] for number in range(NUM_URLS)) < 2 * NUM_URLS
    assert f"{NUM_URLS - len(DEAD)} of {NUM_URLS} images are here" in out
    assert "8 × HTTP Error 404: Not Found" in out
    # The manifests add up.
    rows = {}
    for stage in ("align", "reconstruct", "finetune"):
        manifest = read_manifest(data / "mixes" / f"mine-{stage}")
        assert manifest.rows == manifest.image_rows + manifest.text_rows == sum(s.rows_out for s in manifest.sources)
        assert all(s.rows_in == s.rows_out + sum(s.dropped.values()) for s in manifest.sources)
        rows[stage] = {source.name: source.rows_out for source in manifest.sources}
    assert rows == {
        "align": {"my-captions": NUM_CAPTIONS},
        "reconstruct": {"my-captions": 20, "my-links": NUM_URLS - len(DEAD), "my-texts": NUM_TEXTS},
        "finetune": {"my-captions": NUM_CAPTIONS // 2},
    }
    assert out.rstrip().endswith(f"ready: `croc run {recipe}` trains on align, reconstruct, finetune")
    trained = subprocess.run(
        [sys.executable, "-m", "croc_cli", "run", str(recipe)], capture_output=True, text=True, check=False
    )
    assert trained.returncode == 0, trained.stderr
    run = RunDir(recipe.parent / "runs" / "mine")
    assert all(run.stage(stage).finished() for stage in ("align", "reconstruct", "finetune"))
