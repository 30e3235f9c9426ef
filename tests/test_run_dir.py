from pathlib import Path

import pytest

from croc_cli.run_dir import RunDir, StageDir, damage_of, read_json, read_jsonl, step_of, write_json


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


def test_scores_lie_in_benchmarks_or_where_earlier_versions_kept_them(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    assert run.evaluation().root == run.step("eval").root == tmp_path / "benchmarks"
    assert not run.evaluation().is_scored()
    write_json(tmp_path / "eval" / "results.json", {"benchmarks": {"scenes": {}}})
    assert run.evaluation().root == tmp_path / "eval"
    write_json(tmp_path / "benchmarks" / "results.json", {"benchmarks": {"scenes": {}}})
    assert run.evaluation().root == tmp_path / "benchmarks"
    assert run.step("align").root == tmp_path / "align"


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


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b'{"a": 1', "a.json is damaged and left out: not JSON: Expecting ',' delimiter"),
        (b"7", "a.json is damaged and left out: no JSON object"),
        (b"[" * 100_000, "a.json is damaged and left out: nested too deeply"),
        ('{"a": "é"}'.encode("latin-1"), "a.json is damaged and left out: not UTF-8 text (byte 7)"),
    ],
    ids=range(4),
)
def test_a_damaged_file_is_empty_and_its_damage_is_told(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "a.json").write_bytes(content)
    assert read_json(tmp_path / "a.json") == {}
    assert damage_of(tmp_path / "a.json") == reason


def test_damaged_lines_are_left_out_and_told_with_their_number(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    file.write_bytes('{"step": 1, "says": "a\u2028b"}\n7\n{"step": 2}\n[[\n{"step": 3}\n{"st'.encode())
    assert [row["step"] for row in read_jsonl(file)] == [1, 2, 3]
    assert damage_of(file) == "metrics.jsonl, line 2: no JSON object, and 1 more lines; left out"
    assert damage_of(tmp_path / "missing.json") is None


def test_numbers_of_many_digits_are_floats(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"a": 1' + "0" * 400 + ', "b": 1' + "0" * 5000 + ', "c": 12}')
    assert read_json(tmp_path / "a.json") == {"a": float("inf"), "b": float("inf"), "c": 12}
