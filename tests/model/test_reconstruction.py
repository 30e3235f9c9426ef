"""The reconstruction heads."""

import pytest
import torch

from croc_cli.model.reconstruction import BertHead, build_head


def test_none_is_no_module() -> None:
    assert build_head("none", 8, 4, 0.1) is None


@pytest.mark.parametrize("kind", ["linear", "bert"])
def test_a_head_keeps_the_shape_and_hears_the_generator(kind: str) -> None:
    heads = [build_head(kind, 8, 4, 0.0, generator=torch.Generator().manual_seed(2)) for _ in range(2)]
    hidden = torch.randn(3, 4, 8, generator=torch.Generator().manual_seed(0))
    outputs = [head(hidden) for head in heads if head is not None]
    assert outputs[0].shape == (3, 4, 8)
    assert torch.equal(*outputs)


def test_the_bert_head_knows_positions_and_looks_at_all_tokens_of_its_image_only() -> None:
    head = build_head("bert", 8, 4, 0.0)
    assert head is not None
    hidden = torch.randn(2, 4, 8, generator=torch.Generator().manual_seed(0))
    moved = hidden.clone()
    moved[0, 3] += 1

    before, after = head(hidden), head(moved)

    assert not torch.allclose(before[0, 0], after[0, 0])
    assert torch.equal(before[1], after[1])
    same = hidden[:, :1].expand(2, 4, 8)
    assert not torch.allclose(head(same)[0, 0], head(same)[0, 1])


def test_dropout_works_in_training_only() -> None:
    head = build_head("bert", 8, 4, 0.5)
    assert head is not None
    hidden = torch.ones(1, 4, 8)
    assert not torch.equal(head(hidden), head(hidden))
    head.eval()
    assert torch.equal(head(hidden), head(hidden))


@pytest.mark.parametrize(("dim", "heads"), [(64, 1), (576, 9), (48, 1), (200, 2)])
def test_attention_heads_are_64_wide_or_as_near_above_as_divides_the_width(dim: int, heads: int) -> None:
    head = build_head("bert", dim, 2, 0.0)
    assert isinstance(head, BertHead)
    assert head.layer.attention.self.num_attention_heads == heads


def test_an_unknown_head_is_refused() -> None:
    with pytest.raises(ValueError, match="head is 'mlp', expected none, linear or bert"):
        build_head("mlp", 8, 4, 0.1)
