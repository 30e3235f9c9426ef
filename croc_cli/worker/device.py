"""Which device a rank's tensors are on, and what of the host is its own."""

import os
from typing import Literal

import torch


def chosen_device(wanted: str | None) -> Literal["cuda", "cpu"]:
    """Return what `launch.device` means on this machine: a GPU where there is one, unless the CPU is asked for."""
    return "cuda" if wanted != "cpu" and torch.cuda.is_available() else "cpu"


def solver_threads(*, on_gpu: bool) -> int:
    """Return how many threads of a rank may solve assignments.

    Beside a GPU the host's cores are free: each rank of this machine gets its share. On a CPU they are the cores that
    the rank computes on.
    """
    if not on_gpu:
        return torch.get_num_threads()
    ranks = os.environ.get("LOCAL_WORLD_SIZE") or os.environ.get("LOCAL_SIZE") or str(torch.cuda.device_count())
    share = len(os.sched_getaffinity(0)) // max(1, int(ranks))
    return max(torch.get_num_threads(), share)
