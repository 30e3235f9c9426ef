from pathlib import Path

from croc_cli.run_dir import RunDir, StageDir, read_json, read_jsonl, step_of, write_json


def test_the_latest_checkpoint_is_that_of_the_highest_step_and_never_an_unfinished_one(tmp_path: Path) -> None:
    stage = RunDir(tmp_path).stage("align")
    assert stage.latest_checkpoint() is None
    for name in ("step-00000009", "step-00000120", ".step-00000200", "step-00000300.tmp", "notes"):
        (stage.checkpoints / name).mkdir(parents=True)
    (stage.checkpoints / "step-00000999").write_text("a file, not a folder")
    assert stage.latest_checkpoint() == stage.checkpoint(120)
    assert [step_of(path) for path in stage.complete_checkpoints()] == [9, 120]


def test_a_stage_is_finished_only_when_its_summary_says_so(tmp_path: Path) -> None:
    stage = StageDir(tmp_path / "align")
    assert not stage.finished()
    write_json(stage.summary_file, {"finished": False})
    assert not stage.finished()
    write_json(stage.summary_file, {"finished": True})
    assert stage.finished()


def test_an_evaluation_is_finished_when_it_has_scores(tmp_path: Path) -> None:
    stage = StageDir(tmp_path / "eval")
    assert not stage.finished()
    write_json(stage.results_file, {"benchmarks": {}})
    assert stage.finished()


def test_half_written_files_are_read_as_far_as_they_are_whole(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"a": 1')
    (tmp_path / "a.jsonl").write_text('{"a": 1}\n[1]\n{"a": 2}\n{"a"')
    assert read_json(tmp_path / "a.json") == {}
    assert list(read_jsonl(tmp_path / "a.jsonl")) == [{"a": 1}, {"a": 2}]
    assert list(read_jsonl(tmp_path / "missing.jsonl")) == []


def test_writing_json_leaves_nothing_beside_the_file(tmp_path: Path) -> None:
    write_json(tmp_path / "new" / "a.json", {"α": 10})
    assert read_json(tmp_path / "new" / "a.json") == {"α": 10}
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.json"]
