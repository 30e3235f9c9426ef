"""The samples of one forward pass as tensors.

Letters: B samples · T sequence length · I images · n visual tokens of an image.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any

import torch

from croc_cli.data.places import Places
from croc_cli.names import IGNORE_INDEX


@dataclass
class MicroBatch:
    """The samples of one forward pass.

    Args:
        input_ids: [B, T] int64, filled up on the right.
        labels: [B, T] int64, IGNORE_INDEX where a token is not trained.
        attention_mask: [B, T] int64, 0 where a sequence is filled up.
        pixel_values: [I, 3, H, W] float32; a blank where an image did not open or there is none at all. With a feature
            cache [I, n, D_v], what a frozen tower of hidden size D_v made of them.
        image_is_real: [I] bool, False for blanks and for images of samples that train nothing.
        image_rows: [I] int64, the row that shows each image, in order of appearance; −1 for a blank that no row shows.
        masked: [I, n] bool, the masked visual tokens, equally many of every image; None where none are masked.
        sample_ids: Id of each row's sample.
        sources: Name of the source of each row's sample.
        num_images: Images of each row's sample.
        num_samples: Samples, dropped ones and those with bad images included.
        num_truncated: Samples whose end was cut off.
        num_dropped: Samples that train nothing, because nothing to train was left of them.
        bad_images: (sample id, image name, reason) of each image that did not open.
        places: Where images and trained tokens lie; None leaves it to the forward pass to look for them.
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
    places: Places | None = None

    @property
    def num_trained_tokens(self) -> int:
        """Labels that count in a causal loss; a sequence's first token is never predicted."""
        return int((self.labels[:, 1:] != IGNORE_INDEX).sum())

    def trained_tokens_by_row(self) -> list[int]:
        """Return `num_trained_tokens` of each sample's row."""
        counts: list[int] = (self.labels[:, 1:] != IGNORE_INDEX).sum(dim=1).tolist()
        return counts[: len(self.sample_ids)]

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
        if self.places is not None:
            changed["places"] = Places(*map(change, self.places))
        return replace(self, **changed)
