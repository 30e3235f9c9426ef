"""The assignment of a micro-batch's masked visual tokens: solved by threads on the host while the device works.

Letters: I images, R real ones among them, n visual tokens of an image, m masked ones, N pool tokens, D hidden size.
"""

import functools
import time
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import torch
from torch import Tensor

from croc_cli.model.matching import assign, check_matching, pairwise_cost
from croc_cli.model.transfers import arrival, to_device, to_host


class Solved(NamedTuple):
    """The assignment of one image.

    Args:
        pool_tokens: [m] int64, the pool token of each masked position in order.
        mean_cost: Mean distance between the masked tokens and their pool tokens.
        seconds: Time that the solver took.
    """

    pool_tokens: Tensor
    mean_cost: float
    seconds: float


class Assignment(NamedTuple):
    """The assignment of a micro-batch.

    Args:
        by_image: [I, m] int64 on the CPU, m the most of any image, the pool token of each masked position in order; -1
            where there is none: images that are not real have no assignment.
        places: [masked positions of all images] int64 on the CPU, the same in one row; images that are not real take
            pool tokens in turn.
        cost_sum: Sum over real images of the mean distance between masked tokens and their pool tokens.
        solver_seconds: Time that the solver took, added up over images.
        wait_seconds: Time that the caller waited for it.
    """

    by_image: Tensor
    places: Tensor
    cost_sum: float
    solver_seconds: float
    wait_seconds: float


class PendingAssignment:
    """An assignment whose costs are on their way to the host, and which threads solve as soon as they are there.

    Args:
        solved: For each assignment, what a thread will return.
        units: Indices of the real images of each assignment: one image, or those of a sample that share one.
        num_masked: Masked positions of each image.
        num_pool: N.
    """

    def __init__(
        self, solved: list[Future[Solved]], *, units: list[list[int]], num_masked: list[int], num_pool: int
    ) -> None:
        self._solved = solved
        self._units = units
        self._num_masked = num_masked
        self._num_pool = num_pool

    def result(self) -> Assignment:
        """Wait until every image is solved."""
        started = time.perf_counter()
        solved = [unit.result() for unit in self._solved]
        waited = time.perf_counter() - started
        real = [index for unit in self._units for index in unit]
        by_image = torch.full((len(self._num_masked), max((self._num_masked[index] for index in real), default=0)), -1)
        rows = [torch.arange(count) % self._num_pool for count in self._num_masked]
        for unit, found in zip(self._units, solved, strict=True):
            own = torch.split(found.pool_tokens, [self._num_masked[index] for index in unit])
            for index, pool_tokens in zip(unit, own, strict=True):
                by_image[index, : len(pool_tokens)] = rows[index] = pool_tokens
        return Assignment(
            by_image=by_image,
            places=torch.cat(rows),
            cost_sum=sum(found.mean_cost * len(unit) for unit, found in zip(self._units, solved, strict=True)),
            solver_seconds=sum(found.seconds for found in solved),
            wait_seconds=waited,
        )


@torch.no_grad()
def begin_assignment(
    visual_tokens: Tensor,
    pool: Tensor,
    masked: Tensor,
    image_is_real: Tensor,
    *,
    method: str,
    num_threads: int,
    sharing: Tensor | None = None,
) -> PendingAssignment:
    """Compute the costs of a micro-batch in one call, and have threads solve them.

    Nothing here waits for a GPU where `masked` and `image_is_real` are on the host: the costs are copied into pinned
    memory at once, and the threads wait for the copy. scipy lets go of the interpreter lock while it solves.

    Args:
        visual_tokens: [I, n, D].
        pool: [N, D], whole.
        masked: [I, n] bool, True at positions to replace. Their number m may differ between images.
        image_is_real: [I] bool.
        method: `hungarian`, see `assign`; or `nearest`, the cheapest pool token for each masked token on its own (Table
            4c), which stays on the device.
        num_threads: Threads that solve.
        sharing: [I] int64; images of one number share one assignment, so that each pool token is used once over them
            (as often as needed where there are fewer). None assigns each image on its own.

    Raises:
        ValueError: `method` is neither.
    """
    check_matching(method)
    positions, real = _look_up(masked, image_is_real)
    units = _units(real, sharing)
    num_visual = visual_tokens.shape[1]
    in_order = [index * num_visual + positions[index] for unit in units for index in unit]
    flat = torch.cat(in_order or [torch.zeros(0, dtype=torch.int64)])
    tokens = visual_tokens.flatten(0, 1)[to_device(flat, visual_tokens.device)]
    costs = pairwise_cost(tokens, pool)  # [R · m, N]
    if method == "nearest":
        chosen = costs.argmin(dim=1)
        results = [to_host(costs.gather(1, chosen[:, None]).squeeze(1)), to_host(chosen)]
    else:
        results = [to_host(costs)]
    arrived = arrival(visual_tokens.device)
    solve = _take if method == "nearest" else _solve
    counts = [len(row) for row in positions]
    sizes = [sum(counts[index] for index in unit) for unit in units]
    parts = zip(*(torch.split(part, sizes) for part in results), strict=True)
    solved = [_threads(num_threads).submit(solve, arrived, *part) for part in parts]
    return PendingAssignment(solved, units=units, num_masked=counts, num_pool=len(pool))


def _units(real: list[int], sharing: Tensor | None) -> list[list[int]]:
    """Return the images of each assignment."""
    if sharing is None:
        return [[index] for index in real]
    units: dict[int, list[int]] = {}
    numbers = sharing.tolist()
    for index in real:
        units.setdefault(numbers[index], []).append(index)
    return list(units.values())


def _look_up(masked: Tensor, image_is_real: Tensor) -> tuple[list[Tensor], list[int]]:
    """Return the masked positions of each image, and which images are real; on the host, where both should be."""
    positions = [row.nonzero().squeeze(1) for row in masked.cpu()]
    return positions, [index for index, is_real in enumerate(image_is_real.tolist()) if is_real]


def _solve(arrived: torch.cuda.Event | None, cost: Tensor) -> Solved:
    """Assign one image; cost: [m, N] float32 on the host."""
    if arrived is not None:
        arrived.synchronize()
    started = time.perf_counter()
    chosen = torch.from_numpy(assign(cost.numpy()))
    seconds = time.perf_counter() - started
    return Solved(chosen, _mean(cost.gather(1, chosen[:, None])), seconds)


def _take(arrived: torch.cuda.Event | None, cheapest: Tensor, chosen: Tensor) -> Solved:
    """Take what the device has chosen for one image; both [m] on the host."""
    if arrived is not None:
        arrived.synchronize()
    return Solved(chosen, _mean(cheapest), 0.0)


def _mean(distances: Tensor) -> float:
    return float(distances.mean()) if distances.numel() else 0.0


@functools.cache
def _threads(count: int) -> ThreadPoolExecutor:
    """Return the process's solver threads, which start as they are needed."""
    return ThreadPoolExecutor(max_workers=count, thread_name_prefix="croc-solver")
