"""The reconstruction objective: how far predicted visual tokens are from real ones.

Letters: I images, n visual tokens of an image, D hidden size.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F


class ReconstructionLoss(NamedTuple):
    """Sums over the images of a micro-batch; dividing by the images of a whole step gives the step's means.

    Args:
        total: Scalar float32, the weighted sum over images.
        baseline: The same for a constant prediction, the mean target of the positions that count in this micro-batch;
            without gradient. The fewer images a micro-batch has, the closer this constant lies to its targets, so a
            small micro-batch makes the comparison harder, never easier.
        num_images: Scalar float32, the weights of the images that have a position that counts.
    """

    total: Tensor
    baseline: Tensor
    num_images: Tensor


def reconstruction_loss_sum(
    predicted: Tensor,
    targets: Tensor,
    masked: Tensor,
    weight: Tensor,
    *,
    target: str = "layer_norm",
    loss: str = "l2",
    beta: float = 0.01,
    per_dimension: bool = True,
    reduction: str = "mean",
    scope: str = "masked",
    stop_gradient: bool = True,
) -> ReconstructionLoss:
    """Return the reconstruction loss (arXiv:2410.14332v3, Eq. 3), summed over images.

    With the defaults, an image's loss is mean_{i∈Θ} ‖h_i − sg(t_i)‖₂ / √D over its masked positions Θ, t_i the
    layer-normed visual token. The paper writes Σ ‖T_rv − T_v‖ and leaves norm, scale and gradient of the target open;
    taken literally (`raw`, `sum`, not `per_dimension`) the loss ends above that of predicting the mean token.

    Args:
        predicted: [I, n, D], hidden states at visual positions, through the head where there is one.
        targets: [I, n, D], visual tokens as they would have entered the LLM.
        masked: [I, n] bool, True at replaced positions.
        weight: [I], 1 for images that count, 0 for blanks.
        target: `raw`, `layer_norm` (no affine) or `l2` (unit length).
        loss: `l2`, the norm of the difference, or `smooth_l1`.
        beta: Where smooth L1 turns from square to linear.
        per_dimension: `l2` is divided by √D; `smooth_l1` is a mean over D, else a sum.
        reduction: `mean` or `sum` over an image's positions.
        scope: `masked` positions, or `all`.
        stop_gradient: Keep gradients out of the targets.

    Raises:
        ValueError: A setting is none of the above.
    """
    wanted = normalise_targets(targets.float(), target)
    if stop_gradient:
        wanted = wanted.detach()
    counts = _in_scope(masked, scope).float() * weight.float()[:, None]  # [I, n]
    fixed = wanted.detach()
    mean_target = (fixed * counts[..., None]).sum(dim=(0, 1)) / counts.sum().clamp(min=1)  # [D]

    def summed(guess: Tensor, truth: Tensor) -> Tensor:
        distances = position_distances(guess, truth, loss=loss, beta=beta, per_dimension=per_dimension)  # [I, n]
        return _reduce(distances * counts, counts, reduction)

    return ReconstructionLoss(
        total=summed(predicted.float(), wanted),
        baseline=summed(mean_target.expand_as(fixed), fixed),
        num_images=((counts > 0).any(dim=1) * weight.float()).sum(),
    )


def normalise_targets(tokens: Tensor, target: str) -> Tensor:
    """Return visual tokens as the objective wants them predicted; target: `raw`, `layer_norm` or `l2`."""
    if target == "raw":
        return tokens
    if target == "layer_norm":
        return F.layer_norm(tokens, tokens.shape[-1:])
    if target == "l2":
        return F.normalize(tokens, dim=-1)
    raise ValueError(f"target is {target!r}, expected raw, layer_norm or l2")


def _in_scope(masked: Tensor, scope: str) -> Tensor:
    if scope == "masked":
        return masked.bool()
    if scope == "all":
        return masked.new_ones(masked.shape).bool()
    raise ValueError(f"scope is {scope!r}, expected masked or all")


def position_distances(guess: Tensor, truth: Tensor, *, loss: str, beta: float, per_dimension: bool) -> Tensor:
    """Return [I, n], the loss of each position."""
    if loss == "l2":
        norms: Tensor = torch.linalg.vector_norm(guess - truth, dim=-1)
        return norms / math.sqrt(truth.shape[-1]) if per_dimension else norms
    if loss == "smooth_l1":
        elements = F.smooth_l1_loss(guess, truth, beta=beta, reduction="none")
        return elements.mean(dim=-1) if per_dimension else elements.sum(dim=-1)
    raise ValueError(f"loss is {loss!r}, expected l2 or smooth_l1")


def _reduce(distances: Tensor, counts: Tensor, reduction: str) -> Tensor:
    """Return the scalar sum over images of their mean or sum over positions."""
    if reduction == "sum":
        return distances.sum()
    if reduction == "mean":
        positions = (counts > 0).sum(dim=1).clamp(min=1)
        return (distances.sum(dim=1) / positions).sum()
    raise ValueError(f"reduction is {reduction!r}, expected mean or sum")
