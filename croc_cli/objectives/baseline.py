"""What is kept of a step's targets, so that its reconstruction can be compared with predicting the mean target.

The mean is that of the whole step, so neither micro-batch size nor ranks change the comparison.

Letters: I images, n visual tokens of an image, k targets kept of each image, D hidden size.
"""

from typing import NamedTuple

import torch
from torch import Tensor

KEPT_TARGETS = 64
"""k at most. 64 tokens of 4096 bf16 numbers are 0.5 MB an image; smaller images are kept whole."""
_GOLDEN = 0.6180339887498949
"""Its multiples, without their whole parts, are spread evenly: the kept positions come from all over the image."""


class TargetSample(NamedTuple):
    """The targets of one micro-batch, as far as they are kept; without gradient.

    Args:
        total: [D] float32, sum of the targets that count.
        num_counted: Scalar float32, how many they are.
        kept: [I, k, D], visual tokens of some of their positions, before they are normalised.
        weight: [I, k] float32, how much a kept position's loss adds to the sum over images; 0 where none counts.
    """

    total: Tensor
    num_counted: Tensor
    kept: Tensor
    weight: Tensor


@torch.no_grad()
def sample_targets(visual_tokens: Tensor, targets: Tensor, counts: Tensor, share: Tensor) -> TargetSample:
    """Keep up to k positions of each image; all of them where no more than k count.

    Args:
        visual_tokens: [I, n, D], before they are normalised.
        targets: [I, n, D] float32, normalised.
        counts: [I, n] float32, above 0 at positions that count.
        share: [I], what the loss of one position adds to the sum over images.
    """
    num_positions = counts.shape[1]
    spread = torch.arange(num_positions, device=counts.device) * _GOLDEN % 1 / 2
    places = torch.argsort((counts > 0) + spread, dim=1, descending=True)[:, :KEPT_TARGETS]  # [I, k]
    kept_counts = counts.gather(1, places)
    num_kept = (kept_counts > 0).sum(dim=1).clamp(min=1)
    scale = share * (counts > 0).sum(dim=1) / num_kept
    return TargetSample(
        total=(targets * counts[..., None]).sum(dim=(0, 1)),
        num_counted=counts.sum(),
        kept=visual_tokens.detach().gather(1, places[..., None].expand(-1, -1, visual_tokens.shape[-1])),
        weight=kept_counts * scale[:, None],
    )
