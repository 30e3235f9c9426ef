"""A look at real visual tokens before stage 1.5, from which the token pool starts (METHOD: pool initialisation)."""

import math
from collections.abc import Iterable

import torch
from torch import Tensor


def tokens_per_image(num_visual: int) -> int:
    """Return how many tokens one calibration image may give: an eighth, so that the pool sees many images."""
    return max(1, num_visual // 8)


def num_calibration_images(pool_size: int, num_visual: int) -> int:
    """Return how many images it takes to find `pool_size` tokens, with a quarter to spare for equal ones."""
    return math.ceil(1.25 * pool_size / tokens_per_image(num_visual))


@torch.no_grad()
def sample_visual_tokens(visual_tokens: Iterable[Tensor], *, generator: torch.Generator) -> Tensor:
    """Draw an eighth of each image's visual tokens, without replacement.

    Args:
        visual_tokens: For each image [n, D], as projected.
        generator: The source of the draw.

    Returns:
        [K, D] float32.
    """
    drawn = []
    for tokens in visual_tokens:
        keep = torch.randperm(len(tokens), generator=generator)[: tokens_per_image(len(tokens))]
        drawn.append(tokens[keep.to(tokens.device)].float().cpu())
    return torch.cat(drawn)
