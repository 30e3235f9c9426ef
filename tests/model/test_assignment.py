"""Assignments that threads solve while the caller goes on."""

import threading

import pytest
import torch
from torch import Tensor

from croc_cli.model import assignment
from croc_cli.model.assignment import begin_assignment
from croc_cli.model.matching import assign, pairwise_cost

NUM_IMAGES, NUM_VISUAL, NUM_MASKED, NUM_POOL, DIM = 5, 9, 4, 30, 8


def draw() -> tuple[Tensor, Tensor, Tensor]:
    """Return visual tokens [I, n, D], pool tokens [N, D] and masks [I, n]."""
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randn(NUM_IMAGES, NUM_VISUAL, DIM, generator=generator)
    masked = torch.zeros(NUM_IMAGES, NUM_VISUAL, dtype=torch.bool)
    for row in masked:
        row[torch.randperm(NUM_VISUAL, generator=generator)[:NUM_MASKED]] = True
    return tokens, torch.randn(NUM_POOL, DIM, generator=generator), masked


@pytest.mark.parametrize("num_threads", [1, 3])
@pytest.mark.parametrize("method", ["hungarian", "nearest"])
def test_images_are_assigned_each_on_its_own_as_by_scipy(method: str, num_threads: int) -> None:
    tokens, pool, masked = draw()
    is_real = torch.tensor([True, True, False, True, True])
    found = begin_assignment(tokens, pool, masked, is_real, method=method, num_threads=num_threads).result()
    for index in range(NUM_IMAGES):
        cost = pairwise_cost(tokens[index][masked[index]], pool)
        alone = torch.from_numpy(assign(cost.numpy())) if method == "hungarian" else cost.argmin(dim=1)
        expected = alone if is_real[index] else torch.full((NUM_MASKED,), -1)
        assert torch.equal(found.by_image[index], expected)
    in_turn = found.places.view(NUM_IMAGES, NUM_MASKED)[2]
    assert in_turn.tolist() == [0, 1, 2, 3]
    assert (found.solver_seconds > 0) == (method == "hungarian")


def test_the_costs_of_all_images_are_computed_in_one_call(monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = []

    def noted(tokens: Tensor, pool: Tensor) -> Tensor:
        shapes.append(tuple(tokens.shape))
        return pairwise_cost(tokens, pool)

    monkeypatch.setattr(assignment, "pairwise_cost", noted)
    tokens, pool, masked = draw()
    is_real = torch.tensor([True, False, True, True, True])
    begin_assignment(tokens, pool, masked, is_real, method="hungarian", num_threads=1).result()
    assert shapes == [(4 * NUM_MASKED, DIM)]


def test_the_caller_waits_for_nothing_until_it_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    may_solve = threading.Event()

    def slow(cost):  # type: ignore[no-untyped-def]
        assert may_solve.wait(30)
        return assign(cost)

    monkeypatch.setattr(assignment, "assign", slow)
    tokens, pool, masked = draw()
    is_real = torch.ones(NUM_IMAGES, dtype=torch.bool)
    pending = begin_assignment(tokens, pool, masked, is_real, method="hungarian", num_threads=1)
    threading.Timer(0.05, may_solve.set).start()  # begin_assignment has returned: nothing is solved yet
    first, second = pending.result(), pending.result()
    assert first.wait_seconds > 0.01
    assert second.wait_seconds < first.wait_seconds
    assert torch.equal(first.by_image, second.by_image)


def test_an_unknown_method_is_refused() -> None:
    tokens, pool, masked = draw()
    with pytest.raises(ValueError, match="matching is 'greedy', expected one of hungarian, nearest"):
        begin_assignment(tokens, pool, masked, masked[:, 0], method="greedy", num_threads=1)


def test_images_that_share_an_assignment_take_each_pool_token_once_at_the_least_cost() -> None:
    tokens, pool, masked = draw()
    pool[:3] = 0.0  # nearest to all
    is_real = torch.tensor([True, True, False, True, True])
    sharing = torch.tensor([7, 2, 7, 7, 2])  # a blank in between shares nothing
    shared = begin_assignment(
        tokens, pool, masked, is_real, method="hungarian", num_threads=2, sharing=sharing
    ).result()
    total = 0.0
    for unit in ([0, 3], [1, 4]):
        cost = pairwise_cost(torch.cat([tokens[index][masked[index]] for index in unit]), pool)
        expected = torch.from_numpy(assign(cost.numpy()))
        assert torch.equal(torch.cat([shared.by_image[index] for index in unit]), expected)
        assert len(expected.unique()) == len(expected)
        total += 2 * cost.gather(1, expected[:, None]).mean().item()
    assert shared.cost_sum == pytest.approx(total)
    assert shared.by_image[2].tolist() == [-1] * NUM_MASKED
    assert torch.equal(shared.places.view(NUM_IMAGES, NUM_MASKED)[is_real], shared.by_image[is_real])
    alone = begin_assignment(tokens, pool, masked, is_real, method="hungarian", num_threads=2).result()
    assert not torch.equal(alone.by_image, shared.by_image)
