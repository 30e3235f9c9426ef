"""The few things that ranks tell each other, written so that one process needs no process group."""

from typing import Any

import torch
import torch.distributed as dist


def num_ranks() -> int:
    """Return the number of ranks of this run."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Return this process's rank."""
    return dist.get_rank() if dist.is_initialized() else 0


def sum_over_ranks(values: torch.Tensor) -> torch.Tensor:
    """Return the element-wise sum over ranks; every rank must call it at the same point."""
    if num_ranks() > 1:
        dist.all_reduce(values)
    return values


def gather_from_ranks(value: Any) -> list[Any]:
    """Return every rank's picklable `value`, in rank order; every rank must call it at the same point."""
    if num_ranks() == 1:
        return [value]
    gathered: list[Any] = [None] * num_ranks()
    dist.all_gather_object(gathered, value)
    return gathered


def barrier() -> None:
    """Wait until every rank is here."""
    if num_ranks() > 1:
        dist.barrier()
