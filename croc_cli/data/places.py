"""Where images and trained tokens lie in a micro-batch, as indices that its forward pass takes without a search.

A GPU that looked for them itself would have to tell the host how many it found, and the host would wait for that.

Letters: B samples, T tokens of a sequence, I images, n visual tokens of an image, P images that have a place, K trained
tokens.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from croc_cli.names import IGNORE_INDEX


class Places(NamedTuple):
    """Indices into the micro-batch; all int64. Positions count through its rows: row · T + column.

    Args:
        images: [P], images that have a place, in the order in which their places are met, row by row.
        visual: [P · n], positions of their tokens.
        before_labels: [K], positions whose next token is trained; the first position where none is.
        labels: [K], these next tokens; -100 for the position that stands in for none.
        samples: [K], the sample that each of them belongs to, as its place in the micro-batch.
    """

    images: Tensor
    visual: Tensor
    before_labels: Tensor
    labels: Tensor
    samples: Tensor


def find_places(
    input_ids: Tensor,
    labels: Tensor,
    image_rows: Tensor,
    *,
    image_token_id: int,
    num_visual_tokens: int,
    samples: Tensor | None = None,
) -> Places:
    """Return where images and trained tokens lie.

    Args:
        input_ids: [B, T] int64, n image tokens for each image that has a place.
        labels: [B, T] int64, -100 where nothing is trained.
        image_rows: [I] int64, the row of each image, images of a row in order of appearance; -1 for a blank without a
            place.
        image_token_id: Id of an image token.
        num_visual_tokens: n.
        samples: [B, T] int64, the sample of each token; None where each row is one. The first token of a sample has no
            label.

    Raises:
        ValueError: Image tokens and images do not match.
    """
    is_visual = input_ids == image_token_id
    order = torch.argsort(image_rows, stable=True)
    images = order[image_rows[order] >= 0]
    expected = torch.bincount(image_rows[images], minlength=len(is_visual)) * num_visual_tokens
    if not torch.equal(expected, is_visual.sum(dim=1)):
        raise ValueError(
            f"rows hold {is_visual.sum(dim=1).tolist()} image tokens, expected {expected.tolist()}: "
            f"{num_visual_tokens} for each image"
        )
    following = torch.nn.functional.pad(labels[:, 1:], (0, 1), value=IGNORE_INDEX).flatten()
    before_labels = (following != IGNORE_INDEX).nonzero().squeeze(1)
    if len(before_labels) == 0:
        before_labels = before_labels.new_zeros(1)
    of_samples = before_labels // labels.shape[1] if samples is None else samples.flatten()[before_labels]
    return Places(
        images=images,
        visual=is_visual.flatten().nonzero().squeeze(1),
        before_labels=before_labels,
        labels=following[before_labels],
        samples=of_samples,
    )
