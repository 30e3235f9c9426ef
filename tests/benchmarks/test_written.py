"""Files beside a results.json: croc replaces its own, and leaves what the user changed or put there."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from croc_cli.benchmarks.registry import benchmarks
from croc_cli.benchmarks.results import score_rows, write_results, write_submission
from croc_cli.errors import UsageError
from croc_cli.run_dir import StageDir
from tests.benchmarks.runs import pope_rows, write_pope, write_rows
from tests.commands.croc import croc


@pytest.fixture
def score(tmp_path: Path) -> tuple[str, ...]:
    """Return the command that scores answers from elsewhere into a folder, after it did so once."""
    data, answers = write_pope(tmp_path / "data"), write_rows(tmp_path / "said.jsonl", pope_rows())
    command = ("eval", "score", str(answers), "-b", "pope", "--data", str(data), "--out", str(tmp_path / "out"))
    assert croc(*command).code == 0
    return command


def test_a_file_that_the_user_changed_stays_and_is_named(score: tuple[str, ...], tmp_path: Path) -> None:
    items = tmp_path / "out" / "items" / "pope.jsonl"
    assert croc(*score).code == 0  # its own file is replaced
    items.write_text(items.read_text() + '{"note": "mine"}\n')
    before = items.read_bytes()
    answer = croc(*score)
    assert answer.code == 2
    assert f"{items} is a file that croc did not make" in answer.err
    assert items.read_bytes() == before


def test_a_folder_that_was_copied_can_be_scored_again(score: tuple[str, ...], tmp_path: Path) -> None:
    shutil.copytree(tmp_path / "out", tmp_path / "copy", copy_function=shutil.copyfile)  # other times of change
    (tmp_path / "copy" / "items" / ".croc.json").unlink()
    again = (*score[:-1], str(tmp_path / "copy"))
    assert croc(*again).code == 0
    (tmp_path / "copy" / "items" / "pope.jsonl").write_text("mine")
    assert croc(*again).code == 2


@pytest.mark.parametrize("earlier", [True, False])
def test_files_of_earlier_versions_are_replaced(score: tuple[str, ...], tmp_path: Path, earlier: bool) -> None:
    results = tmp_path / "out" / "results.json"
    content = json.loads(results.read_text())
    del content["files"]
    if not earlier:
        del content["benchmarks"]["pope"]["items"]
    results.write_text(json.dumps(content))
    (tmp_path / "out" / "items" / ".croc.json").unlink()
    assert croc(*score).code == (0 if earlier else 2)


@pytest.mark.parametrize("name", ["mmbench", "mmvet"])
def test_a_submission_is_not_written_through_a_link(name: str, tmp_path: Path) -> None:
    stage_dir, rows = StageDir(tmp_path / "run"), [{"index": 1, "answer": "A"}]
    written = write_submission(benchmarks()[name], rows, stage_dir)
    assert write_submission(benchmarks()[name], rows, stage_dir) == written
    written.unlink()
    (tmp_path / "mine").write_text("mine")
    written.symlink_to(tmp_path / "mine")
    with pytest.raises(UsageError, match="is a link that croc did not make"):
        write_submission(benchmarks()[name], rows, stage_dir)
    assert (tmp_path / "mine").read_text() == "mine"
    shutil.rmtree(written.parent)
    (tmp_path / "folder").mkdir()
    written.parent.symlink_to(tmp_path / "folder")
    with pytest.raises(UsageError, match="submissions is a link"):
        write_submission(benchmarks()[name], rows, stage_dir)


def test_what_is_the_users_is_seen_before_a_judge_is_asked(tmp_path: Path) -> None:
    pope = benchmarks()["pope"]
    records = pope.read(write_pope(tmp_path / "data"))
    (tmp_path / "run" / "items").mkdir(parents=True)
    (tmp_path / "run" / "items" / "pope.jsonl").write_text("mine")

    def judge(*_: Any) -> Any:
        raise AssertionError("the judge was asked")

    with pytest.raises(UsageError, match=r"pope\.jsonl is a file"):
        score_rows(pope, records, pope_rows(), StageDir(tmp_path / "run"), made_by={}, judge=judge)


def test_scores_of_another_checkpoint_stay(tmp_path: Path) -> None:
    stage_dir = StageDir(tmp_path)
    first, second = {"model": "a", "model_sha256": "1"}, {"model": "b", "model_sha256": "2"}
    write_results(stage_dir, {"scenes": {"value": 1}}, model=first)
    write_results(stage_dir, {"pope": {"value": 2}}, model=second)
    content = json.loads(write_results(stage_dir, {"gqa": {"value": 3}}, model=second).read_text())
    assert (content["model"], list(content["benchmarks"])) == (second, ["pope", "gqa"])
    assert content["other_models"] == [{"model": first, "benchmarks": {"scenes": {"value": 1}}}]
    content = json.loads(write_results(stage_dir, {"mme": {"value": 4}}, model=first).read_text())
    assert list(content["benchmarks"]) == ["scenes", "mme"]
    assert [one["model"] for one in content["other_models"]] == [second]
