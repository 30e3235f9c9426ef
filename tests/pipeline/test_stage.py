from pathlib import Path

import pytest

from croc_cli.run_dir import RunDir, read_json
from tests.commands.croc import croc


def test_a_dry_run_prints_the_plan_and_touches_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    answer = croc("reconstruct", "nano", "--dry-run", "--steps", "5")
    assert answer.code == 0
    assert "steps        5" in answer.out
    assert "croc_cli.worker" in answer.out
    assert '"train_batch_size": 16' in answer.out
    assert "reconstruct starts from the checkpoint of align" in answer.err
    assert list(tmp_path.iterdir()) == []


def test_the_papers_recipe_is_planned_on_any_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    answer = croc("reconstruct", "--pool-size", "1024", "--mask", "0.5", "--dry-run")
    assert answer.code == 0
    assert "8 ranks on CUDA" in answer.out
    assert "without --dry-run: recipe croc-7b needs CUDA GPUs" in answer.err
    assert list(tmp_path.iterdir()) == []


def test_a_stage_writes_its_folder_and_says_what_it_came_to(fake_worker: Path) -> None:
    answer = croc("align", "nano", "--run-dir", str(fake_worker), "--steps", "3", "--seed", "7")
    assert answer.code == 0, answer.err
    stage = RunDir(fake_worker).stage("align")
    assert "max_steps: 3" in stage.recipe_file.read_text()
    assert read_json(stage.launch_file)["start"] is None
    assert "align: 3 steps in " in answer.err
    assert f"align: checkpoint {stage.checkpoint(3)}" in answer.err
    assert answer.out == ""


def test_a_finished_stage_is_not_run_again_and_fresh_renames_it(fake_worker: Path) -> None:
    arguments = ("align", "nano", "--run-dir", str(fake_worker))
    assert croc(*arguments).code == 0
    again = croc(*arguments)
    assert again.code == 0
    assert "align is finished already" in again.err
    assert "align: " not in again.err
    changed = croc(*arguments, "--steps", "9")
    assert changed.code == 2
    assert "was made with other settings: align.max_steps" in changed.err
    fresh = croc(*arguments, "--steps", "9", "--fresh")
    assert fresh.code == 0, fresh.err
    assert "the old align is now " in fresh.err
    assert len([path for path in fake_worker.iterdir() if path.name.startswith("align")]) == 2


def test_a_stage_without_its_predecessor_says_which_command_makes_it(fake_worker: Path) -> None:
    answer = croc("reconstruct", "nano", "--run-dir", str(fake_worker))
    assert answer.code == 2
    assert "reconstruct starts from the checkpoint of align, which has not run" in answer.err
    assert "hint: `croc align nano` makes it; --from DIR" in answer.err
    assert not fake_worker.exists()


def test_a_start_given_by_hand_is_taken(fake_worker: Path, tmp_path: Path) -> None:
    start = tmp_path / "ckpt"
    start.mkdir()
    (start / "config.json").write_text('{"model_type": "llava"}')
    (start / "processor_config.json").write_text("{}")
    (start / "model.safetensors").write_bytes(b"")
    answer = croc("reconstruct", "nano", "--run-dir", str(fake_worker), "--from", str(start))
    assert answer.code == 2
    assert f"{start / 'model.safetensors'} is not a complete safetensors file: 0 bytes" in answer.err
    assert not fake_worker.exists()
    (start / "model.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")
    answer = croc("reconstruct", "nano", "--run-dir", str(fake_worker), "--from", str(tmp_path / "ckpt"))
    assert answer.code == 0, answer.err
    assert read_json(RunDir(fake_worker).stage("reconstruct").launch_file)["start"] == str(tmp_path / "ckpt")


def test_a_stage_that_the_recipe_leaves_out_is_refused(fake_worker: Path) -> None:
    answer = croc("reconstruct", "nano", "--set", "reconstruct.enabled=false", "--run-dir", str(fake_worker))
    assert answer.code == 2
    assert "recipe nano does not run reconstruct" in answer.err


def test_a_failing_run_exits_with_1(fake_worker: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_WORKER", "fail")
    answer = croc("align", "nano", "--run-dir", str(fake_worker))
    assert answer.code == 1
    assert "error: align failed on rank 0: ValueError: it broke" in answer.err
    assert "Traceback" not in answer.err
