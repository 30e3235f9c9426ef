"""Which token may attend to which: mixed attention, and the prefix form of the released code.

Letters: B samples, T tokens of a sequence, D hidden size.
"""

from collections.abc import Callable
from typing import Any

from torch import Tensor
from transformers.masking_utils import create_causal_mask

from croc_cli.errors import RecipeError

KERNELS = ("sdpa", "eager", "flex_attention")


def build_attention_mask(
    config: Any, inputs_embeds: Tensor, attention_mask: Tensor, *, kind: str, is_visual: Tensor, prefix_length: Tensor
) -> Any:
    """Make the mask that the LLM's attention kernel takes.

    Args:
        config: The LLM's config, which names its attention kernel.
        inputs_embeds: [B, T, D], for sizes, dtype and device.
        attention_mask: [B, T] int64 or bool, 0 at padding.
        kind: `causal`: the padding mask itself is returned, so that the LLM makes exactly the mask it always makes;
            `mixed` lets every token see all visual tokens (arXiv:2410.14332v3, section 3.3), `prefix` all tokens before
            the first label, as the released code does; text stays causal otherwise, and nothing sees padding.
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
