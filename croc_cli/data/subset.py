"""Some samples of a dataset, by their indices in it."""

from typing import Any

import numpy as np
import numpy.typing as npt

from croc_cli.data.dataset import Dataset
from croc_cli.data.sample import Sample


class Subset:
    """The samples of a dataset that are named, in the order in which they are named.

    Args:
        dataset: All samples.
        indices: [N], which of them.
    """

    def __init__(self, dataset: Dataset, indices: npt.NDArray[np.int64]) -> None:
        self.dataset: Any = dataset
        self.indices = indices

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Sample:
        sample: Sample = self.dataset[int(self.indices[index])]
        return sample

    def length_hint(self, index: int) -> int:
        """Return roughly how many tokens a sample has."""
        return int(self.dataset.length_hint(int(self.indices[index])))

    @property
    def source_names(self) -> tuple[str, ...]:
        """Names of the dataset's sources."""
        names: tuple[str, ...] = self.dataset.source_names
        return names

    @property
    def shows_images(self) -> npt.NDArray[np.bool_]:
        """[N] bool, whether a sample shows an image; of a dataset that tells it."""
        shows: npt.NDArray[np.bool_] = self.dataset.shows_images[self.indices]
        return shows
