"""`croc ablate`."""

from pathlib import Path
from typing import Annotated

import typer

from croc_cli.commands import complete
from croc_cli.commands.options import DryRunOption, SetOption

EPILOG = "Example: croc ablate matching --seeds 2 --dry-run"


def ablate(
    table: Annotated[
        str,
        typer.Argument(
            metavar="TABLE",
            help="pool-size, mask-ratio, matching, attention, captions, alignment, objectives, or all",
        ),
    ],
    base: Annotated[
        str,
        typer.Option("--base", metavar="RECIPE", autocompletion=complete.recipes, help="Recipe that the rows change"),
    ] = "nano",
    seeds: Annotated[
        int, typer.Option("--seeds", min=1, max=1000, metavar="N", help="Seeds of each row: 0 to N - 1")
    ] = 3,
    assignments: SetOption = None,
    run_dir: Annotated[
        Path | None, typer.Option("--run-dir", metavar="DIR", help="Default: runs/ablations/ and the base's name")
    ] = None,
    reuse: Annotated[
        list[Path] | None,
        typer.Option(
            "--reuse",
            metavar="RUN_DIR",
            autocompletion=complete.runs,
            help="Take finished stages of this run where they fit. Repeatable",
        ),
    ] = None,
    dry_run: DryRunOption = False,
) -> None:
    """Run the paper's ablations (Tables 4a to 4f and 5), and say which of its claims hold here."""
    from croc_cli.ablation.tables import choose_tables
    from croc_cli.pipeline.ablation import AblateRequest
    from croc_cli.pipeline.ablation import ablate as run_ablation
    from croc_cli.pipeline.stage import StageRequest

    request = AblateRequest(base, seeds, tuple(assignments or ()), run_dir, tuple(reuse or ()), dry_run)
    run_ablation(choose_tables(table), request, stage_request=StageRequest())
