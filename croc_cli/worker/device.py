"""Which device a rank's tensors are on."""

from typing import Literal

import torch


def chosen_device(wanted: str | None) -> Literal["cuda", "cpu"]:
    """Return what `launch.device` means on this machine: a GPU where there is one, unless the CPU is asked for."""
    return "cuda" if wanted != "cpu" and torch.cuda.is_available() else "cpu"
