"""How strongly each objective alone pulls at the LLM over a whole step: the balance that α sets, measured."""

import functools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from croc_cli.data.micro_batch import MicroBatch
from croc_cli.train.collectives import sum_over_ranks
from croc_cli.train.optimizer import group_of
from croc_cli.train.position import POSITION
from croc_cli.train.stage_module import StageModule
from croc_cli.train.zero3 import gradients_stay

BUCKETS = 1 << 16
"""Numbers kept of a parameter's gradient. Its norm is then known to about 1 / √(2 · BUCKETS) = 0.3 %, and exactly where
the parameter has no more numbers than that."""
_BLOCK_ROWS = 64
"""Rows of BUCKETS numbers that are taken in at once: 16 MB in float32."""


def measure_gradient_shares(
    module: StageModule,
    micro_batches: Sequence[MicroBatch],
    *,
    weights: Callable[[MicroBatch], dict[str, Tensor]],
    device: torch.device,
    before_each: Callable[[MicroBatch], None] = lambda _: None,
) -> dict[str, float]:
    """Return the norms of the step's gradients that the caption and the reconstruction objective alone give the LLM.

    Weights (α) are included. The norms are those of the whole step over all ranks, however it is cut into
    micro-batches. It takes as long as two further steps, and some MB: gradients are taken beside the engine, and each
    is added to a sketch of `BUCKETS` numbers as soon as it is there, so none is kept whole and no weight changes.

    Args:
        module: The training module; with ZeRO-3 its parameters gather as in any forward pass.
        micro_batches: This rank's micro-batches of the step.
        weights: Returns what a micro-batch's sums are multiplied by to give their shares of the step's means:
            `token_weight` and `image_weight`.
        device: Where the module is.
        before_each: Called before each forward pass, such as to seed dropout.
    """
    parameters = [p for name, p in module.named_parameters() if group_of(name) == "llm" and p.requires_grad]
    norms = {}
    for objective in ("caption", "reconstruction"):
        sketch = GradientSketch(parameters, device)
        with sketch, gradients_stay(module):
            for number, batch in enumerate(micro_batches):
                POSITION.at(f"measuring the gradient of the {objective} objective", micro_batch=number)
                before_each(batch)
                # A forward pass each: ZeRO-3 lets go of gathered weights in a backward pass, so no graph serves two.
                of_batch = weights(batch)
                _, parts = module(batch.to(device), **of_batch)
                weighted = {
                    "caption": parts.caption_sum * of_batch["token_weight"],
                    "reconstruction": parts.reconstruction_sum * of_batch["image_weight"],
                }[objective]
                if weighted.requires_grad and parameters:
                    torch.autograd.grad(weighted, parameters, allow_unused=True)
        norms[objective] = sketch.norm_over_ranks()
    return norms


class GradientSketch:
    """Adds up the gradients of parameters in little memory, so that the norm of their sum can be read.

    Every number gets a random sign and is added to one of `BUCKETS` sums (a count sketch, Charikar et al. 2002). That
    is linear, so sums over micro-batches and ranks are those of the whole gradient, and its expected squared norm is
    the gradient's.

    Args:
        parameters: Whose gradients are taken, while the object is entered as a context.
        device: Where they are.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], device: torch.device) -> None:
        self.parameters = parameters
        sizes = [min(BUCKETS, int(getattr(p, "ds_numel", p.numel()))) for p in parameters]
        self.sums = [torch.zeros(size, dtype=torch.float32, device=device) for size in sizes]

    def __enter__(self) -> "GradientSketch":
        self._handles = []
        for index, parameter in enumerate(self.parameters):
            hook = functools.partial(self._take, index)
            self._handles.append(parameter.register_hook(hook))  # type: ignore[no-untyped-call]  # torch has no type
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()

    def _take(self, index: int, gradient: Tensor) -> Tensor:
        """Add a gradient, and return one of the same shape that takes no memory for autograd to keep in its place."""
        self.add(index, gradient)
        return gradient.new_zeros(()).expand_as(gradient)

    def add(self, index: int, gradient: Tensor) -> None:
        """Add a gradient of the parameter with this index."""
        numbers, sums = gradient.detach().reshape(-1), self.sums[index]
        if numbers.numel() <= len(sums):
            sums += numbers
            return
        generator = torch.Generator(device=numbers.device).manual_seed(index)
        for block in torch.split(numbers, _BLOCK_ROWS * BUCKETS):
            signs = torch.randint(0, 2, block.shape, generator=generator, device=block.device, dtype=torch.int8) * 2 - 1
            signed = nn.functional.pad(block.float() * signs, (0, -len(block) % BUCKETS))
            sums += signed.view(-1, BUCKETS).sum(dim=0)

    def norm_over_ranks(self) -> float:
        """Return the norm of the sum over all gradients and ranks; every rank must call it at the same point."""
        if not self.sums:
            return 0.0
        return float(torch.linalg.vector_norm(sum_over_ranks(torch.cat(self.sums)).double()))
