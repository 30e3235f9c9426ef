"""The reconstruction objective and its settings."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from croc_cli.objectives.baseline import KEPT_TARGETS
from croc_cli.objectives.reconstruction import ReconstructionLoss, mean_target_loss, reconstruction_loss_sum
from croc_cli.objectives.settings import ObjectiveSettings

LITERAL: dict[str, Any] = {"target": "raw", "per_dimension": False, "reduction": "sum"}
TARGETS = torch.tensor([[[0.0, 0.0], [3.0, 4.0], [1.0, 1.0]], [[6.0, 8.0], [0.0, 0.0], [0.0, 0.0]]])
MASKED = torch.tensor([[True, True, False], [True, False, False]])
BOTH = torch.ones(2)


def measure(predicted: Tensor, targets: Tensor = TARGETS, **settings: Any) -> ReconstructionLoss:
    weight = settings.pop("weight", BOTH)
    return reconstruction_loss_sum(predicted, targets, MASKED, weight, ObjectiveSettings(**settings))


def test_literal_reading_sums_the_norms_of_masked_positions() -> None:
    loss = measure(torch.zeros(2, 3, 2), **LITERAL)
    assert loss.total.item() == pytest.approx(0 + 5 + 10)


def test_mean_is_taken_over_an_images_masked_positions_and_summed_over_images() -> None:
    loss = measure(torch.zeros(2, 3, 2), target="raw", per_dimension=False)
    assert loss.total.item() == pytest.approx((0 + 5) / 2 + 10)


def test_per_dimension_divides_by_the_root_of_the_width() -> None:
    loss = measure(torch.zeros(2, 3, 2), target="raw")
    assert loss.total.item() == pytest.approx(((0 + 5) / 2 + 10) / math.sqrt(2))


@pytest.mark.parametrize("width", [16, 256, 4096])
def test_the_default_loss_is_of_the_same_size_at_any_width(width: int) -> None:
    generator = torch.Generator().manual_seed(0)
    predicted, targets = (torch.randn(1, 8, width, generator=generator) for _ in range(2))
    loss = reconstruction_loss_sum(predicted, 50 * targets, torch.ones(1, 8, dtype=torch.bool), torch.ones(1))
    assert loss.total.item() == pytest.approx(math.sqrt(2), rel=0.15)


def test_all_counts_unmasked_positions_too() -> None:
    loss = measure(torch.zeros(2, 3, 2), **LITERAL, scope="all")
    assert loss.total.item() == pytest.approx(0 + 5 + math.sqrt(2) + 10)


def test_layer_normed_targets_have_no_mean_and_unit_spread() -> None:
    targets = torch.tensor([[[1.0, 3.0], [5.0, 5.5], [0.0, 0.0]]]).expand(2, 3, 2)
    predicted = torch.tensor([-1.0, 1.0]).expand(2, 3, 2)
    loss = measure(predicted, targets, per_dimension=False)
    assert loss.total.item() == pytest.approx(0, abs=1e-3)


def test_l2_targets_have_unit_length() -> None:
    predicted = torch.tensor([[[0.0, 0.0], [0.6, 0.8], [9.0, 9.0]], [[0.6, 0.8], [9.0, 9.0], [9.0, 9.0]]])
    assert measure(predicted, target="l2").total.item() == pytest.approx(0, abs=1e-6)


def test_smooth_l1_is_torchs_own() -> None:
    predicted = torch.randn(2, 3, 2, generator=torch.Generator().manual_seed(0))
    loss = measure(predicted, target="raw", loss="smooth_l1", smooth_l1_beta=0.3, scope="all")
    assert loss.total.item() / 2 == pytest.approx(F.smooth_l1_loss(predicted, TARGETS, beta=0.3).item())
    summed = measure(
        predicted, target="raw", loss="smooth_l1", smooth_l1_beta=0.3, scope="all", per_dimension=False, reduction="sum"
    )
    assert summed.total.item() == pytest.approx(F.smooth_l1_loss(predicted, TARGETS, beta=0.3, reduction="sum").item())


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_the_baseline_is_the_loss_of_predicting_the_mean_counted_target(reduction: str) -> None:
    settings = {"target": "raw", "reduction": reduction}
    loss = measure(torch.zeros(2, 3, 2), **settings)
    mean = loss.targets.total / loss.targets.num_counted
    assert mean.tolist() == pytest.approx([3.0, 4.0])  # of (0, 0), (3, 4) and (6, 8)
    at_mean = measure(mean.expand(2, 3, 2), **settings)
    baseline = mean_target_loss(mean, loss.targets, ObjectiveSettings(**settings))
    assert baseline.item() == pytest.approx(at_mean.total.item())


def test_of_large_images_some_positions_stand_for_all() -> None:
    targets = torch.randn(2, 576, 8, generator=torch.Generator().manual_seed(0))
    masked = torch.arange(576).expand(2, 576) % 4 > 0
    loss = reconstruction_loss_sum(targets, targets, masked, BOTH)
    assert loss.targets.kept.shape == (2, KEPT_TARGETS, 8)
    mean = loss.targets.total / loss.targets.num_counted
    exact = reconstruction_loss_sum(mean.expand_as(targets), targets, masked, BOTH).total
    assert mean_target_loss(mean, loss.targets, ObjectiveSettings()).item() == pytest.approx(exact.item(), rel=0.05)


def test_blanks_add_nothing_to_loss_and_baseline() -> None:
    predicted = torch.randn(2, 3, 2, generator=torch.Generator().manual_seed(0))
    with_blank = measure(predicted, weight=torch.tensor([1.0, 0.0]))
    alone = reconstruction_loss_sum(predicted[:1], TARGETS[:1], MASKED[:1], torch.ones(1))
    for loss in (with_blank, alone):
        assert loss.total.item() == pytest.approx(alone.total.item())
        assert loss.targets.total.tolist() == pytest.approx(alone.targets.total.tolist())
        assert loss.targets.num_counted.item() == 2
        assert loss.targets.weight.sum().item() == pytest.approx(1)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_nothing_masked_gives_zero_with_a_gradient(reduction: str) -> None:
    predicted = torch.ones(2, 3, 2, requires_grad=True)
    settings = ObjectiveSettings(reduction=reduction)
    loss = reconstruction_loss_sum(predicted, TARGETS, torch.zeros_like(MASKED), BOTH, settings)
    loss.total.backward()
    assert loss.total.item() == loss.targets.num_counted.item() == loss.targets.weight.sum().item() == 0
    assert predicted.grad is not None
    assert predicted.grad.abs().max() == 0


def test_a_perfect_prediction_has_a_finite_gradient() -> None:
    predicted = TARGETS.clone().requires_grad_()
    measure(predicted, target="raw").total.backward()
    assert predicted.grad is not None
    assert predicted.grad.isfinite().all()


@pytest.mark.parametrize("target", ["raw", "layer_norm", "l2"])
def test_stop_gradient_keeps_gradients_out_of_the_targets(target: str) -> None:
    predicted = torch.zeros(2, 3, 2, requires_grad=True)
    stopped, open_targets = (TARGETS.clone().requires_grad_() for _ in range(2))
    measure(predicted, stopped, target=target).total.backward()
    measure(predicted, open_targets, target=target, stop_gradient=False).total.backward()
    assert stopped.grad is None
    assert open_targets.grad is not None


def test_low_precision_is_measured_in_float32() -> None:
    loss = measure(torch.zeros(2, 3, 2, dtype=torch.bfloat16), TARGETS.bfloat16(), target="raw")
    assert loss.total.dtype == torch.float32


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("target", "target is 'x', expected raw, layer_norm or l2"),
        ("loss", "loss is 'x', expected l2, smooth_l1 or cosine"),
        ("reduction", "reduction is 'x', expected mean or sum"),
        ("scope", "scope is 'x', expected masked or all"),
    ],
)
def test_an_unknown_setting_is_refused(setting: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        measure(torch.zeros(2, 3, 2), **{setting: "x"})


def test_cosine_is_one_minus_the_cosine_and_blind_to_lengths() -> None:
    predicted = torch.tensor([[[9.0, 9.0], [4.0, -3.0], [0.0, 0.0]], [[-3.0, -4.0], [0.0, 0.0], [0.0, 0.0]]])
    expected = (1 + 1) / 2 + 2  # a target without length, a right angle; the opposite
    for factor in (1.0, 7.0):
        loss = measure(predicted * factor, target="raw", loss="cosine")
        assert loss.total.item() == pytest.approx(expected)
    mean = loss.targets.total / loss.targets.num_counted
    at_mean = measure(mean.expand(2, 3, 2), target="raw", loss="cosine").total
    baseline = mean_target_loss(mean, loss.targets, ObjectiveSettings(target="raw", loss="cosine"))
    assert baseline.item() == pytest.approx(at_mean.item())


def test_cosine_has_a_finite_gradient_at_vectors_without_length() -> None:
    predicted = torch.zeros(2, 3, 2, requires_grad=True)
    measure(predicted, target="raw", loss="cosine").total.backward()
    assert predicted.grad is not None
    assert predicted.grad.abs().max() == 0
    turned = torch.ones(2, 3, 2, requires_grad=True)
    measure(turned, target="raw", loss="cosine").total.backward()
    assert turned.grad is not None
    assert turned.grad.isfinite().all()
    assert turned.grad.abs().max() > 0
