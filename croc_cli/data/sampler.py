"""Which samples each rank takes at each optimizer step."""

import hashlib
import math
from collections.abc import Callable, Iterator
from functools import lru_cache

import numpy as np
import numpy.typing as npt


class StepSampler:
    """Deals the samples of every optimizer step to ranks and micro-batches.

    Each epoch is a seeded permutation of all samples, and a step takes the next `global_size` of them: the same ones
    whatever the number of ranks. Within a step samples are sorted by length, so that a micro-batch holds alike lengths,
    and so do the micro-batches that the ranks run at the same time.

    Args:
        num_samples: Samples of an epoch.
        global_size: Samples of a step, over all ranks.
        micro_size: Samples of one forward pass on one rank.
        rank: This rank.
        num_ranks: All ranks.
        seed: Seed of the permutations.
        epochs: Passes over the samples; a fraction is possible.
        max_steps: Steps, whatever the epochs; None for as many as the epochs have.

    Raises:
        ValueError: The global batch is not whole micro-batches on every rank, or there are no samples.
    """

    def __init__(
        self,
        num_samples: int,
        *,
        global_size: int,
        micro_size: int,
        rank: int,
        num_ranks: int,
        seed: int,
        epochs: float = 1.0,
        max_steps: int | None = None,
    ) -> None:
        if num_samples < 1:
            raise ValueError("no samples to draw from")
        if not 0 <= rank < num_ranks:
            raise ValueError(f"rank {rank} is not one of {num_ranks} ranks")
        if global_size % (micro_size * num_ranks):
            raise ValueError(
                f"global_size {global_size} is not a multiple of micro_size × ranks = {micro_size * num_ranks}"
            )
        self.num_samples = num_samples
        self.global_size = global_size
        self.micro_size = micro_size
        self.rank = rank
        self.num_ranks = num_ranks
        self.seed = seed
        self.num_drawn = max(1, round(num_samples * epochs)) if max_steps is None else max_steps * global_size
        self.num_steps = math.ceil(self.num_drawn / global_size)
        self.accumulation = global_size // (micro_size * num_ranks)

    def __len__(self) -> int:
        return self.num_steps

    def global_batch(self, step: int) -> list[int]:
        """Return the samples of a step over all ranks, in the order of their draw; fewer than `global_size` at the end.

        Args:
            step: From 0 to `num_steps` − 1.

        Raises:
            IndexError: There is no such step.
        """
        if not 0 <= step < self.num_steps:
            raise IndexError(f"step {step} is not one of {self.num_steps}")
        positions = range(step * self.global_size, min((step + 1) * self.global_size, self.num_drawn))
        return [
            int(_permutation(self.num_samples, self.seed, position // self.num_samples)[position % self.num_samples])
            for position in positions
        ]

    def micro_batches(self, step: int, length_hint: Callable[[int], int]) -> list[list[int | None]]:
        """Return this rank's micro-batches of a step.

        Args:
            step: From 0 to `num_steps` − 1.
            length_hint: Approximate length of a sample in tokens.
        Returns:
            `global_size / (micro_size · num_ranks)` lists of `micro_size` samples; None fills up the last step's.
        """
        batch = self.global_batch(step)
        hints = {sample: length_hint(sample) for sample in set(batch)}
        ordered = iter(sorted(batch, key=lambda sample: (hints[sample], sample)))
        num_micro = self.accumulation * self.num_ranks
        filled = [list(self._take(ordered, size)) for size in _spread(len(batch), num_micro)]
        return filled[self.rank :: self.num_ranks]

    def _take(self, ordered: Iterator[int], size: int) -> Iterator[int | None]:
        for position in range(self.micro_size):
            yield next(ordered) if position < size else None


def _spread(total: int, parts: int) -> list[int]:
    """Return sizes of parts that add up to the total and differ by one at most."""
    return [total // parts + (part < total % parts) for part in range(parts)]


@lru_cache(maxsize=2)
def _permutation(num_samples: int, seed: int, epoch: int) -> npt.NDArray[np.int64]:
    """Return an epoch's order; by sorting raw bits, whose stream numpy keeps from version to version."""
    digest = hashlib.sha256(repr(("order", seed, epoch)).encode()).digest()
    bits = np.random.Philox(key=int.from_bytes(digest[:16], "little")).random_raw(num_samples)
    return np.argsort(bits, kind="stable").astype(np.int64)
