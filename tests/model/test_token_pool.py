"""Replacement from the pool, and the pool's start."""

import pytest
import torch
from torch import Tensor

from croc_cli.model.token_pool import TokenPool, initialise_pool

MASKED = torch.tensor([[True, False, True], [False, True, True]])
BOTH_REAL = torch.tensor([True, True])


def make_pool(*rows: tuple[float, float]) -> TokenPool:
    pool = TokenPool(len(rows), 2)
    with torch.no_grad():
        pool.weight.copy_(torch.tensor(rows))
    return pool


def random_tokens(count: int, dim: int = 4) -> Tensor:
    return torch.randn(count, dim, generator=torch.Generator().manual_seed(1))


def test_masked_positions_take_their_pool_tokens_and_others_stay() -> None:
    pool = make_pool((0.0, 0.0), (10.0, 0.0), (20.0, 0.0))
    tokens = torch.tensor([[[9.0, 0.0], [5.0, 5.0], [1.0, 0.0]], [[7.0, 7.0], [18.0, 0.0], [19.0, 0.0]]])

    found = pool(tokens, MASKED, BOTH_REAL)

    assert found.assignment.tolist() == [[1, 0], [1, 2]]
    assert found.tokens.tolist() == [
        [[10.0, 0.0], [5.0, 5.0], [0.0, 0.0]],
        [[7.0, 7.0], [10.0, 0.0], [20.0, 0.0]],
    ]
    assert found.cost_sum == pytest.approx((1 + 1) / 2 + (8 + 1) / 2)
    assert found.solver_seconds > 0


def test_nearest_lets_two_positions_share_a_pool_token() -> None:
    pool = make_pool((0.0, 0.0), (10.0, 0.0), (20.0, 0.0))
    tokens = torch.tensor([[[18.0, 0.0], [5.0, 5.0], [19.0, 0.0]]])
    assert pool(tokens, MASKED[:1], BOTH_REAL[:1], matching="nearest").assignment.tolist() == [[2, 2]]


def test_blanks_take_no_part_in_the_assignment_or_its_cost() -> None:
    pool = make_pool((0.0, 0.0), (10.0, 0.0), (20.0, 0.0))
    tokens = torch.zeros(2, 3, 2)
    found = pool(tokens, MASKED, torch.tensor([False, True]))
    assert found.assignment[0].tolist() == [-1, -1]
    assert found.cost_sum == pytest.approx((0 + 10) / 2)
    assert found.tokens[0].tolist() == [[0.0, 0.0], [0.0, 0.0], [10.0, 0.0]]


def test_only_blanks_give_an_empty_assignment() -> None:
    found = make_pool((0.0, 0.0))(torch.zeros(1, 3, 2), MASKED[:1], torch.tensor([False]))
    assert found.assignment.shape == (1, 0)
    assert found.cost_sum == 0


def test_nothing_masked_leaves_tokens_as_they_are_and_gives_the_pool_a_gradient_of_zeros() -> None:
    pool = make_pool((1.0, 2.0), (3.0, 4.0))
    tokens = torch.ones(2, 3, 2)
    found = pool(tokens, torch.zeros_like(MASKED), BOTH_REAL)
    found.tokens.sum().backward()
    assert torch.equal(found.tokens, tokens)
    assert found.assignment.shape == (2, 0)
    assert found.cost_sum == 0
    assert pool.weight.grad is not None
    assert pool.weight.grad.abs().max() == 0


def test_gradients_go_to_pool_tokens_in_use_and_to_unmasked_visual_tokens() -> None:
    pool = make_pool((0.0, 0.0), (10.0, 0.0), (20.0, 0.0), (99.0, 99.0))
    tokens = torch.tensor([[[9.0, 0.0], [5.0, 5.0], [1.0, 0.0]]], requires_grad=True)
    pool(tokens, MASKED[:1], BOTH_REAL[:1]).tokens.sum().backward()
    assert pool.weight.grad is not None
    assert pool.weight.grad.tolist() == [[1, 1], [1, 1], [0, 0], [0, 0]]
    assert tokens.grad is not None
    assert tokens.grad.tolist() == [[[0, 0], [1, 1], [0, 0]]]


def test_sampled_takes_distinct_real_tokens() -> None:
    real = random_tokens(30).repeat(2, 1)  # every token twice
    weight = torch.zeros(30, 4)
    initialise_pool(weight, real, "sampled", torch.Generator().manual_seed(0))
    assert {tuple(row) for row in weight.tolist()} == {tuple(row) for row in real.tolist()}


def test_sampled_repeats_tokens_only_where_there_are_too_few() -> None:
    real, weight = random_tokens(3), torch.zeros(5, 4)
    initialise_pool(weight, real, "sampled", torch.Generator().manual_seed(0))
    assert len(torch.unique(weight, dim=0)) == 3


def test_moments_has_mean_and_spread_of_each_dimension() -> None:
    real = random_tokens(2000) * torch.tensor([1.0, 5.0, 0.1, 2.0]) + torch.tensor([0.0, 3.0, -2.0, 7.0])
    weight = torch.zeros(20000, 4)
    initialise_pool(weight, real, "moments", torch.Generator().manual_seed(0))
    torch.testing.assert_close(weight.mean(dim=0), real.mean(dim=0), atol=0.1, rtol=0)
    torch.testing.assert_close(weight.std(dim=0), real.std(dim=0), atol=0, rtol=0.05)


def test_covariance_keeps_how_dimensions_go_together() -> None:
    mixing = torch.tensor([[1.0, 0.9, 0.0, 0.0], [0.0, 0.4, 0.0, 2.0], [0.0, 0.0, 3.0, 0.0], [0.0, 0.0, 0.0, 0.5]])
    real = random_tokens(500) @ mixing + 4.0
    weight = torch.zeros(20000, 4)
    initialise_pool(weight, real, "covariance", torch.Generator().manual_seed(0))
    torch.testing.assert_close(weight.mean(dim=0), real.mean(dim=0), atol=0.1, rtol=0)
    torch.testing.assert_close(weight.T.cov(), real.T.cov(), atol=0.3, rtol=0.05)


def test_normal_needs_no_visual_tokens() -> None:
    weight = torch.zeros(5000, 4)
    initialise_pool(weight, None, "normal", torch.Generator().manual_seed(0))
    assert weight.mean().abs() < 0.05
    assert weight.std() == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("method", ["sampled", "normal", "moments", "covariance"])
def test_the_same_generator_gives_the_same_pool(method: str) -> None:
    weights = [torch.zeros(6, 4), torch.ones(6, 4)]
    for weight in weights:
        initialise_pool(weight, random_tokens(9), method, torch.Generator().manual_seed(3))
    assert torch.equal(*weights)


def test_an_unknown_method_and_missing_tokens_are_refused() -> None:
    with pytest.raises(ValueError, match="pool initialisation is 'zeros', expected sampled, normal, moments or"):
        initialise_pool(torch.zeros(2, 2), None, "zeros")
    with pytest.raises(ValueError, match="pool initialisation 'sampled' needs visual tokens, and there are none"):
        initialise_pool(torch.zeros(2, 2), None, "sampled")


def test_images_may_have_different_numbers_of_masked_tokens() -> None:
    pool = make_pool((0.0, 0.0), (1.0, 0.0), (0.0, 1.0))
    tokens = torch.tensor([[[0.1, 0.0], [0.9, 0.0]], [[0.0, 0.9], [5.0, 5.0]]])
    masked = torch.tensor([[True, True], [True, False]])
    replaced = pool(tokens, masked, torch.ones(2, dtype=torch.bool))
    assert replaced.assignment.tolist() == [[0, 1], [2, -1]]
    assert replaced.tokens.tolist() == [[[0.0, 0.0], [1.0, 0.0]], [[0.0, 1.0], [5.0, 5.0]]]
    assert replaced.cost_sum == pytest.approx(0.1 + 0.1)
