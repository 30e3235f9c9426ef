"""Answering benchmarks with the nano model: the same answers whatever batch and ranks are, none lost, none twice."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from croc_cli.benchmarks.predictions import answers_file, merge_shards, read_rows, shard_file
from croc_cli.benchmarks.registry import benchmarks
from croc_cli.recipe.load import dump_recipe, load_recipe
from croc_cli.run_dir import StageDir, read_jsonl, write_json
from croc_cli.worker.benchmarks import run_benchmarks
from tests.benchmarks.golden_files import draw_pictures, write_files
from tests.nano import assemble_nano

NAMES = ("pope", "scienceqa")


@pytest.fixture(scope="module")
def nano(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return assemble_nano(tmp_path_factory.mktemp("nano") / "model")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    for name in NAMES:
        write_files(name, root)
        draw_pictures(name, root)
    return root


@pytest.fixture(autouse=True)
def short_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NAMES:
        monkeypatch.setattr(type(benchmarks()[name]), "max_new_tokens", 6)


def stage(folder: Path, data: Path, nano: Path, *, batch_size: int = 8, names: tuple[str, ...] = NAMES) -> StageDir:
    stage_dir = StageDir(folder)
    stage_dir.predictions.mkdir(parents=True, exist_ok=True)
    stage_dir.recipe_file.write_text(dump_recipe(load_recipe("nano").recipe))
    task: dict[str, Any] = {"model": str(nano), "model_sha256": "abc", "data": str(data)}
    write_json(folder / "task.json", task | {"benchmarks": list(names), "batch_size": batch_size})
    return stage_dir


def answer(stage_dir: StageDir, data: Path, nano: Path, monkeypatch: pytest.MonkeyPatch, *, ranks: int = 1) -> Any:
    for rank in range(ranks):
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("WORLD_SIZE", str(ranks))
        run_benchmarks(stage_dir, start=nano)
    return {
        name: merge_shards(stage_dir.predictions, benchmarks()[name], benchmarks()[name].read(data)) for name in NAMES
    }


def test_answers_do_not_depend_on_batch_size_or_ranks(
    tmp_path: Path, data: Path, nano: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = answer(stage(tmp_path / "a", data, nano), data, nano, monkeypatch)
    assert len(whole["pope"]) == 26
    assert len(whole["scienceqa"]) == 23
    assert len({row["text"] for row in whole["scienceqa"]}) > 1
    for number, (batch_size, ranks) in enumerate([(1, 1), (5, 2), (64, 3)]):
        again = answer(
            stage(tmp_path / str(number), data, nano, batch_size=batch_size), data, nano, monkeypatch, ranks=ranks
        )
        assert again == whole, (batch_size, ranks)


def test_rows_are_llava_s(tmp_path: Path, data: Path, nano: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    row = answer(stage(tmp_path, data, nano), data, nano, monkeypatch)["pope"][0]
    assert list(row) == ["question_id", "prompt", "text", "answer_id", "model_id", "metadata"]
    assert row["question_id"] == 1
    assert row["prompt"].endswith("\nAnswer the question using a single word or phrase.")
    assert row["text"] == row["text"].strip()


def test_what_is_answered_is_not_asked_again(
    tmp_path: Path, data: Path, nano: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage_dir = stage(tmp_path, data, nano)
    first = answer(stage_dir, data, nano, monkeypatch)
    kept = [row | {"text": "kept"} for row in first["pope"][:20]]
    lines = "".join(json.dumps(row) + "\n" for row in kept)
    answers_file(stage_dir.predictions, "pope").write_text(lines)
    second = answer(stage_dir, data, nano, monkeypatch, ranks=2)
    assert [row["text"] for row in second["pope"][:20]] == ["kept"] * 20
    assert second["pope"][20:] == first["pope"][20:]


def test_a_rank_that_is_killed_loses_no_answer_and_repeats_none(
    tmp_path: Path, data: Path, nano: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage_dir = stage(tmp_path, data, nano, batch_size=1)
    command = [sys.executable, "-m", "croc_cli.worker", "--stage-dir", str(tmp_path), "--stage", "benchmarks"]
    process = subprocess.Popen([*command, "--start", str(nano)], env=os.environ | {"OMP_NUM_THREADS": "1"})
    shard = shard_file(stage_dir.predictions, "pope", 0)
    deadline = time.monotonic() + 120
    while len(read_rows(shard)) < 3 and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    saved = read_rows(shard)
    assert 3 <= len(saved) < 26
    with shard.open("a") as stream:
        stream.write('{"question_id": 9, "te')  # what a kill in the middle of a write leaves
    rows = answer(stage_dir, data, nano, monkeypatch)["pope"]
    assert [row["question_id"] for row in rows] == [record.question_id for record in benchmarks()["pope"].read(data)]
    by_id = {row["question_id"]: row for row in rows}
    assert all(by_id[row["question_id"]] == row for row in saved)


def test_a_picture_that_does_not_open_is_named_and_its_question_stays_open(
    tmp_path: Path, nano: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = write_files("pope", tmp_path / "data")
    draw_pictures("pope", data)
    write_files("scienceqa", data)
    draw_pictures("scienceqa", data)
    records = benchmarks()["pope"].read(data)
    assert records[0].picture is not None
    bad = records[0].picture.path
    assert bad is not None
    bad.write_bytes(b"no picture")
    hit = [record for record in records if record.picture is not None and record.picture.path == bad]
    stage_dir = stage(tmp_path / "run", data, nano)
    rows = answer(stage_dir, data, nano, monkeypatch)["pope"]
    assert len(rows) == len(records) - len(hit)
    told = [event["message"] for event in read_jsonl(stage_dir.events_file) if event["level"] == "warning"]
    assert len(told) == len(hit)
    assert bad.name in told[0]
