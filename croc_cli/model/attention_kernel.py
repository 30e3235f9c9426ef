"""Which attention kernel the LLM of a stage runs with."""

import importlib.util
from dataclasses import dataclass
from typing import Any, Final

KERNEL_NAMES: Final = {"auto": "sdpa", "flex": "flex_attention"}
"""What transformers calls a kernel that a recipe names otherwise; `auto` starts from the one that every LLM has."""

SMALLEST_FLEX_HEAD = 16
"""Dimensions of an attention head below which flex_attention has no kernel on a GPU."""


@dataclass(frozen=True)
class AttentionChoice:
    """A kernel and why it was taken.

    Args:
        kernel: As transformers calls it.
        reason: For people.
    """

    kernel: str
    reason: str

    def __str__(self) -> str:
        """Return a line for people, such as `sdpa (auto: causal needs no mask)`."""
        return f"{self.kernel} ({self.reason})"


def choose_attention(name: str, *, kind: str, on_gpu: bool, config: Any, packed: bool = False) -> AttentionChoice:
    """Return the kernel that `model.attention` means for a stage.

    Args:
        name: `auto`, or a kernel, which is taken as it is.
        kind: `causal`, `mixed` or `prefix`.
        on_gpu: Whether the stage computes on a GPU.
        config: The LLM's config.
        packed: Whether samples share rows, which takes a mask in any kind.
    """
    if name != "auto":
        return AttentionChoice(KERNEL_NAMES.get(name, name), "as model.attention says")
    if kind == "causal" and not packed:
        return AttentionChoice("sdpa", "auto: causal attention needs no mask")
    kind = f"packed {kind}" if packed else kind
    if not on_gpu:
        return AttentionChoice("sdpa", f"auto: {kind} attention on a CPU")
    if reason := _why_no_flex(config):
        return AttentionChoice("sdpa", f"auto: {kind} attention, and flex_attention cannot run: {reason}")
    return AttentionChoice("flex_attention", f"auto: {kind} attention on a GPU")


def _why_no_flex(config: Any) -> str | None:
    """Return what keeps flex_attention from training this LLM on a GPU, if anything."""
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    if head < SMALLEST_FLEX_HEAD:
        return f"heads of {head} dimensions, and it needs {SMALLEST_FLEX_HEAD}"
    if dropout := getattr(config, "attention_dropout", 0.0):
        return f"an attention dropout of {dropout:g}"
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed"
    return None
