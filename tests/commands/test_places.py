"""Every command that writes, against a folder, a file and a link of the user's where it would write."""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest

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
}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder with data, a mix, runs and a checkpoint's config, which commands run in."""
    monkeypatch.setattr("croc_cli.pipeline.lengths.count_lengths", lambda *_: None)
    monkeypatch.chdir(tmp_path)
    small_spec(tmp_path / "data")
    (tmp_path / "mine.yaml").write_text(RECIPE)
    assert croc("data", "mix", "mine.yaml", "--stage", "reconstruct").code == 0
    (tmp_path / "data" / "mixes" / "mine-reconstruct").rename(tmp_path / "mix")
    (tmp_path / "rows.jsonl").write_text('{"conversations": 7}\n')
    picture().save(tmp_path / "a.jpg")
    for name in ("run", "run2"):
        make_run(tmp_path / name)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    return tmp_path


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
    if name != "run, all of its folder" or "folder" not in put.__name__  # a run may lie in a folder beside other files
]


@pytest.mark.usefixtures("fake_worker")
@pytest.mark.parametrize(("name", "put"), CASES, ids=lambda value: value if isinstance(value, str) else value.__name__)
def test_what_is_the_users_stays_and_is_named(place: Path, name: str, put: Callable[[Path], None]) -> None:
    command, where = WRITERS[name]
    target = place / where
    put(target)
    before = snapshot(place)
    answer = croc(*command)
    assert answer.code == 2, answer.err
    assert where in answer.err
    after = snapshot(place)
    assert {path: after.get(path) for path in before} == before, "something of the user's was changed"
