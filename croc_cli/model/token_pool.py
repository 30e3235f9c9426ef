"""The learnable tokens that stand in for masked visual tokens in stage 1.5, and what they start from.

Letters: I images, n visual tokens of an image, m masked ones, N pool tokens, D hidden size, K calibration tokens.
"""

import time
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from croc_cli.model.matching import assign_images, pairwise_cost


class Replacement(NamedTuple):
    """What the pool did to the visual tokens of a micro-batch.

    Args:
        tokens: [I, n, D], the visual tokens with pool tokens at masked positions.
        assignment: [I, m] int64 on the CPU, the pool token of each masked position in order; -1 where there is
            none: images that are not real have no assignment.
        cost_sum: Sum over real images of the mean distance between masked tokens and their pool tokens.
        seconds: Time that costs and assignment took.
    """

    tokens: Tensor
    assignment: Tensor
    cost_sum: float
    seconds: float


class TokenPool(nn.Module):
    """N learnable tokens, of which each masked visual token gets one (arXiv:2410.14332v3, section 3.2).

    Costs, assignment and gather all happen in `forward`: under ZeRO-3 `weight` is whole only there.

    Args:
        num_tokens: N.
        dim: D, the LLM's hidden size.
    """

    def __init__(self, num_tokens: int, dim: int) -> None:
        super().__init__()
        self.num_tokens = num_tokens
        self.weight = nn.Parameter(torch.zeros(num_tokens, dim))

    def forward(
        self, visual_tokens: Tensor, masked: Tensor, image_is_real: Tensor, *, matching: str = "hungarian"
    ) -> Replacement:
        """Replace the masked visual tokens by pool tokens.

        Gradients reach the pool through the gather and the projector through the tokens that stay; the assignment has
        none.

        Args:
            visual_tokens: [I, n, D].
            masked: [I, n] bool, True at positions to replace. Real images have the same number m of them.
            image_is_real: [I] bool; blanks take pool tokens in turn, without a search.
            matching: `hungarian` or `nearest`, see `croc_cli.model.matching.assign_images`.
        """
        started = _now(visual_tokens.device)
        rows = [positions.nonzero().squeeze(1) for positions in masked.cpu()]
        real = [index for index, is_real in enumerate(image_is_real.tolist()) if is_real]
        costs = [
            pairwise_cost(visual_tokens[index, rows[index].to(visual_tokens.device)], self.weight) for index in real
        ]
        found = dict(zip(real, assign_images(costs, method=matching), strict=True))
        taken = [cost.gather(1, found[index].to(cost.device)[:, None]) for index, cost in zip(real, costs, strict=True)]
        cost_sum = sum(float(distances.mean()) for distances in taken if distances.numel())
        seconds = _now(visual_tokens.device) - started

        num_pool, num_masked = len(self.weight), max((len(rows[index]) for index in real), default=0)
        assignment = torch.full((len(rows), num_masked), -1)
        for index in real:
            assignment[index, : len(found[index])] = found[index]
        indices = torch.cat([found.get(index, torch.arange(len(row)) % num_pool) for index, row in enumerate(rows)])
        pool_tokens = F.embedding(indices.to(self.weight.device), self.weight)
        tokens = visual_tokens.masked_scatter(masked[..., None], pool_tokens.to(visual_tokens.dtype))
        # masked_scatter with nothing masked still hands the pool a gradient of zeros, so every rank has one
        return Replacement(tokens=tokens, assignment=assignment, cost_sum=cost_sum, seconds=seconds)


def _now(device: torch.device) -> float:
    """Return the clock in seconds, after everything queued on `device` is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


@torch.no_grad()
def initialise_pool(
    weight: Tensor, visual_tokens: Tensor | None, method: str, generator: torch.Generator | None = None
) -> None:
    """Fill the pool before stage 1.5 starts.

    The paper does not say how. Pool tokens far from real ones all lose to the few that lie nearest, so the default is
    real tokens; what the other ways cost is in the README.

    Args:
        weight: [N, D], filled in place.
        visual_tokens: [K, D], projected tokens of calibration images; None is enough for `normal`.
        method: `sampled` takes N distinct tokens (all of them, and then some again, where there are fewer); `normal`
            draws from N(0, 1), as the released code does; `moments` from each dimension's mean and spread;
            `covariance` from the mean and the full covariance.
        generator: A CPU generator, the only source of randomness.

    Raises:
        ValueError: Unknown `method`, or one that needs visual tokens and got none.
    """
    num_tokens, dim = weight.shape
    if method == "normal":
        weight.copy_(torch.randn(num_tokens, dim, generator=generator))
        return
    if method not in ("sampled", "moments", "covariance"):
        raise ValueError(f"pool initialisation is {method!r}, expected sampled, normal, moments or covariance")
    if visual_tokens is None or len(visual_tokens) == 0:
        raise ValueError(f"pool initialisation {method!r} needs visual tokens, and there are none")
    real = visual_tokens.float().cpu()
    if method == "sampled":
        distinct = torch.unique(real, dim=0)
        order = torch.randperm(len(distinct), generator=generator)
        repeats = -(-num_tokens // len(distinct))
        weight.copy_(distinct[order.repeat(repeats)[:num_tokens]])
        return
    mean = real.mean(dim=0)
    if method == "moments":
        noise = torch.randn(num_tokens, dim, generator=generator)
        weight.copy_(mean + noise * real.std(dim=0, correction=0))
        return
    # noise · X / √K has the covariance XᵀX / K exactly, and needs no D × D matrix
    noise = torch.randn(num_tokens, len(real), generator=generator)
    weight.copy_(mean + noise @ (real - mean) / len(real) ** 0.5)
