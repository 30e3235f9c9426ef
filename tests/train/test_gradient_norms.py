from types import SimpleNamespace

import torch
from torch import nn

from croc_cli.train.gradient_norms import GradientNorms
from croc_cli.train.optimizer import SkippingAdamW


def test_norms_are_those_of_groups_before_clipping_and_none_of_a_skipped_step() -> None:
    weights = [nn.Parameter(torch.zeros(2)) for _ in range(4)]
    names = ("vision_tower", "vision_tower", "llm", "llm")
    optimizer = SkippingAdamW(
        [{"params": [weight], "name": name} for weight, name in zip(weights, names, strict=True)], clip_norm=1.0
    )
    norms = GradientNorms(optimizer)
    for weight, gradient in zip(weights, ([3.0, 0.0], [0.0, 4.0], [6.0, 8.0], None), strict=True):
        weight.grad = None if gradient is None else torch.tensor(gradient)
    optimizer.step()
    assert norms.take() == {"vision_tower": 5.0, "llm": 10.0}
    weights[2].grad = torch.tensor([float("nan"), 0.0])
    optimizer.step()
    assert norms.take() is None


def test_norms_of_sub_groups_count_to_their_group_and_invalid_ones_are_none() -> None:
    zero = SimpleNamespace(param_groups=[{"name": "llm"}, {"name": "vision_tower"}], sub_group_to_group_id={0: 0, 1: 0})
    zero.sub_group_to_group_id[2] = 1
    zero.get_grad_norm_direct = lambda norm: norm
    norms = GradientNorms(zero)
    for step in ((3.0, 4.0, 2.0), (3.0, -1.0, 2.0), (1.0,)):
        for norm in step:
            zero.get_grad_norm_direct(norm)
        assert norms.take() == ({"llm": 5.0, "vision_tower": 2.0} if step[1:] == (4.0, 2.0) else None)
