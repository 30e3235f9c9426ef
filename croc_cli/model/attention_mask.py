"""Which token may attend to which: mixed attention, and the prefix form of the released code.

Letters: B samples, T tokens of a sequence, D hidden size.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers.masking_utils import create_causal_mask

from croc_cli.errors import RecipeError

KERNELS = ("sdpa", "eager", "flex_attention")


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


def build_attention_mask(
    config: Any, inputs_embeds: Tensor, attention_mask: Tensor, *, kind: str, is_visual: Tensor, prefix_length: Tensor
) -> Any:
    """Make the mask that the LLM's attention kernel takes.

    Args:
        config: The LLM's config, which names its attention kernel.
        inputs_embeds: [B, T, D], for sizes, dtype and device.
        attention_mask: [B, T] int64 or bool, 0 at padding.
        kind: `causal`: the padding mask itself is returned, so that the LLM makes exactly the mask it always makes;
            `mixed` or `prefix`, see the functions above.
        is_visual: [B, T] bool, True at visual tokens.
        prefix_length: [B] int64, tokens before the first label.

    Returns:
        [B, T] for `causal`; else [B, 1, T, T] bool (sdpa) or float (eager), or a BlockMask (flex_attention).

    Raises:
        RecipeError: The kernel or the LLM's own attention pattern leaves no place for another mask.
        ValueError: Unknown `kind`.
    """
    if kind == "causal":
        return attention_mask
    sees_early: Callable[[Any, Any, Any, Any], Any]
    if kind == "mixed":

        def sees_early(batch: Any, _head: Any, _query: Any, key: Any) -> Any:
            return is_visual[batch, key]

    elif kind == "prefix":

        def sees_early(batch: Any, _head: Any, _query: Any, key: Any) -> Any:
            return key < prefix_length[batch]

    else:
        raise ValueError(f"attention is {kind!r}, expected causal, mixed or prefix")
    _check_takes_mask(config, kind, length=inputs_embeds.shape[1])
    return create_causal_mask(
        config=config,
        inputs_embeds=inputs_embeds,
        attention_mask=attention_mask,
        past_key_values=None,
        or_mask_function=sees_early,
    )


def _check_takes_mask(config: Any, kind: str, *, length: int) -> None:
    if config._attn_implementation not in KERNELS:
        raise RecipeError(
            f"attention kernel {config._attn_implementation!r} cannot do {kind} attention",
            hint=f"set model.attention to one of {', '.join(KERNELS)}",
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


def _causal(like: Tensor) -> Tensor:
    """Return [1, 1, T, T] bool, True at and below the diagonal, for `like` of [B, T]."""
    length = like.shape[1]
    return torch.ones(length, length, dtype=torch.bool, device=like.device).tril()[None, None]
