"""All stages of one recipe, one after another: what `croc run` and `croc demo` have in common."""

from dataclasses import replace
from pathlib import Path

from croc_cli.console import result, say, show_error
from croc_cli.errors import CrocError, UsageError
from croc_cli.launch.devices import Machine, inspect_machine
from croc_cli.launch.joined import is_joined
from croc_cli.launch.layout import Layout
from croc_cli.launch.model_sources import check_models
from croc_cli.launch.picture_sample import check_pictures
from croc_cli.launch.plan import LaunchPlan, plan_eval
from croc_cli.launch.requirements import check_data, check_machine
from croc_cli.launch.stage_state import find_start, predecessor, stage_state
from croc_cli.names import STAGES, StageName, stage_name
from croc_cli.pipeline.stage import (
    StageRequest,
    known_state,
    launch_stage,
    make_plan,
    prepare_stage,
    print_plan,
    run_folder,
)
from croc_cli.recipe.schema import Recipe
from croc_cli.run_dir import RunDir

PIPELINE = (*STAGES, "eval")


def steps_of(recipe: Recipe, *, until: str | None) -> list[str]:
    """Return what the pipeline of a recipe consists of, in order.

    Args:
        recipe: The recipe.
        until: The last one to take; None = all.

    Raises:
        UsageError: `until` is no stage, or one that the recipe leaves out.
    """
    steps: list[str] = [stage for stage in STAGES if recipe.stage(stage).enabled]
    if recipe.eval.benchmarks:
        steps.append("eval")
    if until is None:
        return steps
    if until not in PIPELINE:
        raise UsageError(f"--until {until}: there is no such stage", hint=f"one of {', '.join(PIPELINE)}")
    if until not in steps:
        raise UsageError(f"--until {until}: recipe {recipe.name} leaves it out", hint=f"it has {', '.join(steps)}")
    return steps[: steps.index(until) + 1]


def run_pipeline(recipe: Recipe, request: StageRequest, *, until: str | None, recipe_argument: str) -> RunDir:
    """Run what is not finished yet of a recipe's pipeline, and return the run folder.

    Args:
        recipe: The resolved recipe.
        request: Flags; its `start` is not used, as each stage starts from the one before.
        until: The last stage to run; None = all.
        recipe_argument: The recipe as it was typed, for hints.

    Raises:
        CrocError: The first thing that goes wrong; running it again goes on from there.
    """
    run_dir = run_folder(recipe, request.run_dir)
    steps = steps_of(recipe, until=until)
    if is_joined():
        raise UsageError(
            "croc run and croc demo start their ranks themselves; here RANK and WORLD_SIZE are set already",
            hint="under torchrun or srun start the stages one by one, such as `torchrun … -m croc_cli align`",
        )
    machine = inspect_machine()
    if request.dry_run:
        print_pipeline(recipe, steps, request, machine, recipe_argument=recipe_argument)
        return run_dir
    check_pipeline(recipe, steps, request, machine, recipe_argument=recipe_argument)
    for step in steps:
        if step == "eval":
            run_eval(recipe, run_dir, machine, request=request, recipe_argument=recipe_argument)
            continue
        stage = stage_name(step)
        plan = prepare_stage(recipe, stage, request, machine, recipe_argument=recipe_argument)
        if plan is None:
            say(f"{stage}: finished already in {run_dir.stage(stage).root}")
        else:
            launch_stage(recipe, plan, fresh=request.fresh, request=request)
    return run_dir


def check_pipeline(
    recipe: Recipe, steps: list[str], request: StageRequest, machine: Machine, *, recipe_argument: str
) -> None:
    """Check every stage before the first one starts, so that the last one does not fail after days."""
    run_dir = run_folder(recipe, request.run_dir)
    first = True
    for step in steps:
        if step == "eval":
            continue
        stage: StageName = stage_name(step)
        check_machine(recipe, stage, machine, command="run")
        make_plan(recipe, stage, request, machine, recipe_argument=recipe_argument, planning=True)
        state = "new" if request.fresh else known_state(recipe, run_dir.stage(stage), None, request)
        if state == "finished":
            first = False
            continue
        if first and not (run_dir.init / "config.json").is_file():
            check_models(recipe.model)
        first = False
        check_data(recipe, stage)
        check_pictures(recipe, stage)


def run_eval(recipe: Recipe, run_dir: RunDir, machine: Machine, *, request: StageRequest, recipe_argument: str) -> None:
    """Score the newest checkpoint of the last stage, unless its scores are there."""
    plan = eval_plan(recipe, run_dir, machine, worker=request.worker, recipe_argument=recipe_argument)
    fresh = request.fresh
    try:
        if not fresh and stage_state(recipe, plan.stage_dir, plan.start) == "finished":
            say(f"eval: finished already in {plan.stage_dir.root}")
            return
    except UsageError as error:
        say(f"eval: scored again, as {error.message}")
        fresh = True
    launch_stage(recipe, plan, fresh=fresh)


def eval_plan(
    recipe: Recipe, run_dir: RunDir, machine: Machine, *, worker: str, recipe_argument: str, planning: bool = False
) -> LaunchPlan:
    """Return the plan of the evaluation: one process with every core, on the first GPU where there is one."""
    try:
        start = find_start(recipe, run_dir, "eval", given=None, recipe_argument=recipe_argument)
    except UsageError:
        if not planning:
            raise
        start = Path(f"the-last-checkpoint-of-{predecessor(recipe, 'eval')}")
    if start is None:
        raise UsageError(f"recipe {recipe.name} enables no stage, so there is nothing to score")
    return plan_eval(run_dir.stage("eval"), start=start, layout=eval_layout(recipe, machine), worker=worker)


def eval_layout(recipe: Recipe, machine: Machine) -> Layout:
    """Return where an evaluation runs: one process with every core, on the first GPU where there is one."""
    on_gpu = bool(machine.cuda) and recipe.launch.device != "cpu"
    threads = recipe.launch.threads_per_rank or machine.num_cores
    return Layout("cuda" if on_gpu else "cpu", (1,), tuple(device.id for device in machine.cuda[:1]), threads)


def print_pipeline(
    recipe: Recipe, steps: list[str], request: StageRequest, machine: Machine, *, recipe_argument: str
) -> None:
    """Print the plan of every stage; touches nothing."""
    from croc_cli.launch.plan import describe_plan

    run_dir = run_folder(recipe, request.run_dir)
    for step in steps:
        if step != steps[0]:
            result("")
        if step == "eval":
            try:
                plan = eval_plan(
                    recipe, run_dir, machine, worker=request.worker, recipe_argument=recipe_argument, planning=True
                )
            except CrocError as error:
                show_error(error.message, error.hint, label="without --dry-run")
                continue
            result(describe_plan(plan))
            continue
        stage: StageName = stage_name(step)
        quiet = replace(request, start=None)
        print_plan(recipe, stage, quiet, machine, recipe_argument=recipe_argument, in_pipeline=step != steps[0])


def name_report(run_dir: RunDir) -> None:
    """Write the run's page and name it; a page that cannot be written does not make the run a failure."""
    from croc_cli.pipeline.figures import compute_model_figures
    from croc_cli.report.run_page import write_report

    compute_model_figures(run_dir)
    try:
        page = write_report([run_dir.root], tell=lambda text: say(f"look at: {text}"))
    except CrocError as error:
        show_error(error.message, error.hint, label="no report")
        return
    say(f"report: {page}")
