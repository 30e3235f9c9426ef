"""One forward pass of any stage: the model, then the objectives, as sums that a step can average.

Letters: B samples, T tokens of a sequence, I images, n visual tokens of an image, m masked ones, D hidden size.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from croc_cli.model.lmm import MultimodalModel
from croc_cli.objectives.caption import caption_loss_sum
from croc_cli.objectives.reconstruction import reconstruction_loss_sum


@dataclass(frozen=True)
class ObjectiveSettings:
    """What is minimised: the weights of Eq. 5, and how reconstruction is measured (Eq. 3).

    Args:
        caption_weight: Weight of the caption objective; 0 leaves it out.
        reconstruction_weight: α; 0 leaves reconstruction out.
        target: `raw`, `layer_norm` or `l2`: what is done to the projected tokens that are to be predicted.
        loss: `l2` or `smooth_l1`.
        smooth_l1_beta: β of the smooth L1 loss.
        per_dimension: Divide the L2 norm by √D.
        reduction: `mean` or `sum` over an image's positions.
        scope: `masked` or `all` positions of an image.
        stop_gradient: Keep gradients out of the targets.
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


@dataclass
class StageOutput:
    """Sums over one micro-batch; dividing by the counts of the whole step gives the step's means.

    Args:
        caption_sum: Scalar, cross-entropy summed over trained tokens.
        reconstruction_sum: Scalar, reconstruction loss summed over real images.
        baseline_sum: Scalar without gradient, the same loss of predicting the mean visual token.
        assignment: [I_real, m] int64, pool tokens that took the masked places of real images; None without a pool.
        assignment_cost_sum: Sum over real images of their mean distance to the assigned pool tokens.
        assignment_seconds: Time the assignment took.
    """

    caption_sum: Tensor
    reconstruction_sum: Tensor
    baseline_sum: Tensor
    assignment: Tensor | None
    assignment_cost_sum: float
    assignment_seconds: float


class StageModule(nn.Module):
    """What the DeepSpeed engine wraps: `model` with the objectives of its stage on top.

    Args:
        model: The multimodal model, with pool and head where the stage has them.
        objectives: What is minimised.
    """

    def __init__(self, model: MultimodalModel, objectives: ObjectiveSettings) -> None:
        super().__init__()
        self.model = model
        self.objectives = objectives

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        labels: Tensor,
        pixel_values: Tensor,
        image_is_real: Tensor,
        image_rows: Tensor,
        masked: Tensor | None,
        token_weight: Tensor,
        image_weight: Tensor,
    ) -> tuple[Tensor, StageOutput]:
        """Return the weighted loss of the micro-batch and its parts.

        Args:
            input_ids: [B, T] int64.
            attention_mask: [B, T] int64, 0 where the sequence is filled up.
            labels: [B, T] int64, -100 where nothing is trained.
            pixel_values: [I, 3, H, W].
            image_is_real: [I] bool, False for blanks that add nothing.
            image_rows: [I] int64, the row each image belongs to, -1 for a blank without a place.
            masked: [I, n] bool, the visual tokens to replace; None in stages without a pool.
            token_weight: Scalar, what the summed cross-entropy is multiplied by.
            image_weight: Scalar, what the summed reconstruction loss is multiplied by.

        Returns:
            The scalar loss, and the sums it was made from.
        """
        output = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            labels=labels,
            pixel_values=pixel_values,
            image_is_real=image_is_real,
            image_rows=image_rows,
            masked=masked,
        )
        settings = self.objectives
        caption_sum = caption_loss_sum(output.logits, output.labels)
        real = image_is_real.to(torch.float32)
        if masked is not None and settings.reconstruction_weight > 0:
            reconstruction_sum, baseline_sum, _ = reconstruction_loss_sum(
                output.visual_hidden,
                output.visual_targets,
                masked,
                real,
                target=settings.target,
                loss=settings.loss,
                beta=settings.smooth_l1_beta,
                per_dimension=settings.per_dimension,
                reduction=settings.reduction,
                scope=settings.scope,
                stop_gradient=settings.stop_gradient,
            )
        else:
            reconstruction_sum = baseline_sum = caption_sum.new_zeros(())
        weighted_caption = caption_sum * token_weight
        if settings.caption_weight == 0:
            weighted_caption = weighted_caption * 0.0
        loss = weighted_caption + reconstruction_sum * image_weight + output.zero
        parts = StageOutput(
            caption_sum=caption_sum,
            reconstruction_sum=reconstruction_sum,
            baseline_sum=baseline_sum.detach(),
            assignment=None if output.assignment is None else output.assignment[image_is_real.cpu()],
            assignment_cost_sum=output.assignment_cost_sum,
            assignment_seconds=output.assignment_seconds,
        )
        return loss, parts
