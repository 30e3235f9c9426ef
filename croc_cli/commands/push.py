"""`croc push`."""

from pathlib import Path
from typing import Annotated

import typer

from croc_cli.commands import complete
from croc_cli.commands.options import DryRunOption

EPILOG = "Example: croc push runs/croc-7b/finetune/checkpoints/step-00005198 me/my-croc-7b --dry-run"


def push(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", autocompletion=complete.checkpoints, help="A checkpoint that croc saved")
    ],
    repository: Annotated[str, typer.Argument(metavar="REPO", help="owner/name on the hub; created if missing")],
    private: Annotated[bool, typer.Option("--private", help="Make a new repository private")] = False,
    licence: Annotated[
        str | None, typer.Option("--license", metavar="ID", help="Licence of the weights, such as apache-2.0")
    ] = None,
    dry_run: DryRunOption = False,
) -> None:
    """Upload a checkpoint with a model card made from its run: data, licences, recipe, results.

    HF_TOKEN and HF_ENDPOINT mean what they mean to huggingface_hub. With --dry-run the card is printed.
    """
    from croc_cli.checkpoint.publish import push as upload
    from croc_cli.console import result, say

    result(upload(folder, repository, private=private, licence=licence, dry_run=dry_run, say=say))
