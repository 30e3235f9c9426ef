"""ZeRO-3 with few of its hooks: layers that are gathered at once, and small parts that stay whole on every rank.

DeepSpeed runs Python around every module to gather and let go of its parameters. Around the many small modules of a
layer that takes longer than a GPU needs for them, so a decoder layer is a leaf: it is gathered as one, and the hooks
run around it. Vision tower, projector and pool are whole on each rank (their gradients and optimizer state are not):
what is computed ahead of a step uses them outside the engine's forward pass.
"""

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import nn

from croc_cli.model.lmm import MultimodalModel


def set_leaves(model: MultimodalModel) -> None:
    """Mark the modules that DeepSpeed is to gather as one; call it before the engine is made.

    A leaf gives its gradients away once the gradient of its input is there. Where no input needs one, as at a trained
    vision tower or projector, that is before they are computed, so neither may be a leaf.
    """
    from deepspeed.utils import set_z3_leaf_module

    llava = model.llava
    layers = list(llava.model.language_model.layers)
    before = [*_parts(model), llava.get_input_embeddings()]
    if not _is_trained(layers) or _is_trained(before):
        for layer in layers:
            set_z3_leaf_module(layer, True)
    if not _is_trained([llava.model.vision_tower]):
        set_z3_leaf_module(llava.model.vision_tower, True)


def keep_whole(engine: Any, model: MultimodalModel) -> None:
    """Have the engine keep vision tower, projector and pool whole between steps, as it does the smallest weights."""
    persistent = engine.optimizer.persistent_parameters
    known = {id(parameter) for parameter in persistent}
    for parameter in _parameters(_parts(model)):
        parameter.ds_persist = True  # type: ignore[attr-defined]  # DeepSpeed's mark
        if id(parameter) not in known:
            persistent.append(parameter)


@contextmanager
def outside_forward(engine: Any, model: MultimodalModel) -> Iterator[None]:
    """Let vision tower, projector and pool run outside the engine's forward pass; every rank must enter it.

    Without ZeRO-3 it does nothing. DeepSpeed lets go of all parameters at a step that it skips and when it saves, and
    gathers them at the next forward pass; here that is done before. Its hooks would take what runs now for a part of
    the forward pass, whose order they know, and are taken out meanwhile.
    """
    offload = getattr(engine.optimizer, "parameter_offload", None)
    if offload is None:
        yield
        return
    parts = _parts(model)
    parameters: list[Any] = _parameters(parts)
    parameters[0].all_gather(parameters)  # those that are not there
    own = {handle.id for handle in (*offload.forward_hooks, *offload.backward_hooks)}
    modules = [module for part in parts for module in part.modules()]
    all_hooks = [hooks for module in modules for hooks in (module._forward_pre_hooks, module._forward_hooks)]
    before = [dict(hooks) for hooks in all_hooks]
    for hooks in all_hooks:
        for key in own & hooks.keys():
            del hooks[key]
    try:
        yield
    finally:
        for hooks, kept in zip(all_hooks, before, strict=True):
            added = {key: hook for key, hook in hooks.items() if key not in kept}
            hooks.clear()
            hooks.update(kept | added)  # in the order of before


@contextmanager
def gradients_stay(module: nn.Module) -> Iterator[None]:
    """Keep leaves from giving their gradients away: for backward passes that are not the engine's."""
    leaves = [part for part in module.modules() if getattr(part, "_z3_leaf", False)]
    hooks = [leaf._backward_hooks for leaf in leaves]
    for leaf in leaves:
        leaf._backward_hooks = OrderedDict()
    try:
        yield
    finally:
        for leaf, own in zip(leaves, hooks, strict=True):
            leaf._backward_hooks = own


def _parts(model: MultimodalModel) -> list[nn.Module]:
    parts = [model.llava.model.vision_tower, model.llava.model.multi_modal_projector, model.pool]
    return [part for part in parts if part is not None]


def _parameters(parts: Sequence[nn.Module]) -> list[nn.Parameter]:
    return [parameter for part in parts for parameter in part.parameters()]


def _is_trained(parts: Sequence[nn.Module]) -> bool:
    return any(parameter.requires_grad for parameter in _parameters(parts))
