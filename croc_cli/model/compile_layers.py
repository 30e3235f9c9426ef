"""Compiles the LLM's decoder layers one by one, which fuses their element-wise work on a GPU."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn
from torch._dynamo.exc import TorchDynamoException

from croc_cli.errors import first_line

_RECOMPILES = 64
"""Variants of a layer's code that torch keeps; its own 8 are few for layers that share the code."""


def compile_layers(
    layers: Iterable[nn.Module], *, say: Callable[[str], None], backend: str | Callable[..., Any] = "inductor"
) -> None:
    """Compile each layer's forward, in place: names of weights and hooks of the layers stay as they are.

    From the first call that cannot be compiled, all layers run as they were.

    Args:
        layers: Decoder layers.
        say: Told once, in one line, that compiling failed.
        backend: As `torch.compile` takes it.
    """
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, _RECOMPILES)
    switch = _Switch(say)
    for layer in layers:
        layer.forward = switch.guard(layer.forward, torch.compile(layer.forward, backend=backend))


class _Switch:
    """Turns all layers from compiled to plain at the first failure."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self.say = say
        self.compiles = True

    def guard(self, plain: Callable[..., Any], compiled: Callable[..., Any]) -> Callable[..., Any]:
        """Return a function that runs `compiled` until one cannot be compiled, then `plain`."""

        def forward(*arguments: Any, **named: Any) -> Any:
            if self.compiles:
                try:
                    return compiled(*arguments, **named)
                except TorchDynamoException as error:
                    self.compiles = False
                    cause = getattr(error, "inner_exception", error)  # of a backend; the error itself only names it
                    self.say(f"torch.compile failed, so the LLM's layers run without it: {first_line(cause)}")
            return plain(*arguments, **named)

        return forward
