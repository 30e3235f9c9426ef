"""`croc finetune`."""

from croc_cli.commands.options import (
    AcceptChangedDataOption,
    DryRunOption,
    FreshOption,
    FromOption,
    NoPreflightOption,
    PreflightOption,
    RanksOption,
    RecipeArgument,
    RunDirOption,
    SeedOption,
    SetOption,
    StepsOption,
)
from croc_cli.names import DEFAULT_RECIPE

EPILOG = "Example: croc finetune nano --dry-run"


def finetune(
    recipe: RecipeArgument = DEFAULT_RECIPE,
    assignments: SetOption = None,
    start: FromOption = None,
    run_dir: RunDirOption = None,
    ranks: RanksOption = None,
    steps: StepsOption = None,
    seed: SeedOption = None,
    dry_run: DryRunOption = False,
    fresh: FreshOption = False,
    accept_changed_data: AcceptChangedDataOption = False,
    preflight: PreflightOption = False,
    no_preflight: NoPreflightOption = False,
) -> None:
    """Tune projector and LLM on instructions (stage 2)."""
    from croc_cli.pipeline.stage import StageRequest, stage_command
    from croc_cli.recipe.load import with_overrides

    flags = {
        "launch.num_ranks": (ranks, "--gpus"),
        "finetune.max_steps": (steps, "--steps"),
        "finetune.seed": (seed, "--seed"),
        "launch.preflight": ("never" if no_preflight else None, "--no-preflight"),
    }
    stage_command(
        "finetune",
        recipe,
        with_overrides(flags, assignments or ()),
        StageRequest(
            start=start,
            run_dir=run_dir,
            dry_run=dry_run,
            fresh=fresh,
            accept_changed_data=accept_changed_data,
            preflight_only=preflight,
            settings=tuple(assignments or ()),
        ),
    )
