"""Means over seeds with their 95 % intervals, and what they say of a claim."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

_T = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228),
    *(2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086),
    *(2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042),
)
"""97.5 % quantiles of Student's t for 1 to 30 degrees of freedom."""
_NORMAL = 1.960

Verdict = Literal["same", "other", "open"]


@dataclass(frozen=True)
class Mean:
    """A mean over seeds.

    Args:
        value: The mean.
        half: Half the length of its 95 % interval (Student's t); None for one seed.
        num_seeds: Seeds behind it.
    """

    value: float
    half: float | None
    num_seeds: int


def mean_over_seeds(values: Sequence[float]) -> Mean:
    """Return the mean of at least one value, with its interval where there are two or more."""
    count = len(values)
    mean = sum(values) / count
    if count < 2:
        return Mean(mean, None, count)
    variance = sum((value - mean) ** 2 for value in values) / (count - 1)
    quantile = _T[count - 2] if count - 2 < len(_T) else _NORMAL
    return Mean(mean, quantile * math.sqrt(variance / count), count)


def paired_difference(above: Mapping[int, float], below: Mapping[int, float]) -> Mean | None:
    """Return the mean difference over the seeds that both have: what a seed does to both rows is not counted."""
    seeds = sorted(above.keys() & below.keys())
    return mean_over_seeds([above[seed] - below[seed] for seed in seeds]) if seeds else None


def verdict(difference: Mean) -> Verdict:
    """Return whether a difference is above zero (`same` order as claimed), below (`other`), or open.

    One seed decides nothing: how much seeds differ is then unknown.
    """
    if difference.half is None or abs(difference.value) <= difference.half:
        return "open"
    return "same" if difference.value > 0 else "other"
