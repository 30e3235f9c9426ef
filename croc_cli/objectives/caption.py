"""The caption objective: cross-entropy of the response tokens.

Letters: K trained tokens, V vocabulary size.
"""

from torch import Tensor
from torch.nn import functional as F

from croc_cli.names import IGNORE_INDEX


def caption_losses(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the cross-entropy of each token (arXiv:2410.14332v3, Eq. 4, which lacks its minus sign).

    Args:
        logits: [K, V], any float dtype; computed from in float32.
        labels: [K] int64, -100 where nothing is trained.

    Returns:
        [K] float32, zero where nothing is trained.
    """
    return F.cross_entropy(logits.float(), labels, ignore_index=IGNORE_INDEX, reduction="none")


def caption_loss_sum(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the summed cross-entropy.

    A sum, because the mean is taken over the whole global batch, whose trained tokens no rank sees alone.

    Args:
        logits: [K, V], any float dtype; computed from in float32.
        labels: [K] int64, -100 where nothing is trained.

    Returns:
        Scalar float32; zero, with a gradient of zeros, where nothing is trained.
    """
    return caption_losses(logits, labels).sum()
