"""Losses of a step's samples, put together by source, by modality and by number of images, without a further pass."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from croc_cli.data.micro_batch import MicroBatch

MOST_IMAGES = 5
"""Samples with so many images, or more, are one group."""
_COLUMNS = 3


class SampleLoss(NamedTuple):
    """What a step found of one sample.

    Args:
        id: Of the sample.
        source: Name of its source.
        num_images: Images that it has.
        tokens: Tokens of it that were trained.
        loss: Their cross-entropy, summed, in nats.
    """

    id: str
    source: str
    num_images: int
    tokens: int
    loss: float

    @property
    def mean(self) -> float | None:
        """Nats a trained token; None where none was trained."""
        return self.loss / self.tokens if self.tokens else None


def sample_losses(batches: Sequence[MicroBatch], sums: Sequence[Tensor]) -> list[SampleLoss]:
    """Return the losses of this rank's samples.

    Args:
        batches: Micro-batches that have run.
        sums: [S] of each, its samples' summed cross-entropy.
    """
    if not sums:
        return []
    values = torch.cat([own[: len(batch.sample_ids)] for batch, own in zip(batches, sums, strict=True)])
    columns = (
        [name for batch in batches for name in batch.sample_ids],
        [name for batch in batches for name in batch.sources],
        [number for batch in batches for number in batch.num_images],
        [tokens for batch in batches for tokens in batch.trained_tokens_by_sample()],
        values.double().tolist(),
    )
    return [SampleLoss(*row) for row in zip(*columns, strict=True)]


class LossGroups:
    """Adds up samples by group; all ranks have the same groups, so one tensor holds what they add up together.

    Args:
        sources: Names of the sources.
    """

    def __init__(self, sources: Sequence[str]) -> None:
        numbers = [str(number) for number in range(MOST_IMAGES)] + [f"{MOST_IMAGES}+"]
        self.groups = [
            *(("source", name) for name in sources),
            *(("modality", name) for name in ("image", "text")),
            *(("num_images", name) for name in numbers),
        ]
        self._index = {group: index for index, group in enumerate(self.groups)}

    def sums(self, losses: Iterable[SampleLoss]) -> Tensor:
        """Return [groups · 3] float64: loss, tokens and samples of each group."""
        table = [[0.0] * _COLUMNS for _ in self.groups]
        for sample in losses:
            number = str(sample.num_images) if sample.num_images < MOST_IMAGES else f"{MOST_IMAGES}+"
            groups = (
                ("source", sample.source),
                ("modality", "image" if sample.num_images else "text"),
                ("num_images", number),
            )
            for row in (table[self._index[group]] for group in groups if group in self._index):
                for column, value in enumerate((sample.loss, sample.tokens, 1)):
                    row[column] += value
        return torch.tensor(table, dtype=torch.float64).flatten()

    def fields(self, sums: Tensor) -> dict[str, dict[str, dict[str, Any]]]:
        """Return what metrics.jsonl says of each group that has samples: `source/NAME/loss` and so on."""
        found: dict[str, dict[str, dict[str, Any]]] = {}
        for (kind, name), (loss, tokens, samples) in zip(self.groups, sums.view(-1, _COLUMNS).tolist(), strict=True):
            if samples:
                mean = loss / tokens if tokens else None
                found.setdefault(kind, {})[name] = {"loss": mean, "tokens": int(tokens), "samples": int(samples)}
        return found
