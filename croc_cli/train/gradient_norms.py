"""The gradient norm of each parameter group, as the optimizer finds it on its way to the norm of all."""

import math
from collections.abc import Callable
from functools import wraps
from typing import Any

import torch

from croc_cli.model.transfers import to_host

_NORMS = ("get_grad_norm_direct", "complete_grad_norm_calculation_for_cpu_offload")
"""Methods of DeepSpeed's ZeRO optimizers that return one group's norm over all ranks, called once a group and step."""


class GradientNorms:
    """Listens to an optimizer, so that no rank has to send anything more.

    Args:
        optimizer: The engine's: a ZeRO optimizer, DeepSpeed's for ZeRO-1 in bf16, which takes the norm of all gradients
            at once, or one with `group_norms`, such as `SkippingAdamW`.
    """

    def __init__(self, optimizer: Any) -> None:
        self._optimizer = optimizer
        self._heard: list[Any] = []
        for name in _NORMS:
            if callable(method := getattr(optimizer, name, None)):
                setattr(optimizer, name, self._heard_from(method))
        if callable(method := getattr(optimizer, "get_grads_for_norm", None)):
            optimizer.get_grads_for_norm = self._measured_before(method)

    def take(self) -> dict[str, float] | None:
        """Return the norms of the step that has just ended, by group; None where it had none, or was skipped."""
        return self.fetch()()

    def fetch(self) -> Callable[[], dict[str, float] | None]:
        """Return what tells these norms later, once they have come from the device."""
        if (own := getattr(self._optimizer, "group_norms", None)) is not None:
            kept = dict(own) or None
            return lambda: kept
        heard, self._heard = [to_host(norm) if torch.is_tensor(norm) else norm for norm in self._heard], []
        return lambda: self._by_group([float(norm) for norm in heard])

    def _by_group(self, heard: list[float]) -> dict[str, float] | None:
        groups = self._optimizer.param_groups
        # ZeRO-3 cuts groups into sub-groups; its norms are those of sub-groups, in order
        owners = getattr(self._optimizer, "sub_group_to_group_id", None) or dict(enumerate(range(len(groups))))
        if len(heard) != len(owners) or not all(math.isfinite(norm) and norm >= 0 for norm in heard):
            return None
        squares: dict[str, float] = {}
        for index, norm in enumerate(heard):
            name = groups[owners[index]]["name"]
            squares[name] = squares.get(name, 0.0) + norm**2
        return {name: math.sqrt(square) for name, square in squares.items()}

    def _heard_from(self, method: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(method)
        def listened(*args: Any, **options: Any) -> Any:
            norm = method(*args, **options)
            self._heard.append(norm)
            return norm

        return listened

    def _measured_before(self, method: Callable[..., Any]) -> Callable[..., Any]:
        """Measure the whole gradients that ZeRO-1 in bf16 keeps on every rank, before it clips and clears them."""

        @wraps(method)
        def measured(*args: Any, **options: Any) -> Any:
            if not options.get("for_clipping"):
                kept, is_there = self._optimizer.fp32_groups_gradients, self._optimizer.fp32_groups_has_gradients
                for gradients, flags in zip(kept, is_there, strict=True):
                    found = [gradient for gradient, flag in zip(gradients, flags, strict=True) if flag]
                    self._heard.append(torch.nn.utils.get_total_norm(found))
            return method(*args, **options)

        return measured
