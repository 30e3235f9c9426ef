"""The caption objective."""

import math

import pytest
import torch

from croc_cli.objectives.caption import caption_loss_sum


def test_it_is_the_sum_of_the_cross_entropies() -> None:
    logits = torch.tensor([[math.log(3.0), 0.0], [0.0, 0.0]])  # probabilities 3/4, 1/4 and 1/2, 1/2
    loss = caption_loss_sum(logits, torch.tensor([0, 1]))
    assert loss.item() == pytest.approx(-math.log(3 / 4) - math.log(1 / 2))


def test_a_row_without_label_adds_nothing_but_has_a_gradient() -> None:
    logits = torch.zeros(1, 5, requires_grad=True)
    loss = caption_loss_sum(logits, torch.tensor([-100]))
    loss.backward()
    assert loss.item() == 0
    assert logits.grad is not None
    assert logits.grad.abs().max() == 0


def test_low_precision_logits_are_summed_in_float32() -> None:
    logits = torch.zeros(1000, 5, dtype=torch.bfloat16)
    loss = caption_loss_sum(logits, torch.zeros(1000, dtype=torch.long))
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(1000 * math.log(5), rel=1e-5)
