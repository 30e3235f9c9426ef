"""The few things that ranks tell each other, written so that one process needs no process group."""

import functools
import itertools
import os
import time
from typing import Any

import torch
import torch.distributed as dist

from croc_cli.train.position import POSITION

_POLL_SECONDS = 0.2
"""Longest pause between two looks whether the other ranks have come."""
_meetings = itertools.count()


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


def sum_over_hosts(values: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Return the element-wise sum over ranks of numbers on the host; every rank must call it at the same point.

    Ranks of one machine tell each other through their hosts, which wait for no GPU. Over several machines the numbers
    take the GPUs' way, which is known to work there.
    """
    if num_ranks() == 1:
        return values
    group = _host_group()
    if group is None:
        return sum_over_ranks(values.to(device)).cpu()
    dist.all_reduce(values, group=group)
    return values


@functools.cache
def _host_group() -> Any:
    """Return the group of all ranks whose collectives take host tensors; None where they are on several machines."""
    if dist.get_backend() == "gloo":
        return dist.group.WORLD
    here = os.environ.get("LOCAL_WORLD_SIZE") or os.environ.get("LOCAL_SIZE")
    return dist.new_group(backend="gloo") if here == str(num_ranks()) else None


def gather_from_ranks(value: Any) -> list[Any]:
    """Return every rank's picklable `value`, in rank order; every rank must call it at the same point."""
    if num_ranks() == 1:
        return [value]
    wait_for_ranks()
    gathered: list[Any] = [None] * num_ranks()
    dist.all_gather_object(gathered, value)
    return gathered


def barrier() -> None:
    """Wait until every rank is here."""
    if num_ranks() > 1:
        wait_for_ranks()
        dist.barrier()


def wait_for_ranks() -> None:
    """Wait until every rank is here, for as long as one of them moves: one may save or assemble for longer than a
    collective may take.
    """
    store = dist.distributed_c10d._get_default_store()
    meeting = f"croc/meeting-{next(_meetings)}"
    store.add(meeting, 1)
    pause = 1e-3
    with POSITION.waiting("meeting"):
        while store.add(meeting, 0) < num_ranks():
            time.sleep(pause)
            pause = min(2 * pause, _POLL_SECONDS)
