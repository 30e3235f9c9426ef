"""Weights are numbers: no NaN, nothing infinite, no matrix of nothing but zeros."""

from pathlib import Path

import torch
from torch import Tensor

from croc_cli.errors import UsageError
from croc_cli.names import HEAD_PREFIX, POOL_PREFIX
from croc_cli.words import counted

_HINT = "the run that saved it had diverged, or the file is damaged; use another checkpoint"
_MAY_BE_ZERO = ("lora_B", "mask_token", "transform_block", "cross_attention", "bias")
"""Parts of names that begin training at zero, or that the released code never trains; as pool and head may be."""


def check_values(name: str, tensor: Tensor, where: Path | str, *, hint: str = _HINT) -> None:
    """Raise UsageError where a weight is not what training leaves behind.

    Args:
        name: Its name.
        tensor: The weight; integers and empty ones are not looked at, nor what lies on no device.
        where: File or folder that holds it.
        hint: The next step.
    """
    if not tensor.is_floating_point() or tensor.numel() == 0 or tensor.element_size() == 1 or tensor.is_meta:
        return
    smallest, largest = (float(value) for value in torch.aminmax(tensor))
    if not (smallest > -torch.inf and largest < torch.inf):
        wrong = int((~torch.isfinite(tensor)).sum())
        raise UsageError(
            f"{where}: {name} holds {counted(wrong, 'value that is', 'values that are')} NaN or infinite", hint=hint
        )
    may_be_zero = name.startswith((POOL_PREFIX, HEAD_PREFIX)) or any(part in name for part in _MAY_BE_ZERO)
    if smallest == largest == 0 and tensor.ndim > 1 and not may_be_zero:
        raise UsageError(f"{where}: {name} holds nothing but zeros", hint=hint)
