"""A model that `croc eval` is asked to score by its hub id: fetched once, before any rank starts."""

from functools import partial
from pathlib import Path

from croc_cli.progress import watched


def fetched(model: str) -> Path:
    """Return the local folder of a model, fetched from the hub with a bar if need be.

    Raises:
        UsageError: Nothing of that name is here or on the hub, or it is not a whole checkpoint.
    """
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    from croc_cli.checkpoint.locate import locate_checkpoint

    had_bars = not are_progress_bars_disabled()
    disable_progress_bars()
    try:
        return locate_checkpoint(model, fetching=partial(watched, f"fetching {model}"))
    finally:
        if had_bars:
            enable_progress_bars()
