"""The projector's first weights: torch's own, or made for the features that will enter it.

Letters: I images, n features of each, K features in all, D_v the vision tower's hidden size, D the LLM's.
"""

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from transformers import LlavaConfig
from transformers.models.llava.modeling_llava import LlavaMultiModalProjector

FEATURES_PER_DIMENSION = 64
"""Features that whitening looks at, for each dimension of the tower: most of a picture's are ground, much alike."""
_RIDGE = 1e-3
"""Least variance of a direction, as a share of the mean one: what hardly varies is noise, and stays small."""


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
        pixel_values: [I, 3, H, W].
    """
    caught: list[Tensor] = []
    projector = llava.model.multi_modal_projector
    handle = projector.register_forward_pre_hook(lambda _module, inputs: caught.append(inputs[0]))
    try:
        llava.get_image_features(pixel_values.to(llava.dtype))
    finally:
        handle.remove()
    return caught[0]


def num_whitening_pictures(num_dimensions: int, num_visual_tokens: int) -> int:
    """Return how many pictures whitening looks at.

    Args:
        num_dimensions: D_v.
        num_visual_tokens: n, features of a picture.
    """
    return math.ceil(FEATURES_PER_DIMENSION * num_dimensions / num_visual_tokens)


@torch.no_grad()
def whiten_for(llava: Any, batches: Iterable[Tensor], *, seed: int) -> None:
    """Give a LLaVA's projector first weights for pictures [b, 3, H, W] like those to come; see `whiten`."""
    features = torch.cat([projector_inputs(llava, pixels).flatten(0, -2).float() for pixels in batches])
    whiten(llava.model.multi_modal_projector, features, llava.get_input_embeddings().weight, seed=seed)


@torch.no_grad()
def whiten(projector: Any, features: Tensor, words: Tensor, *, seed: int) -> None:
    """Give a projector first weights that suit what enters it and what it is to stand beside.

    A tower's features share a large mean and vary along some directions far more than along others; gradient descent
    learns what varies little last, or never. So the first layer takes the mean out and gives each direction the same
    variance (LeCun et al., Efficient BackProp, 1998, section 4.3), before random weights mix them. The second layer's
    tokens have no mean either, and over these features they are as long as word embeddings (layers scaled by data:
    Krähenbühl et al., arXiv:1511.06856).

    Args:
        projector: A `LlavaMultiModalProjector`; changed in place.
        features: [K, D_v], of pictures like those to come; K well above D_v.
        words: [V, D], the LLM's word embeddings.
        seed: Decides the random weights.

    Raises:
        ValueError: There are too few features, or they do not vary.
    """
    if len(features) <= features.shape[1]:
        raise ValueError(f"{len(features)} features are too few to whiten {features.shape[1]} dimensions")
    features, words = features.double(), words.double()
    mean = features.mean(dim=0)
    variances, directions = torch.linalg.eigh((features - mean).T.cov())
    if not float(variances.max()) > 0:
        raise ValueError("the features do not vary")
    floor = _RIDGE * variances.mean()
    whitening = directions @ torch.diag((variances.clamp(min=0) + floor).rsqrt()) @ directions.T
    generator = torch.Generator().manual_seed(seed)
    first, second = projector.linear_1, projector.linear_2
    weight = _normal(first.weight, generator) @ whitening
    _set(first, weight, -weight @ mean)
    inner = projector.act(features @ weight.T - weight @ mean)
    inner_mean = inner.mean(dim=0)
    weight = _normal(second.weight, generator)
    weight *= words.square().mean().sqrt() / ((inner - inner_mean) @ weight.T).square().mean().sqrt()
    _set(second, weight, -weight @ inner_mean)


def _normal(like: Tensor, generator: torch.Generator) -> Tensor:
    """Return random weights [out, in] float64 that keep the variance of what passes through them."""
    return torch.randn(like.shape, generator=generator, dtype=torch.float64) / math.sqrt(like.shape[1])


def _set(linear: nn.Linear, weight: Tensor, bias: Tensor) -> None:
    linear.weight.copy_(weight)
    linear.bias.copy_(bias)
