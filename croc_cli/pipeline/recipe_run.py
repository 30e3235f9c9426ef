"""All stages of one recipe, one after another: what `croc run` and `croc demo` have in common."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from croc_cli.console import result, say, show_error
from croc_cli.errors import CrocError, UsageError
from croc_cli.launch.devices import Machine, inspect_machine
from croc_cli.launch.joined import is_joined
from croc_cli.launch.model_sources import check_models
from croc_cli.launch.picture_sample import check_pictures
from croc_cli.launch.requirements import check_data, check_machine
from croc_cli.launch.stage_state import find_start, predecessor
from croc_cli.names import BENCHMARKS, STAGES, StageName, stage_name
from croc_cli.pipeline.benchmarks import (
    EvalRequest,
    data_root,
    evaluate,
    needs_files,
    plan_benchmarks,
    weights_identity,
)
from croc_cli.pipeline.during import check_on_the_way
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
from croc_cli.run_dir import RunDir, read_json

if TYPE_CHECKING:
    from croc_cli.benchmarks.base import Benchmark

PIPELINE = (*STAGES, "eval")


def steps_of(recipe: Recipe, *, until: str | None) -> list[str]:
    """Return what the pipeline of a recipe consists of, in order.

    Args:
        recipe: The recipe.
        until: The last one to take; None = all.

    Raises:
        UsageError: `until` is not a stage, or one that the recipe leaves out.
    """
    steps: list[str] = [stage for stage in STAGES if recipe.stage(stage).enabled]
    if recipe.eval.benchmarks:
        steps.append("eval")
    if until is None:
        return steps
    if until not in PIPELINE:
        raise UsageError(f"--until {until}: unknown stage", hint=f"one of {', '.join(PIPELINE)}")
    if until not in steps:
        raise UsageError(f"--until {until}: recipe {recipe.name} does not run it", hint=f"it has {', '.join(steps)}")
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
            start = find_start(recipe, run_dir, "eval", given=None, recipe_argument=recipe_argument)
            run_eval(recipe, run_dir, start, request=request)
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
    first, is_checked = True, False
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
        if not is_checked:
            check_on_the_way(recipe)
            is_checked = True
        if first and not (run_dir.init / "config.json").is_file():
            check_models(recipe.model)
        first = False
        check_data(recipe, stage)
        check_pictures(recipe, stage)


def run_eval(recipe: Recipe, run_dir: RunDir, start: Path | None, *, request: StageRequest) -> None:
    """Answer and score the recipe's benchmarks, as `croc eval` does, unless the scores are there.

    Args:
        recipe: The recipe.
        run_dir: Its run folder.
        start: The checkpoint that answers.
        request: Worker and launcher.

    Raises:
        CrocError: It failed; the answers made so far are kept.
    """
    from croc_cli.benchmarks.registry import choose

    if start is None:
        raise UsageError(f"recipe {recipe.name} enables no stage, so there is nothing to score")
    chosen = choose(",".join(recipe.eval.benchmarks), recipe.eval.variants, scenes=recipe.eval)
    asked = _eval_request(request, str(start), run_dir)
    if _is_scored(chosen, run_dir, asked):
        say(f"eval: finished already in {run_dir.evaluation().root}")
        return
    evaluate(recipe, chosen, asked, launch_settings=recipe.launch, recipe_argument=recipe.name, judge=None)


def _is_scored(chosen: "Sequence[Benchmark]", run_dir: RunDir, request: EvalRequest) -> bool:
    """Tell whether a run holds the scores of these benchmarks, of the same weights and to the same questions."""
    from croc_cli.benchmarks.predictions import questions_sha256

    folder = run_dir.stage(BENCHMARKS)
    if not folder.is_scored():
        return False
    entries = read_json(folder.results_file)["benchmarks"]
    identity = weights_identity(str(request.model))
    root = data_root(request.data, needed=needs_files(chosen))
    for benchmark in chosen:
        made_by = entries.get(benchmark.name, {}).get("made_by", {})
        lengths = made_by.get("max_new_tokens") == benchmark.max_new_tokens
        if made_by.get("model_sha256") != identity or not lengths:
            return False
        if made_by.get("questions_sha256_now") != questions_sha256(benchmark.read(root)):
            return False
    return True


def _eval_request(request: StageRequest, model: str, run_dir: RunDir) -> EvalRequest:
    launcher = request.through_launcher
    return EvalRequest(model, run_dir=run_dir.root, form=None, worker=request.worker, through_launcher=launcher)


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
            start = Path(f"the-last-checkpoint-of-{predecessor(recipe, 'eval')}")
            with suppress(UsageError):  # it is not there yet
                start = find_start(recipe, run_dir, "eval", given=None, recipe_argument=recipe_argument) or start
            asked = _eval_request(request, str(start), run_dir)
            result(describe_plan(plan_benchmarks(recipe, run_dir.stage(BENCHMARKS), start, asked, planning=True)))
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
