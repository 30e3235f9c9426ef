"""`croc demo`."""

from croc_cli.commands.options import DryRunOption, FreshOption, RunDirOption, SeedOption

EPILOG = "Example: croc demo"
RECIPE = "nano"


def demo(
    seed: SeedOption = None,
    run_dir: RunDirOption = None,
    dry_run: DryRunOption = False,
    fresh: FreshOption = False,
) -> None:
    """Train, score and question a nano model, in minutes."""
    from croc_cli.console import result, say, with_warnings
    from croc_cli.names import STAGES
    from croc_cli.pipeline.recipe_run import name_report, run_pipeline
    from croc_cli.pipeline.stage import StageRequest
    from croc_cli.recipe.load import load_recipe, with_overrides
    from croc_cli.report.terminal import summarise

    flags: dict[str, tuple[object | None, str]] = {f"{stage}.seed": (seed, "--seed") for stage in STAGES}
    recipe = with_warnings(load_recipe(RECIPE, overrides=with_overrides(flags))).recipe
    request = StageRequest(run_dir=run_dir, dry_run=dry_run, fresh=fresh)
    folder = run_pipeline(recipe, request, until=None, recipe_argument=RECIPE)
    if dry_run:
        return
    result(summarise(folder.root))
    name_report(folder)
    picture = folder.evaluation().root / "example.png"
    question = f"`croc chat {picture}`" if picture.is_file() else "`croc chat`"
    say(f"\neverything is in {folder.root}; next: {question}, or `croc demo --fresh` for another run")
