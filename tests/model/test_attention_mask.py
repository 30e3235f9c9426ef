"""Masks from transformers against their dense meaning, for every attention kernel."""

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import LlamaConfig, MistralConfig, Qwen2Config

from croc_cli.errors import RecipeError
from croc_cli.model.attention_mask import build_attention_mask

# row 0: text, two visual tokens, text, text; row 1: text, text, two visual tokens, padding
IS_VISUAL = torch.tensor([[0, 1, 1, 0, 0], [0, 0, 1, 1, 0]]).bool()
IS_PADDING = torch.tensor([[0, 0, 0, 0, 0], [0, 0, 0, 0, 1]]).bool()
PREFIX_LENGTH = torch.tensor([4, 2])


def mixed_attention(is_visual: Tensor, is_padding: Tensor) -> Tensor:
    """Let every token see all visual tokens; keep text causal otherwise (arXiv:2410.14332v3, section 3.3).

    This dense form says what is meant; models get theirs from `build_attention_mask`.

    Args:
        is_visual: [B, T] bool, True at visual tokens.
        is_padding: [B, T] bool, True where the sequence is filled up.

    Returns:
        [B, 1, T, T] bool; row = query, column = key, True = may attend.
    """
    return (_causal(is_visual) | is_visual[:, None, None, :]) & ~is_padding[:, None, None, :]


def prefix_attention(prefix_length: Tensor, is_padding: Tensor) -> Tensor:
    """Let every token see all tokens before the first label; keep the rest causal, as the released code does.

    Args:
        prefix_length: [B] int64, tokens before the first label.
        is_padding: [B, T] bool, True where the sequence is filled up.

    Returns:
        [B, 1, T, T] bool; row = query, column = key, True = may attend.
    """
    positions = torch.arange(is_padding.shape[1], device=is_padding.device)
    in_prefix = positions < prefix_length[:, None]
    return (_causal(is_padding) | in_prefix[:, None, None, :]) & ~is_padding[:, None, None, :]


def _causal(like: Tensor) -> Tensor:
    """Return [1, 1, T, T] bool, True at and below the diagonal, for `like` of [B, T]."""
    length = like.shape[1]
    return torch.ones(length, length, dtype=torch.bool, device=like.device).tril()[None, None]


def build(kernel: str, kind: str, config: Any = None) -> Any:
    config = config or LlamaConfig(hidden_size=8, num_attention_heads=1)
    config._attn_implementation = kernel
    return build_attention_mask(
        config,
        torch.zeros(2, 5, 8),
        ~IS_PADDING,
        kind=kind,
        is_visual=IS_VISUAL,
        prefix_length=PREFIX_LENGTH,
    )


def dense(kind: str) -> Tensor:
    if kind == "mixed":
        return mixed_attention(IS_VISUAL, IS_PADDING)
    return prefix_attention(PREFIX_LENGTH, IS_PADDING)


def test_text_sees_later_visual_tokens_but_no_later_text() -> None:
    assert mixed_attention(IS_VISUAL, IS_PADDING)[0, 0].int().tolist() == [
        [1, 1, 1, 0, 0],  # text before the image sees all of it
        [1, 1, 1, 0, 0],  # visual tokens see each other both ways
        [1, 1, 1, 0, 0],
        [1, 1, 1, 1, 0],
        [1, 1, 1, 1, 1],
    ]


def test_nothing_sees_padding() -> None:
    assert mixed_attention(IS_VISUAL, IS_PADDING)[1, 0].int().tolist() == [
        [1, 0, 1, 1, 0],
        [1, 1, 1, 1, 0],
        [1, 1, 1, 1, 0],
        [1, 1, 1, 1, 0],
        [1, 1, 1, 1, 0],
    ]


def test_prefix_shows_everything_before_the_first_label_to_all() -> None:
    assert prefix_attention(PREFIX_LENGTH, IS_PADDING)[:, 0].int().tolist() == [
        [[1, 1, 1, 1, 0]] * 4 + [[1, 1, 1, 1, 1]],
        [[1, 1, 0, 0, 0], [1, 1, 0, 0, 0], [1, 1, 1, 0, 0], [1, 1, 1, 1, 0], [1, 1, 1, 1, 0]],
    ]


def test_prefix_of_a_row_without_label_ends_before_its_padding() -> None:
    assert prefix_attention(torch.tensor([5, 5]), IS_PADDING)[1, 0].int().tolist() == [[1, 1, 1, 1, 0]] * 5


@pytest.mark.parametrize("kind", ["mixed", "prefix"])
def test_the_sdpa_mask_is_the_dense_one(kind: str) -> None:
    assert torch.equal(build("sdpa", kind), dense(kind))


@pytest.mark.parametrize("kind", ["mixed", "prefix"])
def test_the_eager_mask_is_zero_where_the_dense_one_allows_and_lowest_elsewhere(kind: str) -> None:
    lowest = torch.finfo(torch.float32).min
    assert torch.equal(build("eager", kind), torch.where(dense(kind), 0.0, lowest))


@pytest.mark.parametrize("kind", ["mixed", "prefix"])
def test_the_flex_mask_allows_what_the_dense_one_allows(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # transformers compiles the block mask; the same function uncompiled says the same in a hundredth of the time
    from torch.nn.attention.flex_attention import create_block_mask
    from transformers import masking_utils

    def create_uncompiled(**arguments: Any) -> Any:
        return create_block_mask(**{**arguments, "_compile": False})

    monkeypatch.setattr(masking_utils, "create_block_mask", create_uncompiled)
    mask = build("flex_attention", kind)
    places = [
        torch.arange(size).view([-1 if axis == at else 1 for axis in range(4)]) for at, size in enumerate((2, 1, 5, 5))
    ]
    assert torch.equal(mask.mask_mod(*places).expand(2, 1, 5, 5), dense(kind))


def test_causal_leaves_the_llm_its_own_mask() -> None:
    assert torch.equal(build("sdpa", "causal"), ~IS_PADDING)


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="attention is 'full', expected causal, mixed or prefix"):
        build("sdpa", "full")


def test_a_kernel_without_masks_is_refused() -> None:
    with pytest.raises(RecipeError, match="attention kernel 'flash_attention_2' cannot do mixed attention") as caught:
        build("flash_attention_2", "mixed")
    assert caught.value.hint == "set model.attention to one of sdpa, eager, flex_attention"


def test_an_llm_with_sliding_windows_is_refused() -> None:
    config = Qwen2Config(
        hidden_size=8, num_attention_heads=1, num_hidden_layers=2, use_sliding_window=True, max_window_layers=1
    )
    with pytest.raises(
        RecipeError,
        match="mixed attention needs an LLM whose layers all attend to the whole sequence; qwen2 has sliding_attention",
    ):
        build("sdpa", "mixed", config)


def test_an_llm_that_looks_back_less_far_than_a_sequence_is_refused() -> None:
    sizes = {"hidden_size": 8, "num_attention_heads": 1, "num_key_value_heads": 1}
    with pytest.raises(RecipeError, match="mistral looks back 4 tokens, and this sequence has 5") as caught:
        build("sdpa", "mixed", MistralConfig(**sizes, sliding_window=4))
    assert "set reconstruct.max_length to 4 at most" in str(caught.value.hint)
    build("sdpa", "mixed", MistralConfig(**sizes, sliding_window=5))
