"""The flags that several commands share, each described once."""

from pathlib import Path
from typing import Annotated

import typer

from croc_cli.commands import complete

MOST = 10**9
MOST_SEED = 2**63 - 1
MOST_PROCESSES = 4096
"""The bounds of the recipe's schema, which commands do not import for a help page."""

RecipeArgument = Annotated[
    str, typer.Argument(metavar="RECIPE", autocompletion=complete.recipes, help="A recipe's name, or a YAML file")
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change one key of the recipe, such as align.batch.micro_size=8"),
]
FromOption = Annotated[
    Path | None,
    typer.Option(
        "--from",
        metavar="DIR",
        autocompletion=complete.checkpoints,
        help="Checkpoint to start from, instead of the stage before",
    ),
]
RunDirOption = Annotated[
    Path | None,
    typer.Option(
        "--run-dir",
        metavar="DIR",
        autocompletion=complete.runs,
        help="Run folder; default: runs/ and the recipe's name",
    ),
]
RanksOption = Annotated[
    int | None,
    typer.Option(
        "--gpus", "--ranks", min=1, max=MOST_PROCESSES, metavar="N", help="Ranks per node: GPUs, or CPU processes"
    ),
]
StepsOption = Annotated[
    int | None, typer.Option("--steps", min=1, max=MOST, metavar="N", help="Stop after N optimizer steps")
]
SeedOption = Annotated[
    int | None, typer.Option("--seed", min=0, max=MOST_SEED, metavar="N", help="Seed of data order and masks")
]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Print what would be started; change nothing")]
FreshOption = Annotated[bool, typer.Option("--fresh", help="Start over; the old stage folder is renamed, not deleted")]
AcceptChangedDataOption = Annotated[
    bool,
    typer.Option(
        "--accept-changed-data", help="Resume although the data changed; the remaining steps use the new data"
    ),
]
PreflightOption = Annotated[
    bool, typer.Option("--preflight", help="Only rehearse the stage on its longest samples: save, resume, answer")
]
NoPreflightOption = Annotated[
    bool, typer.Option("--no-preflight", help="Skip the rehearsal of runs longer than ten minutes")
]
PoolSizeOption = Annotated[
    int | None, typer.Option("--pool-size", min=1, max=MOST, metavar="N", help="Tokens in the token pool")
]
MaskOption = Annotated[
    str | None, typer.Option("--mask", metavar="RATIO", help="Share of visual tokens taken from the pool, 0 to 1")
]
MatchingOption = Annotated[
    str | None, typer.Option("--matching", metavar="METHOD", help="How tokens are assigned: hungarian or nearest")
]
