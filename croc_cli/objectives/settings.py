"""What a stage minimises: the weights of the two objectives, and how reconstruction is measured."""

from dataclasses import dataclass


@dataclass(frozen=True)
class ObjectiveSettings:
    """The weights of Eq. 5 (arXiv:2410.14332v3), and how reconstruction is measured (Eq. 3).

    The recipe's sections `objectives` and `reconstruction` have the same keys.

    Args:
        caption_weight: Weight of the caption objective; 0 leaves it out.
        reconstruction_weight: α; 0 leaves reconstruction out.
        target: What is done to the projected tokens that are to be predicted: `raw`, `layer_norm` (no affine) or `l2`
            (unit length).
        loss: `l2`, the norm of the difference; `smooth_l1`; or `cosine`, one minus the cosine of the angle.
        smooth_l1_beta: β, where smooth L1 turns from square to linear.
        per_dimension: `l2` is divided by √D; `smooth_l1` is a mean over D, else a sum.
        reduction: `mean` or `sum` over an image's positions.
        scope: `masked` positions, or `all`.
        stop_gradient: Keep gradients out of the targets.
        layer: Hidden state of the LLM that predicts, see `croc_cli.model.lmm`; here only noted.
    """

    caption_weight: float = 1.0
    reconstruction_weight: float = 0.0
    target: str = "layer_norm"
    loss: str = "l2"
    smooth_l1_beta: float = 0.01
    per_dimension: bool = True
    reduction: str = "mean"
    scope: str = "masked"
    stop_gradient: bool = True
    layer: int = -1
