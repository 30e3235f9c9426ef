"""Which visual tokens of an image are masked at a step (arXiv:2410.14332v3, section 3.2).

Letters: n visual tokens of an image, m masked ones.
"""

import hashlib
import math
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

_MAX_BLOCKS = 64
"""Blocks that are drawn for an image at most: with most of it masked, the last gaps are too small for a block."""


@dataclass(frozen=True)
class Masking:
    """How many visual tokens of an image are masked, and which; the recipe's section `mask` has the same keys.

    All of it depends on the arguments of `draw` alone, so a resumed run or another number of ranks masks the same
    tokens. Where m varies it is at least 1: every image then has something to reconstruct.

    Args:
        ratio: γ, share of an image's visual tokens that is masked.
        shape: `random`, uniformly without replacement; or `block`, see `draw_masked_blocks`.
        schedule: `constant`, or `cosine`: from `start` to `ratio` along half a cosine over the stage, as MaskGIT
            (arXiv:2202.04200, section 3.2) chooses its ratios.
        start: Share that `cosine` starts from.
        range: Lowest and highest share; each sample draws its own between them, in place of `ratio`.
        block_scale: Lowest and highest share of an image that a block takes.
        block_aspect: Lowest and highest height of a block over its width.
        num_steps: Steps of the stage, which `cosine` needs.
    """

    ratio: float
    shape: str = "random"
    schedule: str = "constant"
    start: float = 0.0
    range: tuple[float, float] | None = None
    block_scale: tuple[float, float] = (0.15, 0.2)
    block_aspect: tuple[float, float] = (0.75, 1.5)
    num_steps: int = 1

    def at_the_end(self) -> "Masking":
        """Return the masking of the stage's last step for all steps, with which losses can be compared."""
        return replace(self, schedule="constant")

    def num_masked(self, num_visual: int, *, seed: int, step: int, sample_id: str) -> int:
        """Return m, for every image of a sample the same."""
        ratio, largest = self.ratio, max(self.range or (self.ratio, self.start))
        if self.range is not None:
            ratio = _between(self.range, float(_uniform(("ratio", seed, step, sample_id), 1)[0]))
        elif self.schedule == "cosine":
            done = min(1.0, step / max(self.num_steps - 1, 1))
            ratio += (self.start - self.ratio) * (1 + math.cos(math.pi * done)) / 2
        else:
            return round(ratio * num_visual)
        return max(int(largest > 0), round(ratio * num_visual))

    def draw(self, num_visual: int, *, seed: int, step: int, sample_id: str, image_index: int) -> npt.NDArray[np.bool_]:
        """Draw the masked positions of one image.

        Args:
            num_visual: n.
            seed: The run's seed.
            step: The optimizer step.
            sample_id: The sample that holds the image.
            image_index: Position of the image in its sample.

        Returns:
            [n] bool, True at the m masked positions.

        Raises:
            ValueError: `shape` is neither, or n is not a square, which blocks need.
        """
        num_masked = self.num_masked(num_visual, seed=seed, step=step, sample_id=sample_id)
        if self.shape == "random":
            return draw_masked_positions(
                num_visual, num_masked, seed=seed, step=step, sample_id=sample_id, image_index=image_index
            )
        if self.shape != "block":
            raise ValueError(f"shape is {self.shape!r}, expected random or block")
        return draw_masked_blocks(
            num_visual,
            num_masked,
            scale=self.block_scale,
            aspect=self.block_aspect,
            key=("blocks", seed, step, sample_id, image_index),
        )


def draw_masked_positions(
    num_visual: int, num_masked: int, *, seed: int, step: int, sample_id: str, image_index: int
) -> npt.NDArray[np.bool_]:
    """Draw the masked positions of one image, uniformly without replacement.

    The draw depends on the arguments alone, so a resumed run or another number of ranks masks the same tokens. It takes
    Philox's raw bits, whose stream numpy keeps in all its versions; it does not promise that of `Generator.choice`.

    Args:
        num_visual: n, visual tokens of an image.
        num_masked: m, how many of them are masked.
        seed: The run's seed.
        step: The optimizer step.
        sample_id: The sample that holds the image.
        image_index: Position of the image in its sample.
    Returns:
        [n] bool, True at the m masked positions.
    """
    bits = _bits((seed, step, sample_id, image_index), num_visual)
    masked = np.zeros(num_visual, dtype=np.bool_)
    masked[np.argsort(bits, kind="stable")[:num_masked]] = True
    return masked


def draw_masked_blocks(
    num_visual: int,
    num_masked: int,
    *,
    scale: tuple[float, float],
    aspect: tuple[float, float],
    key: tuple[object, ...],
) -> npt.NDArray[np.bool_]:
    """Draw rectangles until m positions are masked, as I-JEPA draws its target blocks (arXiv:2301.08243, section 3).

    I-JEPA draws four of them, which mask a number of positions that varies. Here blocks follow one another until m are
    masked; the last is cut to what is missing. Gaps that are left after 64 blocks are filled one by one.

    Args:
        num_visual: n, a square.
        num_masked: m.
        scale: Lowest and highest share of the image that a block takes; 0.15 and 0.2 in I-JEPA.
        aspect: Lowest and highest height of a block over its width; 0.75 and 1.5 in I-JEPA.
        key: What the draw depends on.

    Returns:
        [n] bool, True at the m masked positions.

    Raises:
        ValueError: n is not a square.
    """
    side = math.isqrt(num_visual)
    if side * side != num_visual:
        raise ValueError(f"blocks need a square of visual tokens, and {num_visual} are none")
    masked = np.zeros((side, side), dtype=np.bool_)
    for size, form, down, right in _uniform(key, 4 * _MAX_BLOCKS).reshape(-1, 4).tolist():
        missing = num_masked - int(masked.sum())
        if missing <= 0:
            break
        area, ratio = num_visual * _between(scale, size), _between(aspect, form)
        height = min(max(round(math.sqrt(area * ratio)), 1), side)
        width = min(max(round(math.sqrt(area / ratio)), 1), side)
        top, left = int(down * (side - height + 1)), int(right * (side - width + 1))
        block = np.zeros_like(masked)
        block[top : top + height, left : left + width] = True
        masked.flat[np.flatnonzero(block & ~masked)[:missing]] = True
    free = np.flatnonzero(~masked)
    order = np.argsort(_bits((*key, "gaps"), len(free)), kind="stable")
    masked.flat[free[order[: num_masked - int(masked.sum())]]] = True
    return masked.ravel()


def _bits(key: tuple[object, ...], count: int) -> npt.NDArray[np.uint64]:
    digest = hashlib.sha256(repr(key).encode()).digest()
    bits: npt.NDArray[np.uint64] = np.random.Philox(key=int.from_bytes(digest[:16], "little")).random_raw(count)
    return bits


def _uniform(key: tuple[object, ...], count: int) -> npt.NDArray[np.float64]:
    """Return numbers of 53 bits from 0 to below 1."""
    return np.asarray((_bits(key, count) >> np.uint64(11)) * 2.0**-53, dtype=np.float64)


def _between(ends: tuple[float, float], share: float) -> float:
    return ends[0] + (ends[1] - ends[0]) * share
