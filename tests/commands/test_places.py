"""Every command that writes, against a folder, a file and a link of the user's where it would write."""

import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from croc_cli.benchmarks.served import Server
from tests.benchmarks.runs import pope_rows, write_pope, write_rows
from tests.commands.croc import croc
from tests.report.runs import make_run
from tests.sources.data import picture, small_spec

RECIPE = """\
extends: nano
name: mine
data:
  root: data
  reconstruct: {kind: mix, sources: {captions: {path: captions.json, image_root: pictures}}}
"""
SERVED = ("eval", "--url", "http://127.0.0.1:9/v1", "--benchmark", "pope", "--data", "eval", "--run-dir", "out")
WRITERS: dict[str, tuple[tuple[str, ...], str]] = {
    "mix": (("data", "mix", "mine.yaml", "--stage", "reconstruct"), "data/mixes/mine-reconstruct"),
    "export to JSON": (("data", "export", "mix", "out/rows.json"), "out/rows.json"),
    "export to parquet": (("data", "export", "mix", "out/rows.parquet"), "out/rows.parquet"),
    "verify, a mix's copy": (("data", "verify", "mix", "--fix"), "mix-clean"),
    "verify, what a mix's copy leaves out": (("data", "verify", "mix", "--fix"), "mix.dropped.jsonl"),
    "verify, a file's copy": (("data", "verify", "rows.jsonl", "--fix"), "rows.clean.jsonl"),
    "verify, what a file's copy leaves out": (("data", "verify", "rows.jsonl", "--fix"), "rows.dropped.jsonl"),
    "verify, its list": (("data", "verify", "rows.jsonl"), "rows.jsonl.problems.txt"),
    "stats": (("data", "stats", "mix", "--out", "out"), "out/index.html"),
    "stats, a figure": (("data", "stats", "mix", "--out", "out"), "out/overview.png"),
    "show": (("data", "show", "mix", "--html", "out/row.html"), "out/row.html"),
    "report": (("report", "run", "--no-model", "--out", "out"), "out/index.html"),
    "report, a table": (("report", "run", "--no-model", "--out", "out"), "out/stages.csv"),
    "report beside runs": (("report", "run", "run2", "--no-model"), "report/index.html"),
    "attention": (("report", "attention", "a.jpg", "--model", "m", "--out", "out"), "out/recipe.yaml"),
    "attention, its task": (("report", "attention", "a.jpg", "--model", "m", "--out", "out"), "out/task.json"),
    "align": (("align", "nano", "--run-dir", "out"), "out/recipe.yaml"),
    "align, its folder": (("align", "nano", "--run-dir", "out", "--fresh"), "out/align"),
    "align, the assembled model": (("align", "nano", "--run-dir", "out"), "out/init"),
    "align, the rehearsal": (("align", "nano", "--run-dir", "out", "--preflight"), "out/preflight"),
    "run": (("run", "nano", "--run-dir", "out"), "out/finetune"),
    "run, all of its folder": (("run", "nano", "--run-dir", "out/run"), "out/run"),
    "convert": (("convert", "model", "out/stock"), "out/stock"),
    "convert to LLaVA's form": (("convert", "model", "out/llava", "--to", "llava"), "out/llava"),
    "init": (("init", "own.yaml", "--data", "own.json", "--images", "data/pictures"), "own.yaml"),
    "init, forced": (("init", "own.yaml", "--data", "own.json", "--force"), "own.yaml"),
    "prepare": (("data", "prepare", "mine.yaml", "--yes"), "data/mixes/mine-reconstruct"),
    "watch": (("watch", "run", "--page"), "run/report/index.html"),
    "watch, of several": (("watch", "run", "run2", "--page"), "report/index.html"),
    "demo": (("demo", "--run-dir", "out"), "out/finetune"),
    "ablate": (("ablate", "mask-ratio", "--base", "nano", "--run-dir", "out"), "out/rows"),
    "ablate, its stages": (("ablate", "mask-ratio", "--base", "nano", "--run-dir", "out"), "out/stages"),
    "eval": (SERVED, "out/benchmarks/results.json"),
    "eval, all of its folder": (SERVED, "out/benchmarks"),
    "score": (("eval", "score", "said.jsonl", "-b", "pope", "--data", "eval", "--out", "out"), "out"),
    "score, of a run": (("eval", "score", "run", "--data", "eval"), "run/benchmarks/items/pope.jsonl"),
    "score, all of its folder": (("eval", "score", "run", "--data", "eval"), "run/benchmarks/items"),
}


async def found_server(url: str, _name: str | None, **_: object) -> Server:
    return Server(url, "model")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with data, a mix, runs with answers and a checkpoint's config."""
    folder = tmp_path_factory.mktemp("made")
    small_spec(folder / "data")
    (folder / "mine.yaml").write_text(RECIPE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("croc_cli.pipeline.lengths.count_lengths", lambda *_: None)
        patch.chdir(folder)
        assert croc("data", "mix", "mine.yaml", "--stage", "reconstruct").code == 0
    (folder / "data" / "mixes" / "mine-reconstruct").rename(folder / "mix")
    (folder / "rows.jsonl").write_text('{"conversations": 7}\n')
    (folder / "own.json").write_text((folder / "data" / "captions.json").read_text())
    picture().save(folder / "a.jpg")
    for name in ("run", "run2"):
        make_run(folder / name)
    (folder / "model").mkdir()
    (folder / "model" / "config.json").write_text("{}")
    write_pope(folder / "eval")
    write_rows(folder / "said.jsonl", pope_rows())
    write_rows(folder / "run" / "benchmarks" / "predictions" / "pope.jsonl", pope_rows())
    return folder


@pytest.fixture
def place(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a copy of that folder, which commands run in."""
    monkeypatch.setattr("croc_cli.pipeline.lengths.count_lengths", lambda *_: None)
    monkeypatch.setattr("croc_cli.benchmarks.served.find_server", found_server)
    shutil.copytree(made, tmp_path / "place")
    monkeypatch.chdir(tmp_path / "place")
    return tmp_path / "place"


def put_folder(path: Path) -> None:
    path.mkdir(parents=True)
    (path / "photo.jpg").write_text("mine")


def put_file(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("mine")


def put_link(path: Path) -> None:
    put_file(Path("elsewhere/mine.txt"))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(Path("elsewhere/mine.txt").resolve())


def put_link_to_a_folder(path: Path) -> None:
    put_folder(Path("elsewhere"))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(Path("elsewhere").resolve())


def snapshot(folder: Path) -> dict[str, str]:
    found = {}
    for path in sorted(folder.rglob("*")):
        kind = f"link {os.readlink(path)}" if path.is_symlink() else "folder"
        found[str(path)] = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else kind
    return found


PUTS = (put_folder, put_file, put_link, put_link_to_a_folder)
CASES = [
    (name, put)
    for name in WRITERS
    for put in PUTS
    # A run and its scores may lie in a folder beside other files, and --force replaces a file.
    if not (name.endswith(", all of its folder") and "folder" in put.__name__)
    if not (name == "init, forced" and put is put_file)
]
EXIT_CODES = {"score, of a run": 1, "score, all of its folder": 1}
"""Where other benchmarks may be scored all the same."""


@pytest.mark.usefixtures("fake_worker")
@pytest.mark.parametrize(("name", "put"), CASES, ids=lambda value: value if isinstance(value, str) else value.__name__)
def test_what_is_the_users_stays_and_is_named(place: Path, name: str, put: Callable[[Path], None]) -> None:
    command, where = WRITERS[name]
    target = place / where
    put(target)
    before = snapshot(place)
    answer = croc(*command)
    assert answer.code == EXIT_CODES.get(name, 2), answer.err
    assert where in answer.err
    after = snapshot(place)
    assert {path: after.get(path) for path in before} == before, "something of the user's was changed"
