"""Which token may attend to which: mixed attention, the prefix form of the released code, and samples that share rows.

Letters: B rows, T tokens of a row, D hidden size, Q blocks of `BLOCK` tokens that a row is cut into.
"""

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask

from croc_cli.errors import RecipeError
from croc_cli.names import FLASH_PACKAGES, MASKING_KERNELS

BLOCK = 128
"""Tokens along a side of flex_attention's blocks; torch's own choice."""

_LATER, _EVERYONE = 1, 2
"""What a key shows itself to: queries that are not before it, or all of them; 0 = to none."""


def build_attention_mask(
    config: Any,
    inputs_embeds: Tensor,
    attention_mask: Tensor,
    *,
    kind: str,
    is_visual: Tensor,
    is_label: Tensor,
    position_ids: Tensor | None = None,
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
        is_label: [B, T] bool, True at trained tokens.
        position_ids: [B, T] int64, positions of tokens in their samples where samples share rows: nothing sees another
            sample then, in any kind. What fills a row up is a sample of its own. None where each sample has a row.

    Returns:
        None for `causal` without packing, and for flash attention, which takes the samples' boundaries; else
        [B, 1, T, T] bool (sdpa) or float (eager), or a BlockMask (flex_attention).

    Raises:
        RecipeError: The kernel or the LLM's own attention pattern leaves no place for another mask.
        ValueError: Unknown `kind`.
    """
    kernel = config._attn_implementation
    if kind == "causal" and (position_ids is None or kernel in FLASH_PACKAGES):
        return None
    if kind == "causal":
        seen_by_all = torch.zeros_like(is_visual)
    elif kind == "mixed":
        seen_by_all = is_visual
    elif kind == "prefix":
        seen_by_all = _before_first_label(is_label, position_ids)
    else:
        raise ValueError(f"attention is {kind!r}, expected causal, mixed or prefix")
    shown_to = torch.where(seen_by_all, _EVERYONE, _LATER)
    samples = None
    if position_ids is None:
        _check_takes_mask(config, kind, length=inputs_embeds.shape[1])
        shown_to = shown_to * attention_mask.bool()
    else:
        samples = (position_ids == 0).cumsum(dim=1)  # what fills up sees itself, for some kernels need a key
    if kernel == "flex_attention":
        return block_mask(shown_to, samples)
    allowed = dense_mask(shown_to, samples)
    if kernel == "sdpa":
        return allowed
    zero = inputs_embeds.new_zeros(())
    return torch.where(allowed, zero, torch.finfo(inputs_embeds.dtype).min)


def dense_mask(shown_to: Tensor, samples: Tensor | None = None) -> Tensor:
    """Return [B, 1, T, T] bool; row = query, column = key, True = may attend.

    Args:
        shown_to: [B, T] int64, for each key 0 = nobody, 1 = queries that are not before it, 2 = everyone.
        samples: [B, T] int64, the number of each token's sample, never falling along a row; only queries of the same
            sample are meant then. None where each row is one sample.
    """
    positions = torch.arange(shown_to.shape[1], device=shown_to.device)
    causal = positions[:, None] >= positions
    keys = shown_to[:, None, None, :]
    allowed = (keys == _EVERYONE) | ((keys == _LATER) & causal)
    return allowed if samples is None else allowed & (samples[:, None, :, None] == samples[:, None, None, :])


def block_mask(shown_to: Tensor, samples: Tensor | None = None) -> BlockMask:
    """Return the same mask for flex_attention, found from the keys block by block, without any [T, T] matrix.

    Args:
        shown_to: [B, T] int64, see `dense_mask`.
        samples: [B, T] int64, see `dense_mask`.
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
    if samples is not None:
        of_blocks = torch.nn.functional.pad(samples, (0, num_blocks * BLOCK - length), mode="replicate")
        first, last = (of_blocks.view(batch, num_blocks, BLOCK)[..., end] for end in (0, -1))
        some = some & (first[:, :, None] <= last[:, None]) & (first[:, None] <= last[:, :, None])
        full = full & (first[:, :, None] == last[:, None]) & (first[:, None] == last[:, :, None])
    partial_count, partial_index = _listed(some & ~full)
    full_count, full_index = _listed(full)
    return BlockMask.from_kv_blocks(
        partial_count,
        partial_index,
        full_count,
        full_index,
        BLOCK_SIZE=BLOCK,
        mask_mod=_mask_function(shown_to) if samples is None else _packed_mask_function(shown_to, samples),
        seq_lengths=(length, length),
    )


def _mask_function(shown_to: Tensor) -> Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]:
    """Return the mask as a function of indices. All it closes over is one tensor, so kernels compile it once."""

    def may_attend(batch: Tensor, _head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        shown = shown_to[batch, key]
        return (shown == 2) | ((shown == 1) & (query >= key))

    return may_attend


def _packed_mask_function(shown_to: Tensor, samples: Tensor) -> Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]:
    """Return the mask of rows that samples share; it closes over two tensors."""

    def may_attend(batch: Tensor, _head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        shown = shown_to[batch, key]
        return (samples[batch, query] == samples[batch, key]) & ((shown == 2) | ((shown == 1) & (query >= key)))

    return may_attend


def _before_first_label(is_label: Tensor, position_ids: Tensor | None) -> Tensor:
    """Return [B, T] bool, True at tokens before the first label of their sample; all of a sample without labels."""
    labels = is_label.int()
    seen = labels.cumsum(dim=1)
    if position_ids is not None:
        starts = torch.arange(labels.shape[1], device=labels.device) - position_ids
        seen = seen - (seen - labels).gather(1, starts)
    return seen == 0


def check_takes_packing(llm: nn.Module, *, longest: int) -> None:
    """Raise RecipeError where an LLM cannot keep samples that share a row apart.

    Args:
        llm: Stock, without its head.
        longest: Tokens of a sample at most.
    """
    config: Any = llm.config
    other = {kind for kind in getattr(config, "layer_types", None) or () if kind != "full_attention"}
    window = getattr(config, "sliding_window", None)
    hint = "set batch.packing of the stage to false, or choose another LLM"
    if "position_ids" not in inspect.signature(llm.forward).parameters:
        raise RecipeError(
            f"packing needs an LLM that takes positions; {config.model_type} counts them itself", hint=hint
        )
    if other:
        raise RecipeError(
            f"packing needs an LLM whose layers all attend to the whole sequence; {config.model_type} has "
            f"{', '.join(sorted(other))}",
            hint=hint,
        )
    if window is not None and longest > window:
        raise RecipeError(
            f"packing needs an LLM whose layers attend to a whole sample; {config.model_type} looks back {window} "
            f"tokens, and samples have up to {longest}",
            hint=f"{hint}; or set max_length to {window} at most",
        )


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
