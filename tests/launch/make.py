"""Recipes, machines and plans for the launch's tests."""

from pathlib import Path
from typing import Any

from croc_cli.launch.devices import CudaDevice, Machine
from croc_cli.launch.layout import Layout
from croc_cli.launch.plan import LaunchPlan, plan_stage
from croc_cli.names import StageName
from croc_cli.recipe.load import load_recipe
from croc_cli.recipe.schema import Recipe
from croc_cli.run_dir import StageDir

FAKE_WORKER = "tests.launch.fake_worker"
TWO_CORES = Machine(cuda=(), num_cores=2, memory_bytes=21 * 10**9)
ONE_RANK = Layout("cpu", (1,), ("0",), 1)


def gpus(*ids: str) -> Machine:
    return Machine(tuple(CudaDevice(name, "A100", 80 * 2**30) for name in ids), num_cores=64, memory_bytes=10**12)


def recipe(name: str = "nano", **changes: Any) -> Recipe:
    """Return a shipped recipe with changes; `__` in a name stands for a dot."""
    overrides = {key.replace("__", "."): (value, "a test") for key, value in changes.items()}
    return load_recipe(name, overrides=overrides, environ={}).recipe


def fake_plan(
    folder: Path, stage: StageName = "align", *, through_launcher: bool = False, layout: Layout = ONE_RANK
) -> LaunchPlan:
    return plan_stage(
        recipe(align__batch__global_size=64, align__batch__micro_size=32),
        stage,
        StageDir(folder / stage),
        start=None,
        layout=layout,
        master_port=29123,
        counts={},
        worker=FAKE_WORKER,
        through_launcher=through_launcher,
    )
