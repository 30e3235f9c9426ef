"""First weights of the projector that suit the features which enter it."""

from typing import Any

import pytest
import torch

from croc_cli.model.projector import new_projector, whiten
from tests.tiny import LLM_WIDTH, VISION_WIDTH, make_tiny_model


def features_with_a_mean() -> torch.Tensor:
    """Return features that share a large mean, and vary a hundred times more along one direction."""
    generator = torch.Generator().manual_seed(5)
    spread = torch.ones(VISION_WIDTH)
    spread[0] = 100.0
    return 2000 + torch.randn(4096, VISION_WIDTH, generator=generator) * spread


def projector(seed: int = 3) -> Any:
    return new_projector(make_tiny_model().config, seed)


def words() -> torch.Tensor:
    return 0.5 + 0.2 * torch.randn(300, LLM_WIDTH, generator=torch.Generator().manual_seed(6))


@torch.no_grad()
def test_what_the_features_share_is_taken_out_and_every_direction_weighs_alike() -> None:
    made, features = projector(), features_with_a_mean()
    whiten(made, features, words(), seed=3)

    inner = made.linear_1(features)
    torch.testing.assert_close(inner.mean(dim=0), torch.zeros(LLM_WIDTH), atol=0.05, rtol=0)
    effect = (made.linear_1.weight * features.std(dim=0)).norm(dim=0)
    assert (effect[1:].max() / effect[1:].min()).item() < 2
    assert effect[0].item() == pytest.approx(effect[1:].mean().item(), rel=0.3)


@torch.no_grad()
def test_tokens_have_no_mean_and_are_as_long_as_words() -> None:
    made, features = projector(), features_with_a_mean()
    whiten(made, features, words(), seed=3)

    tokens = made(features)
    torch.testing.assert_close(tokens.mean(dim=0), torch.zeros(LLM_WIDTH), atol=1e-2, rtol=0)
    assert tokens.square().mean().sqrt().item() == pytest.approx(words().square().mean().sqrt().item(), rel=0.01)


def test_the_seed_decides() -> None:
    first, again, other = (projector() for _ in range(3))
    for made, seed in ((first, 3), (again, 3), (other, 4)):
        whiten(made, features_with_a_mean(), words(), seed=seed)
    assert torch.equal(first.linear_2.weight, again.linear_2.weight)
    assert not torch.equal(first.linear_2.weight, other.linear_2.weight)


def test_features_that_cannot_be_whitened_are_refused() -> None:
    with pytest.raises(ValueError, match="32 features are too few to whiten 32 dimensions"):
        whiten(projector(), torch.randn(VISION_WIDTH, VISION_WIDTH), words(), seed=0)
    with pytest.raises(ValueError, match="do not vary"):
        whiten(projector(), torch.ones(100, VISION_WIDTH), words(), seed=0)
