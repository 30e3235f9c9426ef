"""Whole weights on one rank, whatever ZeRO made of them."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from croc_cli.train.collectives import rank


def gathered(parameters: list[nn.Parameter]) -> AbstractContextManager[Any]:
    """Return a context in which ZeRO-3 parameters are whole on every rank; without ZeRO-3 it does nothing."""
    if any(hasattr(parameter, "ds_id") for parameter in parameters):
        import deepspeed

        return deepspeed.zero.GatheredParameters(parameters)  # type: ignore[no-any-return]  # deepspeed is not typed
    return nullcontext()


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
