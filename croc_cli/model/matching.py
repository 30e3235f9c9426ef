"""Which pool token takes the place of which masked visual token: costs, and the assignment over them.

Letters: m masked tokens of an image, N pool tokens, D hidden size.
"""

import numpy as np
import numpy.typing as npt
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

MATCHINGS = ("hungarian", "nearest")


def pairwise_cost(tokens: Tensor, pool: Tensor) -> Tensor:
    """Return C_ij = ‖token i − pool token j‖₂ (arXiv:2410.14332v3, Eq. 2), without gradient.

    Both sides are first moved by the pool's mean, which leaves distances as they are and keeps the fast form
    ‖a‖² − 2ab + ‖b‖² from cancelling where all tokens share a large common part, as visual tokens do.

    Args:
        tokens: [m, D], any float dtype.
        pool: [N, D], any float dtype.

    Returns:
        [m, N] float32.
    """
    with torch.no_grad():
        pool = pool.float()
        centre = pool.mean(dim=0)
        return torch.cdist(tokens.float() - centre, pool - centre)


def assign(cost: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]:
    """Choose a pool token for each masked token at the least total cost (arXiv:2410.14332v3, section 3.2).

    Each pool token is used at most ceil(m / N) times: once in the usual case of m ≤ N. The paper pads the masked tokens
    with ∅ to N; that adds rows of zero cost only, so this rectangular problem is the same.

    Args:
        cost: [m, N] float32. Where it is not finite no assignment means anything, and pool tokens are taken in turn, so
            that a diverging run gets as far as its loss, where it is noticed.

    Returns:
        [m] int64, a pool token for each masked token.
    """
    num_masked, num_pool = cost.shape
    if num_pool == 1 or num_masked == 0:
        return np.zeros(num_masked, dtype=np.int64)
    if not np.isfinite(cost).all():
        return np.asarray(np.arange(num_masked) % num_pool, dtype=np.int64)
    uses = -(-num_masked // num_pool)
    _, columns = linear_sum_assignment(np.tile(cost, (1, uses)) if uses > 1 else cost)
    return np.asarray(columns % num_pool, dtype=np.int64)


def check_matching(method: str) -> None:
    """Raise ValueError unless `method` is a way to match."""
    if method not in MATCHINGS:
        raise ValueError(f"matching is {method!r}, expected one of {', '.join(MATCHINGS)}")
