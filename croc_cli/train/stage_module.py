"""One forward pass of any stage: the model, then the objectives, as sums that a step can average.

Letters: S samples, K trained tokens, m masked visual tokens of an image.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from croc_cli.data.micro_batch import MicroBatch
from croc_cli.model.assignment import PendingAssignment
from croc_cli.model.lmm import MultimodalModel
from croc_cli.objectives.baseline import TargetSample
from croc_cli.objectives.caption import caption_losses
from croc_cli.objectives.reconstruction import reconstruction_loss_sum
from croc_cli.objectives.settings import ObjectiveSettings


@dataclass
class StageOutput:
    """Sums over one micro-batch; dividing by the counts of the whole step gives the step's means.

    Args:
        caption_sum: Scalar, cross-entropy summed over trained tokens.
        caption_by_sample: [S] float64, the same by sample; without gradient.
        reconstruction_sum: Scalar, reconstruction loss summed over real images.
        targets: What the same loss of predicting the step's mean visual token is computed from; None without the
            objective.
        assignment: [I, m] int64 on the CPU, pool tokens that took the masked places, -1 for blanks; None without a
            pool.
        assignment_cost_sum: Sum over real images of their mean distance to the assigned pool tokens.
        solver_seconds: Time that the assignment's solver took, added up over images.
        wait_seconds: Time that the host waited for it.
    """

    caption_sum: Tensor
    caption_by_sample: Tensor
    reconstruction_sum: Tensor
    targets: TargetSample | None
    assignment: Tensor | None
    assignment_cost_sum: float
    solver_seconds: float
    wait_seconds: float


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
        batch: MicroBatch,
        *,
        token_weight: Tensor,
        image_weight: Tensor,
        assignment: PendingAssignment | None = None,
    ) -> tuple[Tensor, StageOutput]:
        """Return the weighted loss of the micro-batch and its parts.

        Args:
            batch: The micro-batch, on the model's device.
            token_weight: Scalar, what the summed cross-entropy is multiplied by.
            image_weight: Scalar, what the summed reconstruction loss is multiplied by.
            assignment: The micro-batch's, where it was begun ahead.

        Returns:
            The scalar loss, and the sums it was made from.
        """
        output = self.model(
            input_ids=batch.input_ids,
            attention_mask=batch.attention_mask,
            labels=batch.labels,
            pixel_values=batch.pixel_values,
            image_is_real=batch.image_is_real,
            image_rows=batch.image_rows,
            masked=batch.masked,
            places=batch.places,
            packing=batch.packing,
            assignment=assignment,
        )
        losses = caption_losses(output.logits, output.labels)
        caption_sum = losses.sum()
        reconstruction_sum, targets = caption_sum.new_zeros(()), None
        if batch.masked is not None and self.objectives.reconstruction_weight > 0:
            reconstruction_sum, targets = reconstruction_loss_sum(
                output.visual_hidden, output.visual_targets, batch.masked, batch.image_is_real, self.objectives
            )
        weighted_caption = caption_sum * token_weight
        if self.objectives.caption_weight == 0:
            weighted_caption = weighted_caption * 0.0
        loss = weighted_caption + reconstruction_sum * image_weight + output.zero
        parts = StageOutput(
            caption_sum=caption_sum,
            caption_by_sample=_by_sample(losses.detach(), batch.places.samples, num_samples=len(batch.sample_ids)),
            reconstruction_sum=reconstruction_sum,
            targets=targets,
            assignment=output.assignment,
            assignment_cost_sum=output.assignment_cost_sum,
            solver_seconds=output.solver_seconds,
            wait_seconds=output.wait_seconds,
        )
        return loss, parts


def _by_sample(losses: Tensor, samples: Tensor, *, num_samples: int) -> Tensor:
    """Return [S], the sum of each sample's token losses; at least one, for a micro-batch without samples.

    In float64, so that the order in which a GPU adds is not seen.

    Args:
        losses: [K].
        samples: [K] int64, the sample of each.
        num_samples: S.
    """
    sums = torch.zeros(max(num_samples, 1), dtype=torch.float64, device=losses.device)
    return sums.index_add_(0, samples, losses.double())
