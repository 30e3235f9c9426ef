"""The reconstruction objective: how far predicted visual tokens are from real ones.

Letters: I images, n visual tokens of an image, k targets kept of each image, D hidden size.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from croc_cli.objectives.baseline import TargetSample, sample_targets
from croc_cli.objectives.settings import ObjectiveSettings

_NO_LENGTH = 1e-12
"""Product of two lengths below which their angle means nothing."""


class ReconstructionLoss(NamedTuple):
    """Sums over the images of a micro-batch; dividing by the images of a whole step gives the step's means.

    Args:
        total: Scalar float32, the weighted sum over images.
        targets: What the loss of predicting the mean target is computed from, once the step's mean is known.
    """

    total: Tensor
    targets: TargetSample


def reconstruction_loss_sum(
    predicted: Tensor,
    visual_tokens: Tensor,
    masked: Tensor,
    weight: Tensor,
    settings: ObjectiveSettings = ObjectiveSettings(),  # noqa: B008  (frozen)
) -> ReconstructionLoss:
    """Return the reconstruction loss (arXiv:2410.14332v3, Eq. 3), summed over images.

    With the defaults, an image's loss is mean_{i∈Θ} ‖h_i − sg(t_i)‖₂ / √D over its masked positions Θ, t_i the
    layer-normed visual token. The paper writes Σ ‖T_rv − T_v‖ and leaves norm, scale and gradient of the target open;
    taken literally (`raw`, `sum`, not `per_dimension`) the loss ends above that of predicting the mean token.

    Args:
        predicted: [I, n, D], hidden states at visual positions, through the head where there is one.
        visual_tokens: [I, n, D], visual tokens as they would have entered the LLM.
        masked: [I, n] bool, True at replaced positions.
        weight: [I], 1 for images that count, 0 for blanks.
        settings: How it is measured.

    Raises:
        ValueError: A setting has a value that it does not know.
    """
    wanted = normalise_targets(visual_tokens.float(), settings.target)
    if settings.stop_gradient:
        wanted = wanted.detach()
    counts = _in_scope(masked, settings.scope).float() * weight.float()[:, None]  # [I, n]
    distances = position_distances(predicted.float(), wanted, settings) * counts
    positions = (counts > 0).sum(dim=1).clamp(min=1)
    if settings.reduction == "sum":
        total, share = distances.sum(), torch.ones_like(positions, dtype=torch.float32)
    elif settings.reduction == "mean":
        total, share = (distances.sum(dim=1) / positions).sum(), 1 / positions
    else:
        raise ValueError(f"reduction is {settings.reduction!r}, expected mean or sum")
    return ReconstructionLoss(total, sample_targets(visual_tokens, wanted.detach(), counts, share))


def normalise_targets(tokens: Tensor, target: str) -> Tensor:
    """Return visual tokens as the objective wants them predicted; target: `raw`, `layer_norm` or `l2`."""
    if target == "raw":
        return tokens
    if target == "layer_norm":
        return F.layer_norm(tokens, tokens.shape[-1:])
    if target == "l2":
        return F.normalize(tokens, dim=-1)
    raise ValueError(f"target is {target!r}, expected raw, layer_norm or l2")


def mean_target_loss(mean: Tensor, sample: TargetSample, settings: ObjectiveSettings) -> Tensor:
    """Return the scalar sum over images of the loss that predicting `mean`, [D], everywhere would have given."""
    truth = normalise_targets(sample.kept.float(), settings.target)
    return (position_distances(mean.expand_as(truth), truth, settings) * sample.weight).sum()


def position_distances(guess: Tensor, truth: Tensor, settings: ObjectiveSettings) -> Tensor:
    """Return [I, n], the loss of each position."""
    if settings.loss == "l2":
        norms: Tensor = torch.linalg.vector_norm(guess - truth, dim=-1)
        return norms / math.sqrt(truth.shape[-1]) if settings.per_dimension else norms
    if settings.loss == "smooth_l1":
        elements = F.smooth_l1_loss(guess, truth, beta=settings.smooth_l1_beta, reduction="none")
        return elements.mean(dim=-1) if settings.per_dimension else elements.sum(dim=-1)
    if settings.loss == "cosine":
        return 1 - cosines(guess, truth)
    raise ValueError(f"loss is {settings.loss!r}, expected l2, smooth_l1 or cosine")


def cosines(guess: Tensor, truth: Tensor) -> Tensor:
    """Return [..., n], the cosine between [..., n, D] vectors; 0, without gradient, where one has no length.

    One minus it is the loss of VIRAL (arXiv:2509.07979) and MetaMorph (arXiv:2412.14164). torch's own has a gradient of
    10⁸ at a zero vector.
    """
    lengths = torch.linalg.vector_norm(guess, dim=-1) * torch.linalg.vector_norm(truth, dim=-1)
    cosine = (guess * truth).sum(dim=-1) / lengths.clamp(min=_NO_LENGTH)
    return torch.where(lengths > _NO_LENGTH, cosine, torch.zeros_like(cosine))


def _in_scope(masked: Tensor, scope: str) -> Tensor:
    if scope == "masked":
        return masked.bool()
    if scope == "all":
        return masked.new_ones(masked.shape).bool()
    raise ValueError(f"scope is {scope!r}, expected masked or all")
