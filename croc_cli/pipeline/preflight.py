"""A rehearsal of a stage in its real worker, so that what would fail after ten hours fails in the first minute.

Two launches: three steps on the longest samples, the first one saved; then fresh processes that go on from there, take
the other two again and answer a question. All of it happens in a folder of its own inside the run folder, and goes.
"""

import shutil
import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from croc_cli.console import say
from croc_cli.errors import CrocError, Interrupted, RunError
from croc_cli.estimate.resources import UTILISATION, Hardware, recipe_resources, speed_cases
from croc_cli.estimate.speed import measured_speeds
from croc_cli.files import free_disk
from croc_cli.launch.job import find_free_port, run_job
from croc_cli.launch.live import Progress
from croc_cli.launch.plan import LaunchPlan
from croc_cli.launch.run_lock import RunLock
from croc_cli.launch.stage_state import fingerprint
from croc_cli.names import STAGES, StageName, stage_name
from croc_cli.place import claim_run, remove_made
from croc_cli.recipe.load import dump_recipe
from croc_cli.recipe.schema import DuringRecipe, Recipe
from croc_cli.run_dir import RunDir, StageDir, read_json, read_jsonl, write_json

FOLDER = "preflight"
NUM_STEPS = 3
LONG_SECONDS = 600.0
"""Planned seconds of a stage from which on it is rehearsed of itself."""
_UNSURE = 3.0
"""Factor by which a plan without a measurement may be wrong, in either direction."""
_SAME = 1e-3
"""Relative difference of losses up to which a step taken again is the same: GPU kernels add in any order."""


def is_due(recipe: Recipe, plan: LaunchPlan) -> bool:
    """Tell whether a stage is rehearsed first: as the recipe says, and where it has not begun or passed yet."""
    wanted = recipe.launch.preflight
    if wanted == "never" or plan.stage not in STAGES or plan.stage_dir.latest_checkpoint() is not None:
        return False
    seconds = planned_seconds(recipe, plan)
    if wanted == "auto" and seconds is not None and seconds <= LONG_SECONDS:
        return False
    return not has_passed(recipe, plan)


def planned_seconds(recipe: Recipe, plan: LaunchPlan) -> float | None:
    """Return how long a stage is planned to take; None where the sizes of its model are not known."""
    layout, stage = plan.layout, stage_name(plan.stage)
    hardware = Hardware(layout.num_ranks, layout.device == "cuda", 0, layout.threads_per_rank, UTILISATION)

    def planned(chosen: Hardware) -> float:
        return next(one.hours * 3600 for one in recipe_resources(recipe, chosen) if one.stage == stage)

    try:
        seconds = planned(hardware)
        if layout.kind != "local" or not LONG_SECONDS / _UNSURE < seconds < LONG_SECONDS * _UNSURE:
            return seconds
        # Near the limit a constant does not tell; this machine does.
        cases = {stage: speed_cases(recipe, device=layout.device)[stage]}
        speeds = measured_speeds(cases, num_ranks=layout.num_ranks, threads=layout.threads_per_rank, say=say)
        return planned(replace(hardware, speeds=speeds))
    except CrocError:
        return None


def has_passed(recipe: Recipe, plan: LaunchPlan) -> bool:
    """Tell whether this very stage was rehearsed on this machine, by as many ranks, and nothing was wrong."""
    noted = read_json(_report_file(plan)).get(plan.stage, {})
    return bool(noted) and noted.get("for") == _identity(recipe, plan)


def rehearsal_recipe(recipe: Recipe, stage: StageName, *, num_ranks: int) -> Recipe:
    """Return a recipe whose stage takes three steps of one micro-batch a rank, at full rates from the first on.

    With packing the worker takes as many of the longest samples as fill that micro-batch.

    Of the two after the save, the first one's loss shows the weights that were saved, the second one's the optimizer.
    """
    section = recipe.stage(stage)
    batch = section.batch
    if not batch.packing:
        batch = batch.model_copy(update={"global_size": batch.micro_size * num_ranks})
    optimizer = section.optimizer.model_copy(update={"warmup_ratio": 0.0})
    changes: dict[str, Any] = {"batch": batch, "max_steps": NUM_STEPS, "save_every": 1, "optimizer": optimizer}
    return recipe.model_copy(
        update={
            stage: section.model_copy(update=changes),
            "monitor": (),
            "eval": recipe.eval.model_copy(update={"during": DuringRecipe()}),
        }
    )


def run_preflight(
    recipe: Recipe,
    plan: LaunchPlan,
    *,
    rehearse: Callable[[Recipe, StageDir, int], LaunchPlan],
    lock: RunLock | None,
    progress: Callable[[], Progress],
) -> dict[str, Any]:
    """Rehearse a stage and return what was found: seconds, peak memory, the size of a checkpoint, the longest sample.

    Args:
        recipe: The recipe of the run.
        plan: The plan of the stage itself.
        rehearse: Makes the plan of a recipe's stage in another folder, over a given port.
        lock: The run folder's lock.
        progress: Makes what shows the steps.

    Raises:
        RunError: What would have failed later; the run folder is as it was, but for the rehearsal's logs.
    """
    stage = stage_name(plan.stage)
    folder = plan.stage_dir.root.parent / FOLDER
    if not any(folder.glob("*/launch.json")):
        remove_made(folder, "run")
    shutil.rmtree(folder, ignore_errors=True)
    claim_run(RunDir(folder))
    stage_dir = RunDir(folder).stage(stage)
    smaller = rehearsal_recipe(recipe, stage, num_ranks=plan.layout.num_ranks)
    seconds = 0.0
    try:
        seconds += _launch(smaller, rehearse(smaller, stage_dir, find_free_port()), lock=lock, progress=progress)
        size = _size(stage_dir.checkpoint(1))
        check_disk(recipe, stage, plan.stage_dir.root, checkpoint_bytes=size)
        first = _losses(stage_dir)
        stage_dir.summary_file.unlink()
        try:
            seconds += _launch(smaller, rehearse(smaller, stage_dir, find_free_port()), lock=lock, progress=progress)
        except Interrupted:
            raise
        except CrocError as error:
            raise RunError(f"cannot resume from the saved checkpoint: {error.message}", hint=error.hint) from error
        if not read_json(stage_dir.preflight_file).get("went_on"):
            raise RunError("cannot resume from the saved checkpoint: it was not found again")
        check_same(first, _losses(stage_dir))
    except Interrupted:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    except CrocError as error:
        shutil.rmtree(stage_dir.checkpoints, ignore_errors=True)
        raise RunError(_named(error.message, stage_dir), hint=error.hint) from error
    found = read_json(stage_dir.preflight_file)
    result = {
        "for": _identity(recipe, plan),
        "seconds": round(seconds, 1),
        "checkpoint_bytes": size,
        **{key: found.get(key) for key in ("longest", "peak_memory_bytes", "answer")},
    }
    write_json(_report_file(plan), {**read_json(_report_file(plan)), stage: result})
    shutil.rmtree(folder, ignore_errors=True)
    return result


def check_disk(recipe: Recipe, stage: StageName, folder: Path, *, checkpoint_bytes: int) -> None:
    """Raise RunError where the disk is too small for the checkpoints that a stage keeps, and the one being written."""
    count = recipe.stage(stage).keep_checkpoints + 1
    needed, free = count * checkpoint_bytes, free_disk(folder)
    if free + checkpoint_bytes < needed:  # the rehearsal's own will be gone
        raise RunError(
            f"the disk of {folder} is too small for {stage}: {count} checkpoints of {checkpoint_bytes / 1e9:.2f} GB"
            f" take {needed / 1e9:.2f} GB, and {free / 1e9:.2f} GB are free",
            hint=f"free some, keep fewer with {stage}.keep_checkpoints, or --run-dir DIR puts the run elsewhere",
        )


def check_same(first: list[float], again: list[float]) -> None:
    """Raise RunError where steps that were taken again from the first one's save came to other losses."""
    whole = len(first) == len(again) == NUM_STEPS
    if not whole or any(abs(a - b) > _SAME * max(abs(a), 1e-6) for a, b in zip(first, again, strict=True)):
        raise RunError(
            f"resuming from a checkpoint changes the run: the losses {first} became {again}",
            hint="the save is incomplete, or the step depends on something that is not saved",
        )


def _launch(recipe: Recipe, plan: LaunchPlan, *, lock: RunLock | None, progress: Callable[[], Progress]) -> float:
    return run_job(plan, recipe_yaml=dump_recipe(recipe), fingerprint=FOLDER, lock=lock, progress=progress())


def rehearsal_plan(plan: LaunchPlan) -> LaunchPlan:
    """Return the plan of a rehearsal's recipe as one whose worker is told that it is a rehearsal."""
    return replace(plan, command=(*plan.command, "--preflight"), is_rehearsal=True)


def _named(message: str, stage_dir: StageDir) -> str:
    """Add the longest sample to the message of a rank that was killed: memory most likely ran out on it."""
    longest = read_json(stage_dir.preflight_file).get("longest")
    return f"{message}; the longest sample has {longest}" if longest and "killed by signal" in message else message


def _losses(stage_dir: StageDir) -> list[float]:
    return [float(row["loss"]) for row in read_jsonl(stage_dir.metrics_file)]


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def _report_file(plan: LaunchPlan) -> Path:
    return RunDir(plan.stage_dir.root.parent).preflight_file


def _identity(recipe: Recipe, plan: LaunchPlan) -> dict[str, Any]:
    """Return what a rehearsal holds for: settings, start, machine and layout."""
    return {
        "fingerprint": fingerprint(recipe, plan.stage),
        "keep_checkpoints": recipe.stage(plan.stage).keep_checkpoints,
        "start": str(plan.start) if plan.start else None,
        "host": socket.gethostname(),
        "ranks": plan.layout.describe(),
    }
