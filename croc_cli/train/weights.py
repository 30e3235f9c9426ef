"""Whole weights on one rank, whatever ZeRO made of them."""

import copy
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from accelerate import init_empty_weights
from torch import Tensor, nn
from transformers import LlavaForConditionalGeneration

from croc_cli.train.collectives import rank


def gathered(parameters: list[nn.Parameter]) -> AbstractContextManager[Any]:
    """Return a context in which ZeRO-3 parameters are whole on every rank; without ZeRO-3 it does nothing."""
    if any(hasattr(parameter, "ds_id") for parameter in parameters):
        import deepspeed

        return deepspeed.zero.GatheredParameters(parameters)  # type: ignore[no-any-return]  # deepspeed is not typed
    return nullcontext()


@contextmanager
def visual_parts_on(llava: Any, device: str) -> Iterator[None]:
    """Have vision tower and projector whole and on `device`, without gradients; every rank must enter it.

    The LLM stays where and as it is: under ZeRO-3 it would not fit on one device.
    """
    parts = [llava.model.vision_tower, llava.model.multi_modal_projector]
    with torch.no_grad(), gathered([parameter for part in parts for parameter in part.parameters()]):
        homes = [next(part.parameters()).device for part in parts]
        for part in parts:
            part.to(device)
        try:
            yield
        finally:
            for part, home in zip(parts, homes, strict=True):
                part.to(home)


@torch.no_grad()
def answering_copy(llava: LlavaForConditionalGeneration) -> LlavaForConditionalGeneration:
    """Return a LLaVA that answers with the weights of one that trains, and leaves everything else of it alone.

    It shares the weights where a rank has them whole. ZeRO-3's are gathered, so it takes a whole model's memory on
    every rank; no rank then needs another to answer. Every rank must call it.
    """
    config = type(llava.config).from_dict(llava.config.to_dict())  # as a checkpoint holds it, without kernels
    with init_empty_weights(include_buffers=False):
        answering = type(llava)(config)
    weights: dict[str, Tensor] = {}
    for name, parameter in llava.named_parameters(remove_duplicate=False):
        with gathered([parameter]):
            weights[name] = parameter.detach().clone() if hasattr(parameter, "ds_id") else parameter.detach()
    not_parameters = dict(llava.named_buffers())
    weights |= {name: value for name, value in llava.state_dict().items() if name in not_parameters}
    answering.load_state_dict(weights, assign=True)
    answering.generation_config = copy.deepcopy(llava.generation_config)
    return answering


@torch.no_grad()
def whole_state_dict(module: nn.Module) -> dict[str, Tensor] | None:
    """Return the module's state dict on the CPU of rank 0, and None on the other ranks.

    Every rank must call it: partitioned parameters are gathered one at a time, so that no rank ever holds more than
    its share and one parameter (rank 0: than the result).
    """
    on_main = rank() == 0
    state: dict[str, Tensor] = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        with gathered([parameter]):
            if on_main:
                state[name] = parameter.detach().to("cpu", copy=True)
    if not on_main:
        return None
    not_parameters = {name for name, _ in module.named_buffers()}
    state.update({k: v.detach().cpu().clone() for k, v in module.state_dict().items() if k in not_parameters})
    return state
