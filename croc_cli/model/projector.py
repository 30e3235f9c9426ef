"""The projector's first weights: torch's own, or fitted to the pictures and captions that it will be trained on.

Letters: I images, n features of each, K features in all, D_v the vision tower's hidden size, H the projector's inner
size, D the LLM's, V words of its vocabulary.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from transformers import LlavaConfig
from transformers.models.llava.modeling_llava import LlavaMultiModalProjector

_PICTURES_PER_DIMENSION = 20
"""Pictures that the fit looks at for each of the H dimensions that it weighs; on nano, 10 left a fifth more loss."""
_FEATURES_PER_DIMENSION = 64
"""Features that whitening looks at for each of the tower's dimensions: most of a picture's are ground, much alike."""
_LEAST_VARIANCE = 1e-3
"""Of a direction of the features, as a share of the mean one: what hardly varies is noise, and stays small."""
_RIDGE = 0.03
"""Of the fit, as a share of the mean variance of what it weighs."""
_LENGTH = 0.5
"""Length of the first visual tokens beside word embeddings; of 0.25, 0.5 and 1, nano learned fastest from it."""
_NO_LENGTH = 1e-6
"""Of the fit's own tokens beside word embeddings: what rounding leaves where captions tell nothing."""


@dataclass(frozen=True)
class CaptionedPictures:
    """Some pictures and what is said about them.

    Attributes:
        pixel_values: [I, 3, height, width].
        captions: Token ids of each picture's caption; I lists.
    """

    pixel_values: Tensor
    captions: Sequence[Sequence[int]]


def new_projector(config: LlavaConfig, seed: int) -> nn.Module:
    """Return a projector with torch's own first weights, as LLaVA's code has them; they follow from `seed`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        projector: nn.Module = LlavaMultiModalProjector(config)
        return projector


def projector_inputs(llava: Any, pixel_values: Tensor) -> Tensor:
    """Return what enters the projector for some pictures, [I, n, D_v]: n features of each of I.

    Args:
        llava: A stock LLaVA.
        pixel_values: [I, 3, height, width].
    """
    caught: list[Tensor] = []
    projector = llava.model.multi_modal_projector
    handle = projector.register_forward_pre_hook(lambda _module, inputs: caught.append(inputs[0]))
    try:
        llava.get_image_features(pixel_values.to(llava.dtype))
    finally:
        handle.remove()
    return caught[0]


def num_fitting_pictures(projector: Any) -> int:
    """Return how many pictures `fit_to_captions` is best given."""
    return _PICTURES_PER_DIMENSION * int(projector.linear_1.out_features)


@torch.no_grad()
def fit_to_captions(llava: Any, batches: Iterable[CaptionedPictures], *, seed: int) -> None:
    """Give a LLaVA's projector first weights by a closed-form fit to pictures and captions like those to come.

    A tower's features share a large mean and vary along some directions far more than along others; gradient descent
    learns what varies little last, or never. So the first layer takes the mean out and gives each direction the same
    variance (LeCun et al., Efficient BackProp, 1998, section 4.3), before random weights mix them. The second layer is
    a ridge regression: the sum of a picture's visual tokens is to be near the sum of the embeddings of its caption's
    words. That finds which features go with which words and nothing about their order; training then starts with
    visual tokens that the LLM can read a little of, not with noise that it first learns to look past.

    Args:
        llava: A stock LLaVA; its projector is changed in place.
        batches: Pictures with captions, `num_fitting_pictures` in all; with fewer the fit is less good.
        seed: Decides the random weights of the first layer.

    Raises:
        ValueError: There are too few features, or they do not vary.
    """
    projector, words = llava.model.multi_modal_projector, llava.get_input_embeddings().weight.double()
    described = ((projector_inputs(llava, batch.pixel_values), batch.captions) for batch in batches)
    seen: list[tuple[Tensor, Sequence[Sequence[int]]]] = []
    needed = _FEATURES_PER_DIMENSION * projector.linear_1.in_features
    for features, captions in described:
        seen.append((features, captions))
        if sum(features.shape[0] * features.shape[1] for features, _ in seen) >= needed:
            break
    whiten(projector, torch.cat([features.flatten(0, 1) for features, _ in seen]), seed=seed)
    each, sums, towards_words = _Moments(), _Moments(), _Moments()
    for features, captions in chain(seen, described):
        inner = projector.act(projector.linear_1(features)).double()
        shown, said = inner.sum(dim=1), torch.stack([words[list(ids)].sum(dim=0) for ids in captions])
        each.add(inner.flatten(0, 1), inner.flatten(0, 1))
        sums.add(shown, shown)
        towards_words.add(shown, said)
    variance = sums.covariance
    ridge = _RIDGE * variance.diagonal().mean() * torch.eye(len(variance), dtype=torch.float64)
    weight = torch.linalg.solve(variance + ridge, towards_words.covariance).T
    length = (weight * (weight @ each.covariance)).sum().div(len(weight)).sqrt()
    if not float(length / words.square().mean().sqrt()) > _NO_LENGTH:
        raise ValueError("the captions do not vary with the pictures")
    weight *= _LENGTH * words.square().mean().sqrt() / length
    _set(projector.linear_2, weight, -weight @ each.mean)


@torch.no_grad()
def whiten(projector: Any, features: Tensor, *, seed: int) -> None:
    """Give a projector's first layer random weights over whitened features.

    Args:
        projector: A `LlavaMultiModalProjector`; changed in place.
        features: [K, D_v], of pictures like those to come; K well above D_v.
        seed: Decides the random weights.

    Raises:
        ValueError: There are too few features, or they do not vary.
    """
    if len(features) <= features.shape[1]:
        raise ValueError(f"{len(features)} features are too few to whiten {features.shape[1]} dimensions")
    features = features.double()
    mean = features.mean(dim=0)
    variances, directions = torch.linalg.eigh((features - mean).T.cov())
    if not float(variances.max()) > 0:
        raise ValueError("the features do not vary")
    floor = _LEAST_VARIANCE * variances.mean()
    whitening = directions @ torch.diag((variances.clamp(min=0) + floor).rsqrt()) @ directions.T
    like = projector.linear_1.weight
    drawn = torch.randn(like.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    weight = drawn / math.sqrt(like.shape[1]) @ whitening  # the division keeps the variance of what passes through
    _set(projector.linear_1, weight, -weight @ mean)


class _Moments:
    """Mean and covariance of pairs of vectors that come in batches, none of which is kept."""

    def __init__(self) -> None:
        self._count = 0
        self._sums: list[Tensor] | None = None

    def add(self, left: Tensor, right: Tensor) -> None:
        """Take in pairs [N, A] and [N, B] float64."""
        new = [left.sum(dim=0), right.sum(dim=0), left.T @ right]
        self._sums = new if self._sums is None else [old + more for old, more in zip(self._sums, new, strict=True)]
        self._count += len(left)

    @property
    def mean(self) -> Tensor:
        """Of the left vectors, [A]."""
        assert self._sums is not None
        return self._sums[0] / self._count

    @property
    def covariance(self) -> Tensor:
        """Of the left vectors with the right ones, [A, B]."""
        assert self._sums is not None
        left, right, products = (total / self._count for total in self._sums)
        return products - torch.outer(left, right)


def _set(linear: nn.Linear, weight: Tensor, bias: Tensor) -> None:
    linear.weight.copy_(weight)
    linear.bias.copy_(bias)
