"""Liger's fused kernels in place of an LLM's own norms, rotary embeddings and gated layers, on a GPU."""

import importlib
import importlib.util
from typing import Any

from torch import nn

from croc_cli.errors import UsageError
from croc_cli.names import LIGER_PACKAGE

_KERNELS = {"rope": True, "rms_norm": True, "swiglu": True}
_LEFT_OUT = {"cross_entropy": False, "fused_linear_cross_entropy": False}
"""croc has losses of its own, which take the logits of trained tokens alone."""


def takes_liger(model_type: str) -> bool:
    """Tell whether Liger is installed and has kernels for an architecture, by the name in its config."""
    return importlib.util.find_spec(LIGER_PACKAGE) is not None and model_type in _patches()


def apply_liger(llm: nn.Module) -> None:
    """Have an LLM's layers run Liger's RMSNorm, rotary embedding and SwiGLU; weights and their names stay.

    Args:
        llm: Stock, without its head.

    Raises:
        UsageError: Liger has no kernels for this architecture.
    """
    config: Any = llm.config
    if config.model_type not in _patches():
        raise UsageError(
            f"launch.kernels: liger has no kernels for {config.model_type}", hint="--set launch.kernels=none"
        )
    patch = importlib.import_module(f"{LIGER_PACKAGE}.transformers")._apply_liger_kernel_to_instance
    patch(model=llm, **_KERNELS, **_LEFT_OUT)


def _patches() -> Any:
    """Return the architectures that Liger knows, by their names in configs."""
    return importlib.import_module(f"{LIGER_PACKAGE}.transformers.monkey_patch").MODEL_TYPE_TO_APPLY_LIGER_FN
