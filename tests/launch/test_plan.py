import base64
import json
import sys
from pathlib import Path

import pytest

from croc_cli.launch.layout import Layout
from croc_cli.launch.plan import (
    LaunchPlan,
    count_rows,
    count_samples,
    count_steps,
    describe_plan,
    plan_stage,
)
from croc_cli.recipe.schema import Recipe
from croc_cli.run_dir import StageDir
from tests.launch.make import recipe

EIGHT = Layout("cuda", (8,), tuple("01234567"), 4)


def plan_7b(layout: Layout = EIGHT, changed: Recipe | None = None) -> LaunchPlan:
    return plan_stage(
        changed or recipe("croc-7b"),
        "reconstruct",
        StageDir(Path("runs/croc-7b/reconstruct")),
        start=Path("runs/croc-7b/align/checkpoints/step-00002181"),
        layout=layout,
        master_port=29500,
        counts={"vision_tower": 300, "projector": 20, "llm": 7000, "token_pool": 8},
    )


def test_one_node_goes_through_deepspeeds_launcher_with_the_chosen_devices() -> None:
    layout = Layout("cuda", (2,), ("2", "5"), 4)
    command = plan_7b(layout).command
    assert command[:4] == (sys.executable, "-u", "-m", "deepspeed.launcher.launch")
    world = command[4].removeprefix("--world_info=")
    assert json.loads(base64.urlsafe_b64decode(world)) == {"localhost": [2, 5]}
    assert command[-8:] == (
        *("--module", "croc_cli.worker"),
        *("--stage-dir", "runs/croc-7b/reconstruct"),
        *("--stage", "reconstruct"),
        *("--start", "runs/croc-7b/align/checkpoints/step-00002181"),
    )


def test_many_nodes_go_through_the_runner_with_a_hostfile() -> None:
    changed = recipe("croc-7b", launch__hostfile="hosts", launch__num_ranks=8)
    command = plan_7b(Layout("cuda", (8, 8), (), 4, "hostfile"), changed).command
    assert command[1:5] == ("-m", "deepspeed.launcher.runner", "--hostfile=hosts", "--num_gpus=8")
    assert "--master_port=29500" in command


def test_a_slurm_job_is_started_with_srun() -> None:
    slurm = {"num_nodes": 2, "partition": "gpu", "time_limit": "1-00:00:00", "extra_args": ["--qos=high"]}
    changed = recipe("croc-7b", launch__slurm=slurm, launch__num_ranks=8, align__batch__micro_size=16)
    plan = plan_7b(Layout("cuda", (8, 8), (), 4, "slurm"), changed)
    assert plan.command[:13] == (
        "srun",
        "--nodes=2",
        "--ntasks=16",
        "--ntasks-per-node=8",
        "--export=ALL",
        "--kill-on-bad-exit=1",
        "--gpus-per-node=8",
        "--partition=gpu",
        "--time=1-00:00:00",
        "--output=runs/croc-7b/reconstruct/logs/slurm_rank%t.log",
        "--qos=high",
        sys.executable,
        "-u",
    )
    assert plan.environment["MASTER_PORT"] == "29500"


def test_threads_on_a_cpu_spin_for_a_moment_only_unless_told_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
    on_cpu = Layout("cpu", (1,), ("0",), 2)
    assert plan_7b(on_cpu).environment["GOMP_SPINCOUNT"] == "5000"
    assert "GOMP_SPINCOUNT" not in plan_7b(EIGHT).environment
    monkeypatch.setenv("GOMP_SPINCOUNT", "7")
    assert plan_7b(on_cpu).environment["GOMP_SPINCOUNT"] == "7"


def test_the_figures_of_a_dry_run_are_in_its_text() -> None:
    text = describe_plan(plan_7b())
    assert "batch        128 samples a step = 4 × 8 ranks × 4 micro-batches" in text
    assert "tokens       524,288 a step at most" in text
    assert "trained      7,028 = projector 20 + llm 7,000 + token_pool 8" in text
    assert "frozen       300 = vision_tower 300" in text
    assert '"stage": 3' in text
    assert "OMP_NUM_THREADS=4" in text


def test_steps_follow_from_samples_unless_the_recipe_sets_them() -> None:
    section = recipe("croc-7b").reconstruct
    assert count_steps(section, 1_547_000) == 12_086
    assert count_steps(section, None) is None
    assert count_steps(recipe(align__max_steps=7).align, 10) == 7


def test_rows_of_a_llava_file_are_counted_without_reading_it_as_json(tmp_path: Path) -> None:
    rows = [{"id": n, "conversations": [{"from": "gpt", "value": 'he said "conversations": none'}]} for n in range(5)]
    (tmp_path / "a.json").write_text(json.dumps(rows))
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert count_rows(tmp_path / "a.json") == count_rows(tmp_path / "a.jsonl") == 5
    assert count_rows(tmp_path / "missing.json") is None
    source = {"kind": "llava_json", "path": str(tmp_path / "a.json"), "image_folder": ".", "num_samples": 3}
    assert count_samples(recipe(data__align=source), "align") == 3


def test_rows_are_counted_right_across_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("croc_cli.launch.plan._READ_BYTES", 37)
    (tmp_path / "a.json").write_text(json.dumps([{"conversations": [], "id": "x" * n} for n in range(60)]))
    assert count_rows(tmp_path / "a.json") == 60
