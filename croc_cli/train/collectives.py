"""The few things that ranks tell each other, written so that one process needs no process group."""

import itertools
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
