"""First weights of the projector that suit the features which enter it and the words it is trained on."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from croc_cli.model.projector import (
    CaptionedPictures,
    fit_to_captions,
    new_projector,
    num_fitting_pictures,
    projector_inputs,
    whiten,
)
from tests.tiny import LLM_WIDTH, VISION_WIDTH, make_tiny_model, tiny_vision_config

_BATCH = 40


def features_with_a_mean() -> torch.Tensor:
    """Return features that share a large mean, and vary a hundred times more along one direction."""
    generator = torch.Generator().manual_seed(5)
    spread = torch.ones(VISION_WIDTH)
    spread[0] = 100.0
    return 2000 + torch.randn(4096, VISION_WIDTH, generator=generator) * spread


def projector(seed: int = 3) -> Any:
    return new_projector(make_tiny_model().config, seed)


def two_halves(left: int, right: int) -> torch.Tensor:
    """Return a picture [3, height, width] whose halves have one of three colours each."""
    size = tiny_vision_config().image_size
    picture = torch.zeros(3, size, size)
    picture[left, :, : size // 2] = picture[right, :, size // 2 :] = 3.0
    return picture


def captioned(num_batches: int, words: dict[int, int]) -> Iterator[CaptionedPictures]:
    """Yield pictures of two different colours, each caption naming both and a word that is in all captions."""
    generator = torch.Generator().manual_seed(8)
    for _ in range(num_batches):
        pairs = [torch.randperm(3, generator=generator)[:2].tolist() for _ in range(_BATCH)]
        pixels = torch.stack([two_halves(left, right) for left, right in pairs])
        noise = 0.1 * torch.randn(pixels.shape, generator=generator)
        yield CaptionedPictures(pixels + noise, [[90, words[left], words[right]] for left, right in pairs])


@torch.no_grad()
def test_a_token_is_nearest_to_the_word_for_what_it_shows_and_half_as_long() -> None:
    llava: Any = make_tiny_model()
    words = {0: 20, 1: 21, 2: 22}
    fit_to_captions(llava, captioned(6, words), seed=3)

    embeddings = llava.get_input_embeddings().weight
    projector = llava.model.multi_modal_projector
    for colour, word in words.items():
        tokens = projector(projector_inputs(llava, two_halves(colour, colour)[None]))[0]
        likeness = torch.cosine_similarity(tokens.mean(dim=0)[None], embeddings[[20, 21, 22, 90]])
        assert int(likeness.argmax()) == word - 20

    tokens = projector(torch.cat([projector_inputs(llava, batch.pixel_values) for batch in captioned(6, words)]))
    assert tokens.mean(dim=(0, 1)).abs().max() < 1e-3
    assert tokens.square().mean().sqrt().item() == pytest.approx(embeddings.square().mean().sqrt().item() / 2, rel=0.01)


@torch.no_grad()
def test_what_the_features_share_is_taken_out_and_every_direction_weighs_alike() -> None:
    made, features = projector(), features_with_a_mean()
    whiten(made, features, seed=3)

    inner = made.linear_1(features)
    torch.testing.assert_close(inner.mean(dim=0), torch.zeros(LLM_WIDTH), atol=0.05, rtol=0)
    effect = (made.linear_1.weight * features.std(dim=0)).norm(dim=0)
    assert (effect[1:].max() / effect[1:].min()).item() < 2
    assert effect[0].item() == pytest.approx(effect[1:].mean().item(), rel=0.3)


def test_the_seed_decides() -> None:
    first, again, other = (projector() for _ in range(3))
    for made, seed in ((first, 3), (again, 3), (other, 4)):
        whiten(made, features_with_a_mean(), seed=seed)
    assert torch.equal(first.linear_1.weight, again.linear_1.weight)
    assert not torch.equal(first.linear_1.weight, other.linear_1.weight)


def test_what_tells_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="32 features are too few to whiten 32 dimensions"):
        whiten(projector(), torch.randn(VISION_WIDTH, VISION_WIDTH), seed=0)
    with pytest.raises(ValueError, match="features do not vary"):
        whiten(projector(), torch.ones(100, VISION_WIDTH), seed=0)
    with pytest.raises(ValueError, match="captions do not vary"):
        fit_to_captions(make_tiny_model(), captioned(3, {0: 20, 1: 20, 2: 20}), seed=0)


def test_the_fit_asks_for_pictures_by_what_it_weighs() -> None:
    assert num_fitting_pictures(projector()) == 20 * LLM_WIDTH
