"""Weights are numbers: no NaN, nothing infinite, no matrix of nothing but zeros. One pass over memory."""

import sys
from collections.abc import Iterable
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from croc_cli.checkpoint.known_files import recall, remember
from croc_cli.errors import UsageError
from croc_cli.words import counted

_HINT = "the run that saved it had diverged, or the file is damaged; use another checkpoint"
_KNOWN = "values"
_SAID_FROM = 2**30
"""Bytes of weights from which a user is told that they are looked through, once."""
_MAY_BE_ZERO = ("lora_B", "pool", "mask_token", "head.", "transform_block", "cross_attention", "bias")
"""Parts of names that begin training at zero, or that the released code never trains."""


def check_values(name: str, tensor: Tensor, where: Path) -> None:
    """Raise UsageError where a weight is not what training leaves behind.

    Args:
        name: Its name.
        tensor: The weight; integers and empty ones are not looked at.
        where: File or folder that holds it.
    """
    if not tensor.is_floating_point() or tensor.numel() == 0 or tensor.element_size() == 1:
        return
    smallest, largest = (float(value) for value in torch.aminmax(tensor))
    if not (smallest > -torch.inf and largest < torch.inf):
        wrong = int((~torch.isfinite(tensor)).sum())
        raise UsageError(
            f"{where}: {name} holds {counted(wrong, 'value that is', 'values that are')} NaN or infinite", hint=_HINT
        )
    if smallest == largest == 0 and tensor.ndim > 1 and not any(part in name for part in _MAY_BE_ZERO):
        raise UsageError(f"{where}: {name} holds nothing but zeros", hint=_HINT)


def check_files(files: Iterable[Path]) -> None:
    """Check the values in safetensors files whose headers are in order; those known are not read again.

    Raises:
        UsageError: A weight is not a number, or is all zeros; its file is named.
    """
    unknown = [file for file in files if not recall(file).get(_KNOWN)]
    size = sum(file.stat().st_size for file in unknown)
    if size > _SAID_FROM:
        print(f"looking through {size / 2**30:.1f} GiB of weights, this once", file=sys.stderr, flush=True)
    for file in unknown:
        with safe_open(file, framework="pt") as weights:
            for name in weights.keys():  # noqa: SIM118  # no mapping: it has keys and nothing to iterate
                check_values(name, weights.get_tensor(name), file)
        remember(file, **{_KNOWN: True})
