"""Costs and assignments."""

import itertools
from collections import Counter

import numpy as np
import pytest
import torch

from croc_cli.model.matching import assign, pairwise_cost


def random_cost(num_masked: int, num_pool: int, *, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((num_masked, num_pool), dtype=np.float32)


def total(cost: np.ndarray, chosen: np.ndarray) -> float:
    return float(cost[np.arange(len(cost)), chosen].sum())


def test_cost_is_the_euclidean_distance() -> None:
    tokens, pool = torch.tensor([[0.0, 0.0], [3.0, 4.0]]), torch.tensor([[0.0, 0.0], [3.0, 0.0], [6.0, 8.0]])
    torch.testing.assert_close(pairwise_cost(tokens, pool), torch.tensor([[0.0, 3.0, 10.0], [5.0, 4.0, 5.0]]))


def test_cost_stays_exact_where_all_tokens_share_a_large_part() -> None:
    generator = torch.Generator().manual_seed(0)
    common = 1000.0
    tokens, pool = torch.randn(40, 64, generator=generator), torch.randn(50, 64, generator=generator)
    exact = torch.cdist((tokens + common).double(), (pool + common).double()).float()
    torch.testing.assert_close(pairwise_cost(tokens + common, pool + common), exact, atol=1e-3, rtol=0)


def test_cost_has_no_gradient_and_is_float32() -> None:
    cost = pairwise_cost(torch.ones(2, 4, dtype=torch.bfloat16), torch.ones(3, 4, requires_grad=True))
    assert cost.dtype == torch.float32
    assert not cost.requires_grad


@pytest.mark.parametrize("seed", range(5))
def test_hungarian_finds_the_least_total_of_all_ways(seed: int) -> None:
    cost = random_cost(4, 6, seed=seed)
    best = min(total(cost, np.array(columns)) for columns in itertools.permutations(range(6), 4))
    chosen = assign(cost)
    assert total(cost, chosen) == pytest.approx(best, rel=1e-6)
    assert len(set(chosen.tolist())) == 4


@pytest.mark.parametrize("seed", range(5))
def test_with_a_small_pool_each_token_is_used_at_most_ceil_m_over_n_times_at_least_total(seed: int) -> None:
    cost = random_cost(5, 2, seed=seed)
    ways = [way for way in itertools.product(range(2), repeat=5) if max(Counter(way).values()) <= 3]
    chosen = assign(cost)
    assert max(Counter(chosen.tolist()).values()) <= 3
    assert total(cost, chosen) == pytest.approx(min(total(cost, np.array(way)) for way in ways), rel=1e-6)


def test_a_small_pool_that_divides_the_masked_tokens_is_used_evenly() -> None:
    cost = np.array([[0.0, 1.0]] * 4, dtype=np.float32)
    assert sorted(assign(cost).tolist()) == [0, 0, 1, 1]


def test_a_pool_of_one_is_used_everywhere() -> None:
    assert assign(random_cost(7, 1)).tolist() == [0] * 7


def test_no_pool_token_is_taken_twice_though_it_is_the_cheapest_for_both() -> None:
    assert assign(np.array([[0.0, 5.0, 9.0], [1.0, 2.0, 9.0]], dtype=np.float32)).tolist() == [0, 1]


def test_equal_costs_still_give_distinct_pool_tokens() -> None:
    chosen = assign(np.ones((6, 9), dtype=np.float32))
    assert len(set(chosen.tolist())) == 6


def test_nothing_masked_gives_nothing() -> None:
    assert assign(np.zeros((0, 4), dtype=np.float32)).shape == (0,)


def test_costs_that_are_not_finite_are_answered_in_turn() -> None:
    assert assign(np.full((3, 2), np.nan, dtype=np.float32)).tolist() == [0, 1, 0]
