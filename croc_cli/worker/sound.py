"""A stage begins with sound checkpoints: rank 0 looks through what is loaded next, and every rank hears of it."""

from pathlib import Path

import torch.distributed as dist

from croc_cli.checkpoint.validate import validate_checkpoint
from croc_cli.errors import UsageError
from croc_cli.train.collectives import gather_from_ranks


def check_sound(*folders: Path | None) -> None:
    """Check checkpoints before any rank loads them; see `validate_checkpoint`.

    Raises:
        UsageError: On every rank, naming the file that is damaged.
    """
    failure: tuple[str, str | None] | None = None
    if dist.get_rank() == 0:
        try:
            for folder in dict.fromkeys(folder for folder in folders if folder is not None):
                validate_checkpoint(folder)
        except UsageError as error:
            failure = (error.message, error.hint)
    if found := next((one for one in gather_from_ranks(failure) if one), None):
        raise UsageError(found[0], hint=found[1])
