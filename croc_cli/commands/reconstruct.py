"""`croc reconstruct`."""

from croc_cli.commands.options import (
    AcceptChangedDataOption,
    DryRunOption,
    FreshOption,
    FromOption,
    MaskOption,
    MatchingOption,
    NoPreflightOption,
    PoolSizeOption,
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

EPILOG = "Example: croc reconstruct --pool-size 2048 --mask 0.75 --dry-run"


def reconstruct(
    recipe: RecipeArgument = DEFAULT_RECIPE,
    pool_size: PoolSizeOption = None,
    mask: MaskOption = None,
    matching: MatchingOption = None,
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
    """Pretrain by masked visual token reconstruction (stage 1.5)."""
    flags = StageFlags(
        assignments, start, run_dir, ranks, steps, seed, dry_run, fresh, accept_changed_data, preflight, no_preflight
    )
    run_stage(
        "reconstruct",
        recipe,
        flags,
        pool__size=(pool_size, "--pool-size"),
        mask__ratio=(mask, "--mask"),
        matching=(matching, "--matching"),
    )
