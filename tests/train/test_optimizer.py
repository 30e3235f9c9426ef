import math

import pytest
import torch
from torch import nn

from croc_cli.errors import UsageError
from croc_cli.train.optimizer import (
    LearningRateSchedule,
    SkippingAdamW,
    freeze_all_but,
    group_of,
    parameter_groups,
)


class NamedLikeAStage(nn.Module):
    """Parameters with the names that a StageModule gives them."""

    def __init__(self) -> None:
        super().__init__()
        self.model = nn.ModuleDict(
            {
                "llava": nn.ModuleDict(
                    {
                        "model": nn.ModuleDict(
                            {
                                "vision_tower": nn.Linear(2, 2),
                                "multi_modal_projector": nn.Linear(2, 2),
                                "language_model": nn.Linear(2, 2),
                            }
                        ),
                        "lm_head": nn.Linear(2, 2, bias=False),
                    }
                ),
                "pool": nn.Embedding(3, 2),
            }
        )


def test_every_part_belongs_to_its_group() -> None:
    groups = {name: group_of(name) for name, _ in NamedLikeAStage().named_parameters()}
    assert groups == {
        "model.llava.model.vision_tower.weight": "vision_tower",
        "model.llava.model.vision_tower.bias": "vision_tower",
        "model.llava.model.multi_modal_projector.weight": "projector",
        "model.llava.model.multi_modal_projector.bias": "projector",
        "model.llava.model.language_model.weight": "llm",
        "model.llava.model.language_model.bias": "llm",
        "model.llava.lm_head.weight": "llm",
        "model.pool.weight": "token_pool",
    }


def test_only_the_named_groups_are_trained() -> None:
    module = NamedLikeAStage()
    freeze_all_but(module, ["projector"])
    assert [name for name, p in module.named_parameters() if p.requires_grad] == [
        "model.llava.model.multi_modal_projector.weight",
        "model.llava.model.multi_modal_projector.bias",
    ]


def test_what_no_loss_depends_on_stays_frozen_in_a_group_that_trains() -> None:
    module = NamedLikeAStage()
    freeze_all_but(module, ["vision_tower"], without={"model.llava.model.vision_tower.bias"})
    assert [name for name, p in module.named_parameters() if p.requires_grad] == [
        "model.llava.model.vision_tower.weight"
    ]


def test_weight_decay_spares_vectors() -> None:
    module = NamedLikeAStage()
    freeze_all_but(module, ["projector", "token_pool"])
    groups = parameter_groups(module, {"projector": 1e-3, "token_pool": 1e-4}, weight_decay=0.1)
    assert [(g["name"], g["lr"], g["weight_decay"], [tuple(p.shape) for p in g["params"]]) for g in groups] == [
        ("projector", 1e-3, 0.1, [(2, 2)]),
        ("projector", 1e-3, 0.0, [(2,)]),
        ("token_pool", 1e-4, 0.1, [(3, 2)]),
    ]


def test_a_rate_for_a_part_that_is_not_there_is_refused() -> None:
    with pytest.raises(UsageError, match="learning rate given for head, which this stage does not have"):
        parameter_groups(NamedLikeAStage(), {"head": 1e-3}, weight_decay=0.0)


def test_the_schedule_warms_up_then_follows_a_cosine_to_zero() -> None:
    schedule = LearningRateSchedule("cosine", num_steps=100, warmup_ratio=0.03)
    optimizer = torch.optim.SGD([{"params": [torch.zeros(1)], "name": "llm"}], lr=0.0)
    rates = [schedule.set(optimizer, {"llm": 2.0}, step=step)["llm"] for step in range(100)]
    assert rates[:4] == pytest.approx([0.0, 2 / 3, 4 / 3, 2.0])
    assert rates[50] == pytest.approx(1 + math.cos(math.pi * 47 / 97))
    assert optimizer.param_groups[0]["lr"] == rates[99] < 0.002


def test_rates_of_a_step_do_not_depend_on_the_steps_before() -> None:
    optimizer = torch.optim.SGD([{"params": [torch.zeros(1)], "name": "llm"}], lr=0.0)
    schedule = LearningRateSchedule("cosine", num_steps=20, warmup_ratio=0.1)
    unbroken = [schedule.set(optimizer, {"llm": 1.0}, step=step)["llm"] for step in range(20)]
    resumed = LearningRateSchedule("cosine", num_steps=20, warmup_ratio=0.1)
    assert resumed.set(optimizer, {"llm": 1.0}, step=13)["llm"] == unbroken[13]


def one_weight(gradient: float) -> tuple[nn.Parameter, SkippingAdamW]:
    weight = nn.Parameter(torch.tensor([1.0]))
    weight.grad = torch.tensor([gradient])
    return weight, SkippingAdamW([{"params": [weight]}], lr=0.1, clip_norm=1.0)


@pytest.mark.parametrize("gradient", [float("nan"), float("inf")])
def test_a_gradient_that_is_not_finite_changes_neither_weights_nor_moments(gradient: float) -> None:
    weight, optimizer = one_weight(gradient)
    optimizer.step()
    assert optimizer.overflow
    assert weight.item() == 1.0
    assert not optimizer.state


def test_a_long_gradient_is_clipped_and_its_own_norm_reported() -> None:
    weight, optimizer = one_weight(5.0)
    optimizer.step()
    assert not optimizer.overflow
    assert optimizer._global_grad_norm == 5.0
    assert optimizer.state[weight]["exp_avg"].item() == pytest.approx(0.1, rel=1e-4)  # (1 − β₁) × 1
