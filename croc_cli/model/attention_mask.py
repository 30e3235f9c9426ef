"""Which token may attend to which: mixed attention, and the prefix form of the released code.

Letters: B samples, T tokens of a sequence, D hidden size, Q blocks of `BLOCK` tokens that a sequence is cut into.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask

from croc_cli.errors import RecipeError
from croc_cli.names import MASKING_KERNELS

BLOCK = 128
"""Tokens along a side of flex_attention's blocks; torch's own choice."""

_LATER, _EVERYONE = 1, 2
"""What a key shows itself to: queries that are not before it, or all of them; 0 = to none."""


def build_attention_mask(
    config: Any, inputs_embeds: Tensor, attention_mask: Tensor, *, kind: str, is_visual: Tensor, prefix_length: Tensor
) -> Any:
    """Make the mask that the LLM's attention kernel takes.

    Args:
        config: The LLM's config, which names its attention kernel.
        inputs_embeds: [B, T, D], for dtype and device.
        attention_mask: [B, T] int64 or bool, 0 at padding, which is on the right.
        kind: `causal`: no mask, so that kernels take their fastest path; nothing that is trained comes after padding.
            `mixed` lets every token see all visual tokens (arXiv:2410.14332v3, section 3.3), `prefix` all tokens before
            the first label, as the released code does; text stays causal otherwise, and nothing sees padding.
        is_visual: [B, T] bool, True at visual tokens.
        prefix_length: [B] int64, tokens before the first label.

    Returns:
        None for `causal`; else [B, 1, T, T] bool (sdpa) or float (eager), or a BlockMask (flex_attention).

    Raises:
        RecipeError: The kernel or the LLM's own attention pattern leaves no place for another mask.
        ValueError: Unknown `kind`.
    """
    if kind == "causal":
        return None
    if kind == "mixed":
        seen_by_all = is_visual
    elif kind == "prefix":
        seen_by_all = torch.arange(is_visual.shape[1], device=is_visual.device) < prefix_length[:, None]
    else:
        raise ValueError(f"attention is {kind!r}, expected causal, mixed or prefix")
    kernel = config._attn_implementation
    _check_takes_mask(config, kind, length=inputs_embeds.shape[1])
    shown_to = torch.where(seen_by_all, _EVERYONE, _LATER) * attention_mask.bool()
    if kernel == "flex_attention":
        return block_mask(shown_to)
    allowed = dense_mask(shown_to)
    if kernel == "sdpa":
        return allowed
    zero = inputs_embeds.new_zeros(())
    return torch.where(allowed, zero, torch.finfo(inputs_embeds.dtype).min)


def dense_mask(shown_to: Tensor) -> Tensor:
    """Return [B, 1, T, T] bool; row = query, column = key, True = may attend.

    Args:
        shown_to: [B, T] int64, for each key 0 = nobody, 1 = queries that are not before it, 2 = everyone.
    """
    positions = torch.arange(shown_to.shape[1], device=shown_to.device)
    causal = positions[:, None] >= positions
    keys = shown_to[:, None, None, :]
    return (keys == _EVERYONE) | ((keys == _LATER) & causal)


def block_mask(shown_to: Tensor) -> BlockMask:
    """Return the same mask for flex_attention, found from the keys block by block, without any [T, T] matrix.

    Args:
        shown_to: [B, T] int64, see `dense_mask`.
    """
    batch, length = shown_to.shape
    num_blocks = -(-length // BLOCK)
    padded = torch.nn.functional.pad(shown_to, (0, num_blocks * BLOCK - length))
    keys = padded.view(batch, 1, num_blocks, BLOCK)
    blocks = torch.arange(num_blocks, device=shown_to.device)
    before, same = blocks[:, None] > blocks, blocks[:, None] == blocks  # the block of keys lies before that of queries
    some_key, every_key = (keys > 0).any(dim=-1), (keys > 0).all(dim=-1)
    some_early, every_early = (keys == _EVERYONE).any(dim=-1), (keys == _EVERYONE).all(dim=-1)
    # [B, Q, Q]: blocks in which something may attend, and those in which all may, which need no look at the mask
    some = some_early | (some_key & (before | same))
    full = every_early | (every_key & before)
    partial_count, partial_index = _listed(some & ~full)
    full_count, full_index = _listed(full)
    return BlockMask.from_kv_blocks(
        partial_count,
        partial_index,
        full_count,
        full_index,
        BLOCK_SIZE=BLOCK,
        mask_mod=_mask_function(shown_to),
        seq_lengths=(length, length),
    )


def _mask_function(shown_to: Tensor) -> Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]:
    """Return the mask as a function of indices. All it closes over is one tensor, so kernels compile it once."""

    def may_attend(batch: Tensor, _head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        shown = shown_to[batch, key]
        return (shown == 2) | ((shown == 1) & (query >= key))

    return may_attend


def _listed(blocks: Tensor) -> tuple[Tensor, Tensor]:
    """Return [B, 1, Q] int32, how many blocks of keys each block of queries has, and [B, 1, Q, Q], they come first."""
    order = torch.argsort(blocks.int(), dim=-1, descending=True, stable=True)
    return blocks.sum(dim=-1, dtype=torch.int32)[:, None], order.int()[:, None]


def _check_takes_mask(config: Any, kind: str, *, length: int) -> None:
    if config._attn_implementation not in MASKING_KERNELS:
        raise RecipeError(
            f"attention kernel {config._attn_implementation!r} cannot do {kind} attention",
            hint=f"set model.attention to one of {', '.join(MASKING_KERNELS)}",
        )
    window = getattr(config, "sliding_window", None)
    if window is not None and length > window:
        raise RecipeError(
            f"{kind} attention needs an LLM whose layers attend to the whole sequence; {config.model_type} looks back "
            f"{window} tokens, and this sequence has {length}",
            hint=f"set reconstruct.max_length to {window} at most, or reconstruct.attention to causal",
        )
    other = {kind for kind in getattr(config, "layer_types", None) or () if kind != "full_attention"}
    if other:
        raise RecipeError(
            f"{kind} attention needs an LLM whose layers all attend to the whole sequence; "
            f"{config.model_type} has {', '.join(sorted(other))}",
            hint="set reconstruct.attention to causal, or choose another LLM",
        )
