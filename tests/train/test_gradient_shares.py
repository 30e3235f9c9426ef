"""The gradient norms of each objective, and the sketch that they are read from."""

import pytest
import torch
from torch import nn

from croc_cli.train.gradient_shares import BUCKETS, GradientSketch

CPU = torch.device("cpu")


def test_a_small_gradient_is_kept_exactly_and_added_up() -> None:
    weight = nn.Parameter(torch.tensor([1.0, 2.0]))
    sketch = GradientSketch([weight], CPU)
    with sketch:
        for factor in (1.0, 2.0):
            [seen] = torch.autograd.grad((weight * torch.tensor([3.0, 4.0]) * factor).sum(), [weight])
            assert seen.tolist() == [0, 0], "autograd keeps nothing"
    assert sketch.norm_over_ranks() == pytest.approx(15.0)  # 3 · (3, 4)


def test_after_the_measurement_gradients_are_whole_again() -> None:
    weight = nn.Parameter(torch.ones(3))
    with GradientSketch([weight], CPU):
        pass
    weight.sum().backward()
    assert weight.grad is not None
    assert weight.grad.tolist() == [1, 1, 1]


def test_of_a_large_gradient_the_norm_is_known_within_a_percent() -> None:
    shape = (300, 1000)
    assert shape[0] * shape[1] > 4 * BUCKETS
    # of low rank and one sign, as gradients of a matrix are: without signs of their own numbers would add up
    gradient = torch.rand(shape[0], 1) @ torch.rand(1, shape[1])
    sketch = GradientSketch([nn.Parameter(torch.zeros(shape))], CPU)
    sketch.add(0, gradient / 2)
    sketch.add(0, gradient / 2)
    assert sketch.norm_over_ranks() == pytest.approx(gradient.norm().item(), rel=0.01)
