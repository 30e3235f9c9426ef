"""Masks from transformers against their dense meaning, for every attention kernel."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.attention.flex_attention import flex_attention
from torch.nn.functional import scaled_dot_product_attention
from transformers import LlamaConfig, MistralConfig, Qwen2Config

from croc_cli.errors import RecipeError
from croc_cli.model.attention_mask import block_mask, build_attention_mask, dense_mask

# row 0: text, two visual tokens, text, text; row 1: text, text, two visual tokens, padding
IS_VISUAL = torch.tensor([[0, 1, 1, 0, 0], [0, 0, 1, 1, 0]]).bool()
IS_PADDING = torch.tensor([[0, 0, 0, 0, 0], [0, 0, 0, 0, 1]]).bool()
PREFIX_LENGTH = torch.tensor([4, 2])
IS_LABEL = torch.tensor([[0, 0, 0, 0, 1], [0, 0, 1, 1, 0]]).bool()


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
        is_label=IS_LABEL,
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
def test_the_flex_mask_allows_what_the_dense_one_allows(kind: str) -> None:
    mask = build("flex_attention", kind)
    places = [
        torch.arange(size).view([-1 if axis == at else 1 for axis in range(4)]) for at, size in enumerate((2, 1, 5, 5))
    ]
    assert torch.equal(mask.mask_mod(*places).expand(2, 1, 5, 5), dense(kind))


@pytest.mark.parametrize("length", [128, 300, 512])
def test_flex_looks_at_every_block_that_the_dense_mask_allows_and_trusts_full_ones(length: int) -> None:
    generator = torch.Generator().manual_seed(length)
    shown_to = torch.randint(0, 3, (3, length), generator=generator)
    shown_to[0, : length // 2] = 2  # an image of whole blocks
    shown_to[1, length // 2 :] = 0  # padding of whole blocks
    mask = block_mask(shown_to)
    size = -(-length // 128) * 128
    allowed = torch.nn.functional.pad(dense_mask(shown_to), (0, size - length, 0, size - length))
    blocks = allowed.view(3, size // 128, 128, size // 128, 128)
    allows_some, allows_all = blocks.any(dim=4).any(dim=2), blocks.all(dim=4).all(dim=2)
    looked_at, full = (
        listed(mask.kv_num_blocks, mask.kv_indices),
        listed(mask.full_kv_num_blocks, mask.full_kv_indices),
    )
    assert not (looked_at & full).any()
    assert torch.equal(looked_at | full, allows_some)
    whole_rows = length // 128  # in the last, torn row of blocks the padded queries see nothing in the dense form
    assert torch.equal(full[:, :whole_rows], allows_all[:, :whole_rows])


def listed(counts: Tensor, indices: Tensor) -> Tensor:
    """Return [B, Q, Q] bool, the blocks that are among the first `counts` of each row's `indices`."""
    taken = torch.arange(indices.shape[-1]) < counts[..., None]
    return torch.zeros_like(taken).scatter(-1, indices.long(), taken)[:, 0]


@pytest.mark.parametrize("kind", ["mixed", "prefix"])
def test_flex_attention_computes_what_the_dense_mask_does(kind: str) -> None:
    generator = torch.Generator().manual_seed(0)
    query, key, value = torch.randn(3, 2, 2, 5, 16, generator=generator)
    flexible = flex_attention(query, key, value, block_mask=build("flex_attention", kind))
    expected = scaled_dot_product_attention(query, key, value, attn_mask=dense(kind))
    torch.testing.assert_close(flexible, expected)


def test_a_mask_of_other_tensors_is_the_same_function_so_it_compiles_once() -> None:
    masks = [build("flex_attention", kind).mask_mod for kind in ("mixed", "prefix")]
    assert masks[0].__code__ is masks[1].__code__
    assert [type(cell.cell_contents) for mask in masks for cell in mask.__closure__] == [Tensor, Tensor]


@pytest.mark.parametrize("kernel", ["sdpa", "eager", "flex_attention"])
def test_causal_rows_get_no_mask(kernel: str) -> None:
    assert build(kernel, "causal") is None


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="attention is 'full', expected causal, mixed or prefix"):
        build("sdpa", "full")


def test_a_kernel_without_masks_is_refused() -> None:
    with pytest.raises(RecipeError, match="attention kernel 'flash_attention_2' cannot do mixed attention") as caught:
        build("flash_attention_2", "mixed")
    assert caught.value.hint == "set model.attention to one of sdpa, flex_attention, eager"


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
