"""The samples of one forward pass as tensors.

Letters: B rows · T tokens of a row · I images · n visual tokens of an image.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any

import torch

from croc_cli.data.packing import Packing
from croc_cli.data.places import Places
from croc_cli.names import IGNORE_INDEX


@dataclass
class MicroBatch:
    """The samples of one forward pass: each in a row of its own, or several in a row where they are packed.

    Args:
        input_ids: [B, T] int64, filled up on the right.
        labels: [B, T] int64, IGNORE_INDEX where a token is not trained.
        attention_mask: [B, T] int64, 0 where a sequence is filled up.
        pixel_values: [I, 3, H, W] float32; a blank where an image did not open or there is none at all. With a feature
            cache [I, n, D_v], what a frozen tower of hidden size D_v made of them.
        image_is_real: [I] bool, False for blanks and for images of samples that train nothing.
        image_rows: [I] int64, the row that shows each image, in order of appearance; −1 for a blank that no row shows.
        masked: [I, n] bool, the masked visual tokens, equally many of every image; None where none are masked.
        sample_ids: Id of each sample, row by row.
        sources: Name of the source of each sample.
        num_images: Images of each sample.
        num_samples: Samples, dropped ones and those with bad images included.
        num_truncated: Samples whose end was cut off.
        num_dropped: Samples that train nothing, because nothing to train was left of them.
        bad_images: (sample id, image name, reason) of each image that did not open.
        places: Where images and trained tokens lie.
        packing: Which tokens of a row belong together; None where each sample has a row of its own.
    """

    input_ids: torch.Tensor
    labels: torch.Tensor
    attention_mask: torch.Tensor
    pixel_values: torch.Tensor
    image_is_real: torch.Tensor
    image_rows: torch.Tensor
    masked: torch.Tensor | None
    sample_ids: list[str]
    sources: list[str]
    num_images: list[int]
    num_samples: int
    num_truncated: int
    num_dropped: int
    bad_images: list[tuple[str, str, str]]
    places: Places
    packing: Packing | None = None

    @property
    def num_trained_tokens(self) -> int:
        """Labels that count in a causal loss; a sequence's first token is never predicted."""
        return int((self.labels[:, 1:] != IGNORE_INDEX).sum())

    def trained_tokens_by_sample(self) -> list[int]:
        """Return `num_trained_tokens` of each sample."""
        trained = self.places.samples[self.places.labels != IGNORE_INDEX]
        counts: list[int] = torch.bincount(trained, minlength=len(self.sample_ids)).tolist()
        return counts

    def to(self, device: torch.device | str) -> "MicroBatch":
        """Return the micro-batch with its tensors on a device; copies from pinned memory do not block."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> "MicroBatch":
        """Return the micro-batch with its tensors in pinned memory; torch's loader calls this by its name."""
        return self._map(torch.Tensor.pin_memory)

    def _map(self, change: Callable[[torch.Tensor], torch.Tensor]) -> "MicroBatch":
        changed: dict[str, Any] = {
            entry.name: change(value)
            for entry in fields(self)
            if isinstance(value := getattr(self, entry.name), torch.Tensor)
        }
        changed["places"] = Places(*map(change, self.places))
        if self.packing is not None:
            position_ids, boundaries, longest = self.packing
            changed["packing"] = Packing(change(position_ids), change(boundaries), longest)
        return replace(self, **changed)
