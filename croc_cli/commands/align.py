"""`croc align`."""

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
from croc_cli.commands.stage_flags import StageFlags, run_stage
from croc_cli.names import DEFAULT_RECIPE

EPILOG = "Example: croc align nano --dry-run"


def align(
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
    """Train the projector on image-caption pairs (stage 1)."""
    flags = StageFlags(
        assignments, start, run_dir, ranks, steps, seed, dry_run, fresh, accept_changed_data, preflight, no_preflight
    )
    run_stage("align", recipe, flags)
