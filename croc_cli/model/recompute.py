"""Turns on the recomputation of layers in the backward pass."""

from typing import Any

from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer

from croc_cli.recipe.recomputation import is_recomputed


def enable_recomputation(model: Any, choice: str) -> None:
    """Have a transformers model compute layers again in its backward pass.

    Each stack of layers (the LLM's, the tower's) is counted from its own first layer.

    Args:
        model: A `PreTrainedModel`.
        choice: `none`, `alternate` or `full`.
    """
    if choice == "none":
        return
    model.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
    for stack in (one for one in model.modules() if isinstance(one, nn.ModuleList)):
        for number, layer in enumerate(stack):
            if isinstance(layer, GradientCheckpointingLayer):
                layer.gradient_checkpointing = is_recomputed(choice, number)
