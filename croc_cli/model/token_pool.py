"""The learnable tokens that stand in for masked visual tokens in stage 1.5, and what they start from.

Letters: I images, n visual tokens of an image, m masked ones, N pool tokens, D hidden size, K calibration tokens.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from croc_cli.model.assignment import PendingAssignment, begin_assignment
from croc_cli.model.transfers import to_device


class Replacement(NamedTuple):
    """What the pool did to the visual tokens of a micro-batch.

    Args:
        tokens: [I, n, D], the visual tokens with pool tokens at masked positions.
        assignment: [I, m] int64 on the CPU, the pool token of each masked position in order; -1 where there is
            none: images that are not real have no assignment.
        cost_sum: Sum over real images of the mean distance between masked tokens and their pool tokens.
        solver_seconds: Time that the solver took, added up over images.
        wait_seconds: Time that the host waited for it.
    """

    tokens: Tensor
    assignment: Tensor
    cost_sum: float
    solver_seconds: float
    wait_seconds: float


class TokenPool(nn.Module):
    """N learnable tokens, of which each masked visual token gets one (arXiv:2410.14332v3, section 3.2).

    Args:
        num_tokens: N.
        dim: D, the LLM's hidden size.
        solver_threads: Threads that solve assignments; None for as many as torch has.
    """

    def __init__(self, num_tokens: int, dim: int, *, solver_threads: int | None = None) -> None:
        super().__init__()
        self.num_tokens = num_tokens
        self.solver_threads = solver_threads or torch.get_num_threads()
        self.weight = nn.Parameter(torch.zeros(num_tokens, dim))

    def begin(
        self,
        visual_tokens: Tensor,
        masked: Tensor,
        image_is_real: Tensor,
        *,
        matching: str = "hungarian",
        sharing: Tensor | None = None,
    ) -> PendingAssignment:
        """Have pool tokens assigned to the masked visual tokens; `weight` must be whole here, as it is in `forward`.

        Args:
            visual_tokens: [I, n, D].
            masked: [I, n] bool, True at positions to replace; on the host, else the host waits for it.
            image_is_real: [I] bool, likewise.
            matching: `hungarian` or `nearest`, see `croc_cli.model.assignment.begin_assignment`.
            sharing: [I] int64, images of one number share one assignment; None for each on its own.
        """
        return begin_assignment(
            visual_tokens,
            self.weight,
            masked,
            image_is_real,
            method=matching,
            num_threads=self.solver_threads,
            sharing=sharing,
        )

    def forward(
        self,
        visual_tokens: Tensor,
        masked: Tensor,
        image_is_real: Tensor,
        *,
        matching: str = "hungarian",
        sharing: Tensor | None = None,
        assignment: PendingAssignment | None = None,
    ) -> Replacement:
        """Replace the masked visual tokens by pool tokens.

        Gradients reach the pool through the gather and the projector through the tokens that stay; the assignment has
        none.

        Args:
            visual_tokens: [I, n, D].
            masked: [I, n] bool, True at positions to replace.
            image_is_real: [I] bool; blanks take pool tokens in turn, without a search.
            matching: `hungarian` or `nearest`.
            sharing: As for `begin`.
            assignment: What `begin` returned for the same tokens and weights; None begins it here and waits for it.
        """
        if assignment is None:
            assignment = self.begin(visual_tokens, masked, image_is_real, matching=matching, sharing=sharing)
        found = assignment.result()
        pool_tokens = F.embedding(to_device(found.places, self.weight.device), self.weight)
        tokens = visual_tokens.masked_scatter(masked[..., None], pool_tokens.to(visual_tokens.dtype))
        # masked_scatter with nothing masked still hands the pool a gradient of zeros, so every rank has one
        return Replacement(tokens, found.by_image, found.cost_sum, found.solver_seconds, found.wait_seconds)


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
