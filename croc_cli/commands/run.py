"""`croc run`."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from croc_cli.commands.options import (
    AcceptChangedDataOption,
    DryRunOption,
    FreshOption,
    NoPreflightOption,
    RanksOption,
    RecipeArgument,
    RunDirOption,
    SeedOption,
    SetOption,
)
from croc_cli.names import DEFAULT_RECIPE, STAGES

if TYPE_CHECKING:
    from croc_cli.run_dir import RunDir

EPILOG = "Example: croc run nano --until align"


def run(
    recipe: RecipeArgument = DEFAULT_RECIPE,
    until: Annotated[str | None, typer.Option("--until", metavar="STAGE", help="Last stage to run")] = None,
    assignments: SetOption = None,
    run_dir: RunDirOption = None,
    ranks: RanksOption = None,
    seed: SeedOption = None,
    dry_run: DryRunOption = False,
    fresh: FreshOption = False,
    accept_changed_data: AcceptChangedDataOption = False,
    no_preflight: NoPreflightOption = False,
) -> None:
    """Run all stages of a recipe; resume where it stopped."""
    from croc_cli.console import result, say_next, say_notes
    from croc_cli.pipeline.recipe_run import name_report, run_pipeline
    from croc_cli.pipeline.stage import StageRequest
    from croc_cli.recipe.load import load_recipe, with_overrides
    from croc_cli.report.terminal import summarise

    flags: dict[str, tuple[object | None, str]] = {
        "launch.num_ranks": (ranks, "--gpus"),
        "launch.preflight": ("never" if no_preflight else None, "--no-preflight"),
    }
    flags |= {f"{stage}.seed": (seed, "--seed") for stage in STAGES}
    loaded = load_recipe(recipe, overrides=with_overrides(flags, assignments or ()))
    say_notes(loaded)
    request = StageRequest(run_dir=run_dir, dry_run=dry_run, fresh=fresh, accept_changed_data=accept_changed_data)
    folder = run_pipeline(loaded.recipe, request, until=until, recipe_argument=recipe)
    if not dry_run:
        result(summarise(folder.root))
        name_report(folder)
        if checkpoint := newest_checkpoint(folder):
            say_next(shlex.join(["croc", "chat", "--model", str(checkpoint)]))


def newest_checkpoint(run_dir: "RunDir") -> Path | None:
    """Return the checkpoint of the last stage that has one."""
    found = [run_dir.stage(stage).latest_checkpoint() for stage in STAGES]
    return next((checkpoint for checkpoint in reversed(found) if checkpoint is not None), None)
