"""What a step's micro-batches multiply their summed losses by, so that what is left are means."""

from dataclasses import dataclass

import torch
from torch import Tensor

from croc_cli.data.micro_batch import MicroBatch
from croc_cli.objectives.settings import ObjectiveSettings
from croc_cli.train.step_report import StepCounts


@dataclass(frozen=True)
class LossWeights:
    """The weights of one step.

    Args:
        objectives: The objectives' own weights.
        counts: What the step holds.
        per_micro_batch: Each micro-batch's losses are means over its own tokens and images, and the step's are the mean
            of these, as in LLaVA's code under transformers' Trainer; otherwise they are means over the step's tokens
            and images, whatever micro-batch they are in.
        device: Where they are needed.
    """

    objectives: ObjectiveSettings
    counts: StepCounts
    per_micro_batch: bool
    device: torch.device

    def of(self, batch: MicroBatch, *, scale: int = 1) -> dict[str, Tensor]:
        """Return `token_weight` and `image_weight` of a micro-batch; each objective's share of the step's mean.

        Args:
            batch: The micro-batch, on the host.
            scale: What an engine divides its sum over micro-batches and ranks by.
        """
        tokens, images = self.counts.trained_tokens, self.counts.images
        if self.per_micro_batch:
            tokens = batch.num_trained_tokens * self.counts.micro_batches
            images = int(batch.image_is_real.sum()) * self.counts.micro_batches
        weights = {
            "token_weight": self.objectives.caption_weight * scale / max(tokens, 1),
            "image_weight": self.objectives.reconstruction_weight * scale / max(images, 1),
        }
        return {name: torch.full((), weight, device=self.device) for name, weight in weights.items()}
