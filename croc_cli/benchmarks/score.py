"""What a benchmark makes of answers: a headline with its interval, its parts, and other scorers' headlines."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

_NUM_RESAMPLES = 1000


@dataclass(frozen=True)
class Headline:
    """One number for a list of answers.

    Attributes:
        value: In the units of the published tables.
        num_units: Units that the bootstrap draws: questions, or groups of them that belong together.
        statistic: The number as a function of the units' weights, [num_units] float.
        mean_of: Of a number that is a mean: each unit's value, in the number's units. Without it and without a
            statistic there is no interval.
    """

    value: float
    num_units: int = 0
    statistic: Callable[[np.ndarray], float] | None = None
    mean_of: Sequence[float] | None = None

    @classmethod
    def mean(cls, values: Sequence[float], *, scale: float = 100.0) -> Headline:
        """Return the mean of one value for each unit, 0 without units."""
        value = scale * sum(values) / len(values) if values else 0.0
        return cls(value, len(values), mean_of=[scale * one for one in values])

    def interval(self, *, seed: int = 0) -> tuple[float, float] | None:
        """Return the 95 % bootstrap interval, or None where there is nothing to draw from."""
        if self.num_units < 2 or (self.statistic is None and self.mean_of is None):
            return None
        import numpy as np

        rng = np.random.default_rng(seed)
        size = self.num_units
        if self.mean_of is not None:
            # Units of one value are alike: drawing how many of each value come up is the same bootstrap, and faster.
            values, counts = np.unique(np.asarray(self.mean_of, dtype=np.float64), return_counts=True)
            drawn = rng.multinomial(size, counts / size, size=_NUM_RESAMPLES) @ values / size
        else:
            assert self.statistic is not None
            weights = (np.bincount(rng.integers(size, size=size), minlength=size) for _ in range(_NUM_RESAMPLES))
            drawn = np.array([self.statistic(weight.astype(np.float64)) for weight in weights])
        low, high = np.percentile(drawn, [2.5, 97.5])
        return float(low), float(high)


@dataclass(frozen=True)
class Score:
    """What a benchmark makes of a list of answers.

    Attributes:
        metric: Name of the headline.
        headline: The number that stands in tables.
        per_item: One number for each record, in their order: the item's own score; None where a record is a control,
            which is not part of the headline.
        parts: Further metrics: per category, per subset, totals.
        num_unparsable: Answers that the benchmark's rule could not read.
        variants: The headline as other scorers in the wild compute it, by the variant's name.
    """

    metric: str
    headline: Headline
    per_item: Sequence[float | None]
    parts: Mapping[str, Any] = field(default_factory=dict)
    num_unparsable: int = 0
    variants: Mapping[str, Headline] = field(default_factory=dict)

    @property
    def value(self) -> float:
        """The headline's number."""
        return self.headline.value

    def interval(self) -> tuple[float, float] | None:
        """Return the headline's 95 % interval; see `Headline.interval`."""
        return self.headline.interval()

    def in_variant(self, name: str) -> Score:
        """Return the score with a variant as its headline, and the primary one among the variants."""
        others = {other: headline for other, headline in self.variants.items() if other != name}
        metric = f"{self.metric} ({name})"
        return replace(self, metric=metric, headline=self.variants[name], variants={"primary": self.headline, **others})
