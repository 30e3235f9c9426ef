"""`croc eval` as users type it: what it lists, refuses, answers, scores, goes on with and compares."""

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from croc_cli.benchmarks.registry import EVERY
from croc_cli.launch.process import ProcessIdentity, started_at, this_process
from tests.benchmarks.golden_files import draw_pictures, load, write_files
from tests.commands.croc import croc, croc_process
from tests.tiny import make_tiny_llava

ALL = len(EVERY)


def test_list_names_all_benchmarks_and_the_scenes_and_what_is_here(tmp_path: Path) -> None:
    write_files("pope", tmp_path)
    answer = croc("eval", "list", "--data", str(tmp_path), "--format", "json")
    rows = json.loads(answer.out)
    assert len(rows) == ALL == 19
    assert (rows[-1]["name"], rows[-1]["files"]) == ("scenes", "drawn by croc")
    here = {row["name"]: row["files"] for row in rows}
    assert here["pope"] == "here"
    assert here["gqa"] == "croc data fetch eval:gqa"
    assert here["mmmu"] == "croc data fetch eval:mmmu"
    assert f"mmmu: {tmp_path / 'mmmu'} lacks *.parquet or MMMU_DEV_VAL.tsv" in answer.err


def test_list_says_what_is_missing_and_where_it_goes(tmp_path: Path) -> None:
    (tmp_path / "gqa").mkdir()
    write_files("pope", tmp_path)
    (tmp_path / "pope" / "coco" / "coco_pope_random.json").unlink()
    write_files("scienceqa", tmp_path)
    answer = croc("eval", "list", "--data", str(tmp_path), "--format", "json")
    files = {row["name"]: row["files"] for row in json.loads(answer.out)}
    assert files["gqa"] == "croc data fetch eval:gqa"  # an empty folder is not here
    assert files["pope"] == "croc data fetch eval:pope"
    assert files["scienceqa"] == "here"
    assert f"pope: {tmp_path / 'pope'} lacks coco/coco_pope_random.json, val2014/" in answer.err
    assert f"scienceqa: no pictures in {tmp_path / 'scienceqa' / 'images' / 'test'}" in answer.err


def test_two_evaluations_in_one_folder_are_refused(tmp_path: Path) -> None:
    model = tmp_path / "model"
    make_tiny_llava(model)
    data = tmp_path / "data"
    draw_pictures("pope", write_files("pope", data))
    folder = tmp_path / "run" / "benchmarks"
    folder.mkdir(parents=True)
    holder = {"process": parent_process_of_this().as_json(), "doing": "croc eval", "since": "today"}
    (folder / "lock.json").write_text(json.dumps(holder))
    answer = croc("eval", "--model", str(model), "--data", str(data), "--run-dir", str(folder.parent), "-b", "pope")
    assert answer.code == 2
    assert "is in use: croc eval runs there" in answer.err
    assert not (folder / "predictions").exists()


def parent_process_of_this() -> ProcessIdentity:
    return replace(this_process(), pid=os.getppid(), started=started_at(os.getppid()))


def test_help_shows_the_commands_and_starts_without_torch() -> None:
    answer = croc("eval", "--help")
    assert answer.code == 0
    for word in ("score", "list", "compare", "--help"):
        assert word in answer.out


@pytest.mark.parametrize(
    ("arguments", "message", "hint"),
    [
        (("--benchmark", "pop"), "unknown benchmark 'pop'", "did you mean pope?"),
        (("--benchmark", "pope", "--data", "nowhere"), "nowhere is not a folder", "--data ROOT"),
        (("--benchmark", "pope", "--format", "xml"), "--format xml", "text, md, json, csv"),
        (("--benchmark", "mmvet", "--judge-url", "http://x/v1"), "judge.model in the recipe", "api.openai.com"),
        (("--benchmark", "pope", "--variant", "pope"), "--variant pope: not NAME=VARIANT", "textvqa=no-ocr"),
        (("--benchmark", "pope", "--variant", "pope=pool"), "pope has no variant 'pool'", "did you mean pooled?"),
    ],
)
def test_what_is_wrong_is_said_before_anything_starts(
    arguments: tuple[str, ...], message: str, hint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    answer = croc("eval", "--model", "m", *arguments)
    assert answer.code == 2
    assert message in answer.err
    assert hint in answer.err
    assert not list(tmp_path.iterdir())


def test_score_works_from_saved_answers_without_a_model(tmp_path: Path) -> None:
    data = write_files("gqa", tmp_path / "data")
    predictions = tmp_path / "run" / "benchmarks" / "predictions"
    predictions.mkdir(parents=True)
    rows = load("gqa")["predictions"]
    file = predictions / "gqa.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    answer = croc("eval", "score", str(tmp_path / "run"), "--data", str(data), "--format", "csv")
    assert answer.code == 0
    assert 'GQA,exact match,"48.1 [' in answer.out
    results = json.loads((tmp_path / "run" / "benchmarks" / "results.json").read_text())
    entry = results["benchmarks"]["gqa"]
    assert entry["num_unparsable"] == 0
    assert len(entry["made_by"]["answers_sha256"]) == 64
    assert results["versions"]["croc"]
    compared = croc("eval", "compare", str(tmp_path / "run"), "--paper", "--format", "md")
    assert "| GQA | exact match | 48.1 [" in compared.out
    assert "Croc-7B (published)" in compared.out
    file.write_text("".join(json.dumps(row) + "\n" for row in rows[1:]))
    refused = croc("eval", "score", str(tmp_path / "run"), "--data", str(data))
    assert refused.code == 1
    assert "1 missing (201000000)" in refused.err
    partly = croc("eval", "score", str(tmp_path / "run"), "--data", str(data), "--partial")
    assert partly.code == 0
    assert "(26 of 27)" in partly.out


def test_two_ranks_answer_and_score_and_the_same_command_goes_on(tmp_path: Path) -> None:
    model = tmp_path / "model"
    make_tiny_llava(model)
    data = tmp_path / "data"
    for name in ("ai2d", "gqa"):
        draw_pictures(name, write_files(name, data))
    command = ("eval", "--model", str(model), "--data", str(data), "--run-dir", str(tmp_path / "run"), "-b", "ai2d,gqa")
    first = croc_process(*command, "--ranks", "2", OMP_NUM_THREADS="1")
    assert first.code == 0, first.err
    assert "2 ranks on the CPU" in first.err
    assert "AI2D" in first.out
    results = json.loads((tmp_path / "run" / "benchmarks" / "results.json").read_text())
    assert results["benchmarks"]["gqa"]["num_answered"] == 27
    assert len(results["model"]["model_sha256"]) == 64
    again = croc_process(*command)
    assert again.code == 0
    assert "27 of 27 questions are answered already" in again.err
    assert "on the CPU" not in again.err
    assert again.out == first.out


@pytest.mark.slow
@pytest.mark.timeout(1200)  # untrained, it writes its answers to the last of 1,024 tokens
def test_a_stock_checkpoint_is_evaluated_on_all_sixteen(tmp_path: Path) -> None:
    from croc_cli.benchmarks.registry import NAMES

    model = tmp_path / "model"
    make_tiny_llava(model)
    data = tmp_path / "data"
    for name in NAMES:
        draw_pictures(name, write_files(name, data))
    answer = croc_process("eval", "--model", str(model), "--data", str(data), "--run-dir", str(tmp_path / "run"))
    assert answer.code == 0, answer.err
    results = json.loads((tmp_path / "run" / "benchmarks" / "results.json").read_text())
    assert set(results["benchmarks"]) == set(NAMES) - {"llava_bench_wild", "mmvet"}
    for name in NAMES:
        assert (tmp_path / "run" / "benchmarks" / "predictions" / f"{name}.jsonl").exists()
