from dataclasses import replace
from pathlib import Path

import pytest

from croc_cli.errors import RunError
from croc_cli.launch.layout import Layout
from croc_cli.launch.plan import LaunchPlan, plan_stage
from croc_cli.pipeline import preflight
from croc_cli.pipeline.preflight import (
    check_disk,
    check_same,
    is_due,
    planned_seconds,
    rehearsal_plan,
    rehearsal_recipe,
)
from croc_cli.recipe.parameters import parameter_counts
from croc_cli.recipe.schema import Recipe
from croc_cli.run_dir import RunDir, write_json
from tests.launch.make import recipe

ONE_CPU = Layout("cpu", (1,), ("0",), 1)
EIGHT_GPUS = Layout("cuda", (8,), tuple("01234567"), 1)


def plan_of(asked: Recipe, folder: Path, layout: Layout = ONE_CPU) -> LaunchPlan:
    counts = parameter_counts(asked, "finetune")
    stage_dir = RunDir(folder).stage("finetune")
    return plan_stage(asked, "finetune", stage_dir, start=None, layout=layout, master_port=1, counts=counts)


def test_a_run_of_minutes_is_not_rehearsed_and_a_long_one_is(tmp_path: Path) -> None:
    short, long = recipe(finetune__max_steps=5), recipe(finetune__max_steps=100_000)
    assert (planned_seconds(short, plan_of(short, tmp_path)) or 0) < 600
    assert not is_due(short, plan_of(short, tmp_path))
    assert is_due(long, plan_of(long, tmp_path))
    assert not is_due(recipe(finetune__max_steps=100_000, launch__preflight="never"), plan_of(long, tmp_path))
    assert is_due(recipe(finetune__max_steps=5, launch__preflight="always"), plan_of(short, tmp_path))


def test_a_model_of_unknown_sizes_is_rehearsed(tmp_path: Path) -> None:
    unknown = recipe(finetune__max_steps=5, model__llm="some/llm")
    assert planned_seconds(unknown, plan_of(unknown, tmp_path)) is None
    assert is_due(unknown, plan_of(unknown, tmp_path))


def test_a_stage_that_has_begun_or_that_passed_on_this_machine_is_not_rehearsed_again(tmp_path: Path) -> None:
    long = recipe(finetune__max_steps=100_000)
    plan = plan_of(long, tmp_path)
    write_json(tmp_path / "preflight.json", {"finetune": {"for": preflight._identity(long, plan)}})
    assert not is_due(long, plan)
    other = recipe(finetune__max_steps=100_000, finetune__max_length=100)
    assert is_due(other, plan_of(other, tmp_path))
    assert is_due(long, replace(plan, layout=Layout("cpu", (2,), ("0", "1"), 1)))
    checkpoint = RunDir(tmp_path / "begun").stage("finetune").checkpoint(3)
    checkpoint.mkdir(parents=True)
    (checkpoint / "croc.json").write_text("{}")
    begun = plan_of(long, tmp_path / "begun")
    assert begun.stage_dir.latest_checkpoint() is not None
    assert not is_due(long, begun)


def test_a_rehearsal_is_a_few_steps_of_one_micro_batch_a_rank_and_says_so_to_the_worker(tmp_path: Path) -> None:
    smaller = rehearsal_recipe(recipe(monitor=["tensorboard"]), "finetune", num_ranks=8)
    section = smaller.finetune
    assert section.batch.global_size == 8 * section.batch.micro_size
    assert (section.max_steps, section.optimizer.warmup_ratio) == (3, 0.0)
    assert not smaller.monitor
    assert smaller.launch.stall_timeout == 1800.0  # the stage's own: saving and answering take as long as there
    plan = rehearsal_plan(plan_of(smaller, tmp_path, EIGHT_GPUS))
    assert plan.command[-1] == "--preflight"
    assert plan.deepspeed is not None
    assert plan.deepspeed["gradient_accumulation_steps"] == 1


def test_a_disk_too_small_for_the_checkpoints_to_come_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight, "free_disk", lambda _: 5 * 10**9)
    check_disk(recipe(finetune__keep_checkpoints=2), "finetune", tmp_path, checkpoint_bytes=2 * 10**9)
    with pytest.raises(RunError, match="6 checkpoints of 2.00 GB take 12.00 GB, and 5.00 GB are"):
        check_disk(recipe(finetune__keep_checkpoints=5), "finetune", tmp_path, checkpoint_bytes=2 * 10**9)


def test_a_step_that_comes_to_another_loss_after_the_save_is_said() -> None:
    check_same([2.0, 1.5, 1.2], [2.0, 1.5000001, 1.2])
    for again in ([2.0, 1.5, 1.3], [2.0, 1.6, 1.2], [2.0]):
        with pytest.raises(RunError, match="resuming from a checkpoint changes the run"):
            check_same([2.0, 1.5, 1.2], again)
