"""A step's micro-batches, moved to the device; in stage 1.5 with their assignments begun before the first of them runs.

No weight changes within an optimizer step, so the visual tokens of all its micro-batches can be projected at its start,
and their assignments be solved on the host while the device works on the micro-batches before.
"""

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import NamedTuple

import torch

from croc_cli.data.micro_batch import MicroBatch
from croc_cli.model.assignment import PendingAssignment
from croc_cli.model.lmm import MultimodalModel


class Ready(NamedTuple):
    """A micro-batch that can run.

    Args:
        batch: On the device; with the features of a frozen vision tower in place of pixels where they are known.
        assignment: Its assignment, begun ahead; None where the forward pass begins it.
    """

    batch: MicroBatch
    assignment: PendingAssignment | None


def why_not_ahead(model: MultimodalModel, device: torch.device) -> str | None:
    """Return why a stage's assignments wait for their own micro-batches; None where they are begun ahead.

    A trained vision tower runs in the forward pass once more, since its features need a gradient there: on a GPU that
    takes less than the solver, on a CPU it takes more.
    """
    if device.type != "cuda" and any(weight.requires_grad for weight in model.llava.model.vision_tower.parameters()):
        return "the vision tower is trained, and would run twice on the CPU"
    return None


def make_ready(
    model: MultimodalModel,
    micro_batches: Sequence[MicroBatch],
    device: torch.device,
    *,
    ahead: bool,
    outside: AbstractContextManager[None] | None = None,
) -> Iterable[Ready]:
    """Return a step's micro-batches on the device, in order.

    Only the first of them waits for its assignment; the projections of the others keep the device busy meanwhile. A
    step of one micro-batch gains nothing from a pass ahead.

    Args:
        model: The model, with weights of the step.
        micro_batches: On the host.
        device: Where the model is.
        ahead: Whether assignments are to be begun ahead.
        outside: Entered while the model's parts run ahead, see `croc_cli.train.zero3.outside_forward`.
    """
    if not ahead or model.pool is None or len(micro_batches) < 2:
        return (Ready(batch.to(device), None) for batch in micro_batches)
    is_frozen = not any(weight.requires_grad for weight in model.llava.model.vision_tower.parameters())
    with outside or nullcontext():
        return [_begin(model, batch, device, keep_features=is_frozen) for batch in micro_batches]


def _begin(model: MultimodalModel, batch: MicroBatch, device: torch.device, *, keep_features: bool) -> Ready:
    there = batch.to(device)
    if batch.masked is None:
        return Ready(there, None)
    features, assignment = model.begin_assignment(
        there.pixel_values, batch.masked, batch.image_is_real, batch.image_rows
    )
    return Ready(replace(there, pixel_values=features) if keep_features else there, assignment)
