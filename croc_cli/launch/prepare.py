"""What a stage needs before its ranks start: operators compiled, models fetched from the hub, the model assembled.

It is a job of one process, with a bar for each piece of work. Ranks would wait for it in a collective.
"""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from croc_cli.errors import Interrupted
from croc_cli.launch.job import run_job
from croc_cli.launch.layout import Layout
from croc_cli.launch.live import open_progress
from croc_cli.launch.ops import missing_ops, needed_ops
from croc_cli.launch.plan import WORKER, LaunchPlan, launch_environment, worker_arguments, worker_command
from croc_cli.launch.run_lock import RunLock
from croc_cli.names import METADATA_FILE, STAGES, StageName, stage_name
from croc_cli.recipe.load import dump_recipe
from croc_cli.recipe.schema import Recipe
from croc_cli.run_dir import RunDir, read_json

PREPARE = "prepare"


def assembled_of(recipe: Recipe, stage: StageName) -> dict[str, Any]:
    """Return what decides the model that a stage assembles, as plain JSON values: parts, seed, precision, pictures."""
    section = recipe.stage(stage)
    facts = recipe.model.model_dump(mode="json") | {"seed": section.seed, "precision": section.precision}
    if recipe.model.image_resampling == "tower":
        del facts["image_resampling"]  # so that models which croc assembled before the key was there are still known
    if recipe.model.projector_initialisation == "captions":
        source = recipe.data.source(stage)
        facts["pictures"] = None if source is None else source.model_dump(mode="json")
    return dict(json.loads(json.dumps(facts)))


def is_assembled(recipe: Recipe, stage: StageName, folder: Path) -> bool:
    """Tell whether a folder holds the model that a stage starts from."""
    return bool(read_json(folder / METADATA_FILE).get("made_from") == assembled_of(recipe, stage))


def prepare(recipe: Recipe, plan: LaunchPlan, *, lock: RunLock | None) -> None:
    """Do what a stage's ranks need before they start, unless it is done.

    Raises:
        Interrupted: The user stopped it; nothing half-made is left.
        UsageError, RunError: A model cannot be had, or something failed.
    """
    if plan.stage not in STAGES or WORKER not in plan.command:
        return
    stage, run_dir = stage_name(plan.stage), RunDir(plan.stage_dir.root.parent)
    local = plan.layout.kind == "local"  # other machines may be of another kind, and compile for themselves
    ops = missing_ops(needed_ops(recipe, stage, device=plan.layout.device)) if local else ()
    assembles = plan.start is None and not is_assembled(recipe, stage, run_dir.init)
    if not ops and not assembles:
        return
    stage_dir = run_dir.stage(PREPARE)
    shutil.rmtree(stage_dir.root, ignore_errors=True)
    layout = Layout(plan.layout.device, (1,), (), plan.layout.threads_per_rank * plan.layout.ranks_per_node[0])
    job = replace(
        LaunchPlan(PREPARE, stage_dir, None, layout, (), launch_environment(layout, master_port=None)),
        command=worker_command(worker_arguments(stage_dir, PREPARE, None)),
        is_rehearsal=True,
    )
    task = {"stage": stage, "ops": list(ops), "init": str(run_dir.init) if assembles else None}
    try:
        run_job(job, recipe_yaml=dump_recipe(recipe), task=task, lock=lock, progress=open_progress(stage))
    except Interrupted as error:
        shutil.rmtree(stage_dir.root, ignore_errors=True)
        shutil.rmtree(growing_folder(run_dir.init), ignore_errors=True)
        raise Interrupted(
            f"{stage} was stopped before its first step; nothing was written",
            hint="the same command starts it again",
        ) from error
    shutil.rmtree(stage_dir.root, ignore_errors=True)


def growing_folder(folder: Path) -> Path:
    """Return where a folder is made before it gets its name."""
    return folder.with_name(f".{folder.name}.tmp")
