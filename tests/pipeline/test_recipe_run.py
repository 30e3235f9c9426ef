from pathlib import Path

import pytest

from croc_cli.errors import UsageError
from croc_cli.pipeline.recipe_run import steps_of
from croc_cli.run_dir import RunDir
from tests.commands.croc import croc
from tests.launch.make import recipe


def test_a_pipeline_is_what_the_recipe_enables_up_to_a_stage() -> None:
    assert steps_of(recipe(), until=None) == ["align", "reconstruct", "finetune", "eval"]
    assert steps_of(recipe(), until="reconstruct") == ["align", "reconstruct"]
    assert steps_of(recipe(reconstruct__enabled=False, eval__benchmarks=[]), until=None) == ["align", "finetune"]
    with pytest.raises(UsageError, match="--until tune: unknown stage"):
        steps_of(recipe(), until="tune")
    with pytest.raises(UsageError, match="does not run it"):
        steps_of(recipe(reconstruct__enabled=False), until="reconstruct")


def test_croc_run_goes_on_where_it_stopped_and_ends_with_a_report(fake_worker: Path) -> None:
    first = croc("run", "nano", "--run-dir", str(fake_worker), "--until", "align")
    assert first.code == 0, first.err
    assert not RunDir(fake_worker).stage("reconstruct").exists()
    second = croc("run", "nano", "--run-dir", str(fake_worker))
    assert second.code == 0, second.err
    assert "align: finished already" in second.err
    assert "finetune: checkpoint " in second.err
    assert second.out.splitlines()[0].startswith("stage")
    assert "colour         75.0 %" in second.out
    third = croc("run", "nano", "--run-dir", str(fake_worker))
    assert third.err.count("finished already") == 4


def test_what_the_last_stage_lacks_is_said_before_the_first_one_starts(fake_worker: Path) -> None:
    answer = croc(
        *("run", "nano", "--run-dir", str(fake_worker)),
        *("--set", "data.finetune.kind=llava_json", "--set", "data.finetune.path=gone.json"),
        *("--set", "data.finetune.image_folder=gone", "--set", "data.finetune.num_samples=10"),
    )
    assert answer.code == 2
    assert "data.finetune" in answer.err
    assert not fake_worker.exists()


def test_the_demo_ends_with_its_report_and_says_what_is_next(fake_worker: Path) -> None:
    answer = croc("demo", "--run-dir", str(fake_worker), "--seed", "5")
    assert answer.code == 0, answer.err
    assert "total" in answer.out
    assert "croc chat" in answer.err
    assert "seed: 5" in RunDir(fake_worker).stage("finetune").recipe_file.read_text()


def test_a_dry_run_of_a_pipeline_plans_every_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    answer = croc("run", "nano", "--dry-run")
    assert answer.code == 0, answer.err
    assert [line.split()[1] for line in answer.out.splitlines() if line.startswith("stage ")] == [
        *("align", "reconstruct", "finetune", "benchmarks")
    ]
    assert list(tmp_path.iterdir()) == []


def test_a_pipeline_inside_a_launch_of_others_is_refused(fake_worker: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    answer = croc("run", "nano", "--run-dir", str(fake_worker))
    assert answer.code == 2
    assert "RANK and WORLD_SIZE are set already" in answer.err
