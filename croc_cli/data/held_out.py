"""Micro-batches of held-out samples: the same whatever the number of ranks, each also with other samples' pictures."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
import torch.utils.data

from croc_cli.data.collate import Collator, start_worker
from croc_cli.data.dataset import Dataset
from croc_cli.data.micro_batch import MicroBatch
from croc_cli.data.packing import RowLimit, first_fit
from croc_cli.data.sample import Sample

_STEP = 0
"""Of the masks: they are those of one step at every measurement, so that losses can be compared."""


class HeldOutBatch(NamedTuple):
    """Some samples twice.

    Args:
        number: Of the micro-batch, over all ranks; None for one that only keeps this rank in step with the others.
        own: The samples.
        swapped: Those of them that show pictures, each with the pictures of another sample.
    """

    number: int | None
    own: MicroBatch
    swapped: MicroBatch


class HeldOutLoader(torch.utils.data.Dataset[HeldOutBatch]):
    """This rank's micro-batches of the held-out samples.

    Micro-batches are cut before they are dealt to ranks, from samples sorted by length, so their losses are the same on
    any number of ranks.

    Args:
        dataset: The held-out samples.
        collator: Makes micro-batches; not the loader's own where that reads features from a cache.
        micro_size: Samples of a micro-batch; rows of it where they are packed.
        rank: This rank.
        num_ranks: All ranks.
        num_workers: Processes that load; 0 loads in this one.
        packing: How long rows are into which samples are packed; None gives each sample a row of its own.
    """

    def __init__(
        self,
        dataset: Dataset,
        collator: Collator,
        *,
        micro_size: int,
        rank: int,
        num_ranks: int,
        num_workers: int,
        packing: RowLimit | None = None,
    ) -> None:
        self.dataset = dataset
        self.collator = collator
        self.num_workers = num_workers
        self.packing = packing
        rows = self._rows()
        self.micro_batches = [rows[start : start + micro_size] for start in range(0, len(rows), micro_size)]
        rounds = -(-len(self.micro_batches) // num_ranks)
        self.numbers = [turn * num_ranks + rank for turn in range(rounds)]
        self.partners = find_partners(dataset)

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, turn: int) -> HeldOutBatch:
        number = self.numbers[turn]
        if number >= len(self.micro_batches):
            return HeldOutBatch(None, self.collator([], step=_STEP), self.collator([], step=_STEP))
        rows = self.micro_batches[number]
        samples = {index: self.dataset[index] for row in rows for index in row}
        swapped = {
            index: replace(sample, images=self.dataset[self.partners[index]].images)
            for index, sample in samples.items()
            if index in self.partners
        }
        return HeldOutBatch(number, self._collate(samples, rows), self._collate(swapped, rows))

    def _rows(self) -> list[list[int]]:
        """Return the samples of each row, over all ranks."""
        if self.packing is None:
            order = sorted(range(len(self.dataset)), key=lambda index: (self.dataset.length_hint(index), index))
            return [[index] for index in order]
        samples = (self.dataset[index] for index in range(len(self.dataset)))
        ids, encoded = zip(*((sample.id, self.collator.encode(sample)) for sample in samples), strict=True)
        return first_fit(self.packing.lengths(ids, encoded), self.packing.tokens)

    def _collate(self, samples: Mapping[int, Sample], rows: Sequence[Sequence[int]]) -> MicroBatch:
        """Return the micro-batch of some rows, with those of their samples that are given."""
        if self.packing is None:
            return self.collator(list(samples.values()), step=_STEP)
        encoded = [self.collator.encode(sample) for sample in samples.values()]
        place = {index: place for place, index in enumerate(samples)}
        own = [[place[index] for index in row if index in place] for row in rows]
        given = list(samples.values())
        return self.collator.pack(given, encoded, rows=own, row_tokens=self.packing.tokens, step=_STEP)

    def batches(self) -> Iterable[HeldOutBatch]:
        """Return this rank's micro-batches, loaded ahead where there are workers."""
        loader: torch.utils.data.DataLoader[HeldOutBatch] = torch.utils.data.DataLoader(
            self,
            batch_size=None,
            shuffle=False,
            num_workers=self.num_workers,
            worker_init_fn=start_worker if self.num_workers else None,
            prefetch_factor=2 if self.num_workers else None,
            generator=torch.Generator(),  # the process's own is the training's
        )
        return loader


def find_partners(dataset: Dataset) -> dict[int, int]:
    """Return whose pictures each sample gets instead of its own: those of the next sample with as many other ones."""
    by_number: dict[int, list[tuple[int, tuple[str, ...]]]] = defaultdict(list)
    for index in range(len(dataset)):
        names = tuple(image.name for image in dataset[index].images)
        if names:
            by_number[len(names)].append((index, names))
    partners = {}
    for group in by_number.values():
        for place, (index, names) in enumerate(group):
            following = (*group[place + 1 :], *group[:place])
            other = next((other for other, theirs in following if not set(theirs) & set(names)), None)
            if other is not None:
                partners[index] = other
    return partners
