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
    from croc_cli.pipeline.stage import StageRequest, stage_command
    from croc_cli.recipe.load import with_overrides

    flags = {
        "reconstruct.pool.size": (pool_size, "--pool-size"),
        "reconstruct.mask.ratio": (mask, "--mask"),
        "reconstruct.matching": (matching, "--matching"),
        "launch.num_ranks": (ranks, "--gpus"),
        "reconstruct.max_steps": (steps, "--steps"),
        "reconstruct.seed": (seed, "--seed"),
        "launch.preflight": ("never" if no_preflight else None, "--no-preflight"),
    }
    request = StageRequest(
        start=start,
        run_dir=run_dir,
        dry_run=dry_run,
        fresh=fresh,
        accept_changed_data=accept_changed_data,
        preflight_only=preflight,
        settings=tuple(assignments or ()),
    )
    stage_command("reconstruct", recipe, with_overrides(flags, assignments or ()), request)
