"""From the flags of `croc align`, `reconstruct` and `finetune` to a run of the stage."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from croc_cli.names import StageName


@dataclass(frozen=True)
class StageFlags:
    """The flags that every stage command has, as typed; `croc_cli.commands.options` describes each."""

    assignments: list[str] | None
    start: Path | None
    run_dir: Path | None
    ranks: int | None
    steps: int | None
    seed: int | None
    dry_run: bool
    fresh: bool
    accept_changed_data: bool
    preflight: bool
    no_preflight: bool


def run_stage(stage: "StageName", recipe: str, flags: StageFlags, **own: tuple[object | None, str]) -> None:
    """Run a stage with the flags of its command.

    Args:
        stage: The stage.
        recipe: The recipe's name or file, as typed.
        flags: What every stage command takes.
        own: The stage's own flags: key below the stage, with `__` for a dot → (value, flag).
    """
    from croc_cli.pipeline.stage import StageRequest, stage_command
    from croc_cli.recipe.load import with_overrides

    keys: dict[str, tuple[object | None, str]] = {
        f"{stage}.{key.replace('__', '.')}": value for key, value in own.items()
    }
    keys |= {
        "launch.num_ranks": (flags.ranks, "--gpus"),
        f"{stage}.max_steps": (flags.steps, "--steps"),
        f"{stage}.seed": (flags.seed, "--seed"),
        "launch.preflight": ("never" if flags.no_preflight else None, "--no-preflight"),
    }
    assignments = flags.assignments or ()
    request = StageRequest(
        start=flags.start,
        run_dir=flags.run_dir,
        dry_run=flags.dry_run,
        fresh=flags.fresh,
        accept_changed_data=flags.accept_changed_data,
        preflight_only=flags.preflight,
        settings=tuple(assignments),
    )
    stage_command(stage, recipe, with_overrides(keys, assignments), request)
