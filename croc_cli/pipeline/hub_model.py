"""A model that `croc eval` is asked to score by its hub id: fetched once, before any rank starts."""

from functools import partial
from pathlib import Path

from croc_cli.files import own_path
from croc_cli.progress import watched


def fetched(model: str) -> Path:
    """Return the local folder of a model: as it is where it is one, else fetched from the hub with a bar.

    Raises:
        UsageError: Nothing of that name is here or on the hub, or it is not a whole checkpoint.
    """
    if (folder := own_path(model)).is_dir():
        return folder
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    from croc_cli.checkpoint.locate import locate_checkpoint

    had_bars = not are_progress_bars_disabled()
    disable_progress_bars()
    try:
        return locate_checkpoint(model, fetching=partial(watched, f"fetching {model}"))
    finally:
        if had_bars:
            enable_progress_bars()
