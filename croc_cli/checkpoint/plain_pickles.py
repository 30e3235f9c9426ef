"""Keeps `torch.load` from running code: DeepSpeed opens its state with full pickle, which here it may not."""

import functools
import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from croc_cli.errors import UsageError


def _allowed() -> list[Any]:
    """Return the classes that DeepSpeed's own state holds beside tensors and plain values (0.19.8)."""
    from deepspeed.runtime.fp16.loss_scaler import DynamicLossScaler, LossScaler
    from deepspeed.runtime.zero.config import ZeroStageEnum
    from deepspeed.utils.tensor_fragment import fragment_address

    return [DynamicLossScaler, LossScaler, ZeroStageEnum, fragment_address]


@contextmanager
def only_plain_pickles() -> Iterator[None]:
    """Let every `torch.load` in this process read tensors, plain values and DeepSpeed's few classes, and nothing else.

    Raises:
        UsageError: A file holds something else; it is not executed.
    """
    original = torch.load
    torch.load = _weights_only(original)
    try:
        with torch.serialization.safe_globals(_allowed()):
            yield
    finally:
        torch.load = original


def _weights_only(load: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(load)
    def weights_only(file: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            return load(file, *args, **(kwargs | {"weights_only": True}))
        except pickle.UnpicklingError as error:
            name = file if isinstance(file, (str, Path)) else getattr(file, "name", "a file")
            raise UsageError(
                f"{name} is not opened: it holds more than tensors and plain values, which could run code",
                hint="the resume folder was damaged or changed by hand; resume from an earlier copy of the run folder",
            ) from error

    return weights_only
