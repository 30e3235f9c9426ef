"""Means over a step, and means of micro-batches' means."""

import pytest
import torch

from croc_cli.data.micro_batch import MicroBatch
from croc_cli.data.places import find_places
from croc_cli.objectives.settings import ObjectiveSettings
from croc_cli.train.loss_weights import LossWeights
from croc_cli.train.step_report import StepCounts

CPU = torch.device("cpu")
OBJECTIVES = ObjectiveSettings(caption_weight=2.0, reconstruction_weight=10.0)


def micro_batch(num_labels: int, num_images: int, *, num_samples: int = 1) -> MicroBatch:
    """Return a micro-batch of one row, whose first label never counts."""
    labels = torch.full((1, 8), -100)
    labels[0, : num_labels + 1] = 5
    rows = torch.tensor([-1])
    return MicroBatch(
        input_ids=labels.clamp(min=0),
        places=find_places(labels.clamp(min=0), labels, rows, image_token_id=99, num_visual_tokens=1),
        labels=labels,
        attention_mask=torch.ones_like(labels),
        pixel_values=torch.zeros(max(num_images, 1), 3, 2, 2),
        image_is_real=torch.tensor([True] * num_images or [False]),
        image_rows=torch.zeros(max(num_images, 1), dtype=torch.int64),
        masked=None,
        sample_ids=["a"] * num_samples,
        sources=["s"] * num_samples,
        num_images=[num_images] * num_samples,
        num_samples=num_samples,
        num_truncated=0,
        num_dropped=0,
        bad_images=[],
    )


def test_micro_batches_weigh_by_what_they_hold_or_each_the_same() -> None:
    batches = [micro_batch(6, 2), micro_batch(2, 0), micro_batch(0, 0, num_samples=0)]
    counts = StepCounts.over_ranks(batches, loading_seconds=0, stop=False, save_failed=False, device=CPU)
    assert (counts.trained_tokens, counts.images, counts.micro_batches) == (8, 2, 2)
    whole, each = (LossWeights(OBJECTIVES, counts, own, CPU) for own in (False, True))

    def weights(of: LossWeights, scale: int = 1) -> list[tuple[float, float]]:
        found = [of.of(batch, scale=scale) for batch in batches[:2]]
        return [(own["token_weight"].item(), own["image_weight"].item()) for own in found]

    assert weights(whole) == [(2 / 8, 10 / 2)] * 2
    # 2 · the mean of two means: a half of each; the micro-batch without an image brings a reconstruction of zero
    first, second = weights(each)
    assert first == pytest.approx((2 / 2 / 6, 10 / 2 / 2))
    assert second[0] == pytest.approx(2 / 2 / 2)
    assert weights(each, scale=3)[0] == pytest.approx((3 * first[0], 3 * first[1]))


def test_alike_micro_batches_give_the_same_either_way() -> None:
    batches = [micro_batch(4, 1), micro_batch(4, 1)]
    counts = StepCounts.over_ranks(batches, loading_seconds=0, stop=False, save_failed=False, device=CPU)
    for batch in batches:
        one, other = (LossWeights(OBJECTIVES, counts, own, CPU).of(batch, scale=2) for own in (False, True))
        assert one == other
