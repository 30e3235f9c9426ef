"""What `croc align`, `croc reconstruct` and `croc finetune` have in common: check, plan, launch one stage."""

import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from croc_cli.console import result, say, say_next, say_notes, show_error
from croc_cli.errors import CrocError, UsageError
from croc_cli.estimate.resources import PLANNED_MEMORY, UTILISATION, Hardware, speed_cases
from croc_cli.estimate.settings import describe_settings
from croc_cli.estimate.settle import settled
from croc_cli.estimate.speed import measured_speeds
from croc_cli.files import own_path
from croc_cli.launch.devices import Machine, inspect_machine
from croc_cli.launch.job import find_free_port, run_job
from croc_cli.launch.joined import is_joined, join_launch
from croc_cli.launch.layout import joined_layout, resolve_layout
from croc_cli.launch.model_sources import check_models
from croc_cli.launch.picture_sample import check_pictures
from croc_cli.launch.plan import WORKER, LaunchPlan, describe_plan, plan_stage
from croc_cli.launch.prepare import is_assembled, prepare
from croc_cli.launch.requirements import check_data, check_machine, features_note, fits_cpu
from croc_cli.launch.run_lock import RunLock
from croc_cli.launch.stage_state import State, find_start, fingerprint, move_aside, stage_state
from croc_cli.names import STAGES, StageName, stage_name
from croc_cli.pipeline.during import check_on_the_way
from croc_cli.recipe.load import dump_recipe, load_recipe
from croc_cli.recipe.parameters import parameter_counts
from croc_cli.recipe.schema import Recipe
from croc_cli.run_dir import RunDir, StageDir


@dataclass(frozen=True)
class StageRequest:
    """What the flags of a stage command ask for, beside what they change in the recipe.

    Args:
        start: Checkpoint to start from instead of the stage before.
        trusts_start: The start was saved by an earlier stage of the same command; the ranks validate it anyway.
        run_dir: Run folder instead of the one named by the recipe.
        dry_run: Print the plan and change nothing.
        fresh: Rename an old stage folder and start over.
        accept_changed_data: Resume also where the data has changed since the stage started.
        worker: Python module that is one rank.
        through_launcher: Start ranks with DeepSpeed's launcher.
        preflight_only: Rehearse the stage and end.
        settings: What `--set` was given, for the command that follows.
    """

    start: Path | None = None
    trusts_start: bool = False
    run_dir: Path | None = None
    dry_run: bool = False
    fresh: bool = False
    accept_changed_data: bool = False
    worker: str = WORKER
    through_launcher: bool = True
    preflight_only: bool = False
    settings: tuple[str, ...] = ()


def run_folder(recipe: Recipe, run_dir: Path | None) -> RunDir:
    """Return the run folder: the given one, or the recipe's own."""
    return RunDir(own_path(recipe.runs_folder) / recipe.name if run_dir is None else run_dir)


def stage_command(
    stage: StageName, recipe_argument: str, overrides: Mapping[str, tuple[Any, str]], request: StageRequest
) -> None:
    """Run one stage command.

    Args:
        stage: The stage.
        recipe_argument: The recipe's name or file, as typed.
        overrides: Recipe key → value and the flag that gave it.
        request: The other flags.

    Raises:
        CrocError: With what the user can do about it.
    """
    loaded = load_recipe(recipe_argument, overrides=overrides)
    say_notes(loaded)
    recipe = loaded.recipe
    machine = inspect_machine()
    if request.dry_run:
        print_plan(recipe, stage, request, machine, recipe_argument=recipe_argument)
        return
    plan = prepare_stage(recipe, stage, request, machine, recipe_argument=recipe_argument)
    if plan is not None:
        recipe = settled(recipe, hardware_of(plan, machine))
    if plan is None:
        stage_dir = run_folder(recipe, request.run_dir).stage(stage)
        say(f"{stage} is finished already: {stage_dir.latest_checkpoint() or stage_dir.root} (--fresh starts over)")
        return
    if request.preflight_only:
        if is_joined():
            raise UsageError("--preflight starts its ranks itself; here RANK and WORLD_SIZE are set already")
        with RunLock(run_folder(recipe, request.run_dir), doing="preflight", say=say) as lock:
            prepare(recipe, plan, lock=lock)
            preflight(recipe, plan, request, lock=lock)
        return
    if is_joined():
        forget_data(plan, request)
        join_launch(plan, recipe_yaml=dump_recipe(recipe), fingerprint=fingerprint(recipe, stage), fresh=request.fresh)
    launch_stage(recipe, plan, fresh=request.fresh, request=request)
    say_next(next_command(recipe, stage, request, recipe_argument=recipe_argument))


def next_command(recipe: Recipe, stage: StageName, request: StageRequest, *, recipe_argument: str) -> str:
    """Return the command that follows a finished stage: the next stage as this one was started, or a question."""
    later = [name for name in STAGES[STAGES.index(stage) + 1 :] if recipe.stage(name).enabled]
    run_dir = run_folder(recipe, request.run_dir)
    if not later:
        return shlex.join(["croc", "chat", "--model", str(run_dir.stage(stage).latest_checkpoint())])
    words = ["croc", later[0], recipe_argument]
    words += [word for setting in request.settings for word in ("--set", setting)]
    return shlex.join(words if request.run_dir is None else [*words, "--run-dir", str(request.run_dir)])


def preflight(recipe: Recipe, plan: LaunchPlan, request: StageRequest, *, lock: RunLock) -> None:
    """Rehearse a stage, and say what was found.

    Raises:
        RunError: Something would have failed later.
    """
    from croc_cli.launch.live import open_progress
    from croc_cli.pipeline.preflight import rehearsal_plan, run_preflight

    stage, assembled = stage_name(plan.stage), RunDir(plan.stage_dir.root.parent).init

    def rehearse(smaller: Recipe, stage_dir: StageDir, port: int) -> LaunchPlan:
        made = plan_stage(
            smaller,
            stage,
            stage_dir,
            start=plan.start or (assembled if is_assembled(recipe, stage, assembled) else None),
            layout=plan.layout,
            master_port=port,
            counts=parameter_counts(smaller, stage),
            worker=request.worker,
            through_launcher=request.through_launcher,
        )
        return rehearsal_plan(made)

    say(f"preflight of {stage}: steps on its longest samples, a save, more in fresh processes, one answer")
    found = run_preflight(
        recipe, plan, rehearse=rehearse, lock=lock, progress=lambda: open_progress(f"preflight of {stage}")
    )
    peak = found.get("peak_memory_bytes") or 0
    say(
        f"preflight of {stage}: passed in {found['seconds']:.0f} s; longest sample {found['longest']}; peak memory"
        f" {peak / 1e9:.2f} GB a rank; a checkpoint takes {found['checkpoint_bytes'] / 1e9:.2f} GB"
    )


def launch_stage(recipe: Recipe, plan: LaunchPlan, *, fresh: bool, request: StageRequest | None = None) -> float:
    """Write a plan's files, launch it, show what it came to, and return the seconds that it took.

    Args:
        recipe: The recipe.
        plan: Of a training stage.
        fresh: Rename an old stage folder and start over.
        request: The flags, with which a training stage is rehearsed first where that is due; None for no rehearsal.
    """
    from croc_cli.pipeline.preflight import is_due
    from croc_cli.report.terminal import format_stage_end

    run_dir = RunDir(plan.stage_dir.root.parent)
    recipe = settled(recipe, hardware_of(plan, inspect_machine()))
    with RunLock(run_dir, doing=plan.stage, say=say) as lock:
        if fresh and (aside := move_aside(plan.stage_dir)) is not None:
            say(f"the old {plan.stage} is now {aside}")
        prepare(recipe, plan, lock=lock)
        if request is not None and is_due(recipe, plan):
            preflight(recipe, plan, request, lock=lock)
        forget_data(plan, request)
        say(f"{plan.stage}: {plan.layout.describe()}, in {plan.stage_dir.root}")
        seconds = run_job(plan, recipe_yaml=dump_recipe(recipe), fingerprint=fingerprint(recipe, plan.stage), lock=lock)
        say(format_stage_end(plan.stage_dir, seconds=seconds))
        return seconds


def forget_data(plan: LaunchPlan, request: StageRequest | None) -> None:
    """Take out what a stage's data was, where it may be another now; the worker writes what it is."""
    if request is not None and request.accept_changed_data:
        plan.stage_dir.data_file.unlink(missing_ok=True)


def prepare_stage(
    recipe: Recipe, stage: StageName, request: StageRequest, machine: Machine, *, recipe_argument: str
) -> LaunchPlan | None:
    """Check everything that can be checked without torch, and return the plan; None where the stage is finished.

    Raises:
        CrocError: What stands in the way; nothing was touched.
    """
    check_enabled(recipe, stage)
    check_machine(recipe, stage, machine, command=stage)
    plan = make_plan(recipe, stage, request, machine, recipe_argument=recipe_argument)
    check_given_start(request)
    if not request.fresh and known_state(recipe, plan.stage_dir, plan.start, request) == "finished":
        return None
    run_dir = run_folder(recipe, request.run_dir)
    if plan.start is None and not (run_dir.init / "config.json").is_file():
        check_models(recipe.model)
    check_data(recipe, stage)
    for note in (check_pictures(recipe, stage), features_note(recipe, stage), check_on_the_way(recipe)):
        if note:
            say(f"note: {note}")
    return plan


def check_given_start(request: StageRequest) -> None:
    """Raise UsageError unless what `--from` names is a whole checkpoint, by its configs and headers."""
    from croc_cli.checkpoint.locate import check_checkpoint

    if request.start is not None and not request.trusts_start:
        check_checkpoint(request.start)


def known_state(recipe: Recipe, stage_dir: StageDir, start: Path | None, request: StageRequest) -> State:
    """Return a stage's state, with what the flags accept.

    Raises:
        UsageError: What is in the folder does not fit the recipe.
    """
    return stage_state(recipe, stage_dir, start, accept_changed_data=request.accept_changed_data)


def make_plan(
    recipe: Recipe,
    stage: StageName,
    request: StageRequest,
    machine: Machine,
    *,
    recipe_argument: str,
    planning: bool = False,
) -> LaunchPlan:
    """Return the plan of a stage; with `planning`, also where start or devices are missing."""
    run_dir = run_folder(recipe, request.run_dir)
    counts = parameter_counts(recipe, stage)
    start: Path | None
    try:
        start = find_start(recipe, run_dir, stage, given=request.start, recipe_argument=recipe_argument)
    except UsageError:
        if not planning:
            raise
        start = request.start or Path("the-checkpoint-of-the-stage-before")
    return plan_stage(
        recipe,
        stage,
        run_dir.stage(stage),
        start=start,
        layout=joined_layout(recipe.launch, machine)
        or resolve_layout(recipe.launch, machine, fits_cpu=fits_cpu(counts), planning=planning),
        master_port=recipe.launch.master_port or find_free_port(),
        counts=counts,
        worker=request.worker,
        through_launcher=request.through_launcher,
    )


def print_plan(
    recipe: Recipe,
    stage: StageName,
    request: StageRequest,
    machine: Machine,
    *,
    recipe_argument: str,
    in_pipeline: bool = False,
) -> None:
    """Print what would be started, and on stderr what would stand in the way; touches nothing and asks no hub.

    Args:
        recipe: The recipe.
        stage: The stage.
        request: The flags.
        machine: This machine.
        recipe_argument: The recipe as it was typed.
        in_pipeline: Another stage of the same command runs before, so a missing start is no obstacle.
    """
    check_enabled(recipe, stage)
    plan = make_plan(recipe, stage, request, machine, recipe_argument=recipe_argument, planning=True)
    result(describe_plan(plan, settings=describe_settings(recipe, stage, planned_for(recipe, plan, machine))))
    if note := features_note(recipe, stage):
        result(f"\n{note}")
    run_dir = run_folder(recipe, request.run_dir)

    def check_start() -> None:
        start = find_start(recipe, run_dir, stage, given=request.start, recipe_argument=recipe_argument)
        check_given_start(request)
        if not request.fresh and known_state(recipe, plan.stage_dir, start, request) == "finished":
            say(f"{stage} is finished already in {plan.stage_dir.root} (--fresh starts over)")

    checks: list[Callable[[], None]] = [
        lambda: check_machine(recipe, stage, machine, command=stage),
        lambda: _check_data_and_pictures(recipe, stage),
    ]
    for check in checks if in_pipeline else [*checks, check_start]:
        try:
            check()
        except CrocError as error:
            show_error(error.message, error.hint, label="without --dry-run")


def planned_for(recipe: Recipe, plan: LaunchPlan, machine: Machine) -> Hardware:
    """Return what a plan's memory and time are estimated for; speeds that were measured before are used."""
    layout, on_gpu = plan.layout, plan.layout.device == "cuda"
    hardware = hardware_of(plan, machine)
    if layout.kind != "local" or (on_gpu and not machine.cuda):
        return hardware
    cases = speed_cases(settled(recipe, hardware), device=layout.device)
    kept = measured_speeds(cases, num_ranks=layout.num_ranks, threads=layout.threads_per_rank, only_kept=True)
    return replace(hardware, speeds=kept)


def hardware_of(plan: LaunchPlan, machine: Machine) -> Hardware:
    """Return what a plan's ranks run on; nothing is measured."""
    layout, on_gpu = plan.layout, plan.layout.device == "cuda"
    memory = machine.cuda[0].memory_bytes if machine.cuda else 0
    memory = memory or PLANNED_MEMORY if on_gpu else machine.memory_bytes // layout.ranks_per_node[0]
    return Hardware(layout.num_ranks, on_gpu, memory, layout.threads_per_rank, UTILISATION)


def _check_data_and_pictures(recipe: Recipe, stage: StageName) -> None:
    check_data(recipe, stage)
    for note in (check_pictures(recipe, stage), check_on_the_way(recipe)):
        if note:
            say(f"note: {note}")


def check_enabled(recipe: Recipe, stage: StageName) -> None:
    """Raise UsageError where the recipe leaves a stage out."""
    if not recipe.stage(stage).enabled:
        raise UsageError(
            f"recipe {recipe.name} does not run {stage}",
            hint=f"--set {stage}.enabled=true enables it, if the recipe has data for it",
        )
