"""Which samples each rank takes at each optimizer step."""

import copy
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
        micro_size: Samples of one forward pass on one rank; rows of it at most where they are packed.
        rank: This rank.
        num_ranks: All ranks.
        seed: Seed of the permutations.
        epochs: Passes over the samples; a fraction is possible.
        max_steps: Steps, whatever the epochs; None for as many as the epochs have.
        shows_images: [num_samples] bool. Where given, a step takes samples with images, or samples of text alone, as
            LLaVA's grouping by modality does; what is left of both at an epoch's end makes a mixed step.
        packed: The samples of a step are packed into rows, so their number need not divide.

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
        shows_images: npt.NDArray[np.bool_] | None = None,
        packed: bool = False,
    ) -> None:
        if num_samples < 1:
            raise ValueError("no samples to draw from")
        if not 0 <= rank < num_ranks:
            raise ValueError(f"rank {rank} is not one of {num_ranks} ranks")
        if not packed and global_size % (micro_size * num_ranks):
            raise ValueError(
                f"global_size {global_size} is not a multiple of micro_size × ranks = {micro_size * num_ranks}"
            )
        self.num_samples = num_samples
        self.global_size = global_size
        self.micro_size = micro_size
        self.rank = rank
        self.num_ranks = num_ranks
        self.seed = seed
        self.shows_images = shows_images
        self._grouped: dict[int, npt.NDArray[np.uint32]] = {}
        self._every_step: list[int] | None = None
        self.num_drawn = max(1, round(num_samples * epochs)) if max_steps is None else max_steps * global_size
        self.num_steps = math.ceil(self.num_drawn / global_size)
        self.accumulation = global_size // (micro_size * num_ranks)

    def __len__(self) -> int:
        return self.num_steps

    def dealing(self, batch: list[int]) -> "StepSampler":
        """Return a sampler that deals `batch`, as many samples as a step has, at every step in the same way."""
        same = copy.copy(self)
        same._every_step = list(batch)
        return same

    def global_batch(self, step: int) -> list[int]:
        """Return the samples of a step over all ranks, in the order of their draw; fewer than `global_size` at the end.

        Args:
            step: From 0 to `num_steps` − 1.

        Raises:
            IndexError: There is no such step.
        """
        if not 0 <= step < self.num_steps:
            raise IndexError(f"step {step} is not one of {self.num_steps}")
        if self._every_step is not None:
            return list(self._every_step)
        positions = range(step * self.global_size, min((step + 1) * self.global_size, self.num_drawn))
        return [int(self._order(position // self.num_samples)[position % self.num_samples]) for position in positions]

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

    def _order(self, epoch: int) -> npt.NDArray[np.uint32]:
        """Return an epoch's order."""
        order = _permutation(self.num_samples, self.seed, epoch)
        if self.shows_images is None:
            return order
        if epoch not in self._grouped:
            self._grouped = {known: self._grouped[known] for known in self._grouped if known == epoch - 1}
            # The first samples of a later epoch fill up the step that the epoch before left incomplete.
            lead = -epoch * self.num_samples % self.global_size
            grouped = _group(order[lead:], self.shows_images, self.global_size, seed=self.seed, epoch=epoch)
            self._grouped[epoch] = np.concatenate([order[:lead], grouped])
        return self._grouped[epoch]

    def _take(self, ordered: Iterator[int], size: int) -> Iterator[int | None]:
        for position in range(self.micro_size):
            yield next(ordered) if position < size else None


def _spread(total: int, parts: int) -> list[int]:
    """Return sizes of parts that add up to the total and differ by one at most."""
    return [total // parts + (part < total % parts) for part in range(parts)]


@lru_cache(maxsize=2)
def _permutation(num_samples: int, seed: int, epoch: int) -> npt.NDArray[np.uint32]:
    """Return an epoch's order."""
    return _shuffled(num_samples, ("order", seed, epoch))


def _shuffled(number: int, key: tuple[object, ...]) -> npt.NDArray[np.uint32]:
    """Return 0 … number − 1 shuffled; by sorting raw bits, whose stream numpy keeps from version to version."""
    digest = hashlib.sha256(repr(key).encode()).digest()
    bits = np.random.Philox(key=int.from_bytes(digest[:16], "little")).random_raw(number)
    return np.argsort(bits, kind="stable").astype(np.uint32)


def _group(
    order: npt.NDArray[np.uint32], shows_images: npt.NDArray[np.bool_], size: int, *, seed: int, epoch: int
) -> npt.NDArray[np.uint32]:
    """Return samples in batches of one modality, the batches shuffled, with what is left of both at the end."""
    with_images = shows_images[order]
    kinds = [order[with_images], order[~with_images]]
    batches = [kind[start : start + size] for kind in kinds for start in range(0, len(kind) - size + 1, size)]
    rest = [kind[len(kind) - len(kind) % size :] for kind in kinds]
    shuffled = [batches[number] for number in _shuffled(len(batches), ("batches", seed, epoch))]
    return np.concatenate([*shuffled, *rest])
