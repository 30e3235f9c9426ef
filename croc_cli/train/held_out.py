"""The loss of samples that are never trained on, measured between two steps without a trace in the training."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from croc_cli.data.held_out import HeldOutBatch, HeldOutLoader
from croc_cli.data.micro_batch import MicroBatch
from croc_cli.objectives.baseline import TargetSample
from croc_cli.objectives.reconstruction import mean_target_loss
from croc_cli.train.collectives import sum_over_ranks
from croc_cli.train.loss_groups import sample_losses
from croc_cli.train.position import POSITION
from croc_cli.train.stage_module import StageModule, StageOutput

_COLUMNS = (
    "caption",
    "tokens",
    "reconstruction",
    "images",
    "baseline",
    "samples",
    "bad_images",
    "own_caption",
    "other_caption",
    "swapped_tokens",
)
"""Sums of a micro-batch; `own_caption` is that of the samples which are also shown with other pictures."""


class HeldOutMeasure:
    """Measures the losses of held-out samples.

    The sums of each micro-batch are kept apart until all ranks' are together, and are then added in one order: the
    numbers are the same on any number of ranks.

    Args:
        module: The training module; with ZeRO-3 its parameters gather as in any forward pass.
        loader: This rank's micro-batches.
        every: Steps from one measurement to the next; the last step is always measured.
        device: Where the module is.
    """

    def __init__(self, module: StageModule, loader: HeldOutLoader, *, every: int, device: torch.device) -> None:
        self.module = module
        self.every = every
        self.loader = loader
        self.device = device

    @torch.no_grad()
    def measure(self) -> dict[str, Any]:
        """Return the losses as metrics.jsonl holds them; every rank must call it at the same point."""
        started = time.perf_counter()
        with untouched(self.module):
            sums = self._sums()
        total = dict(zip(_COLUMNS, sums.tolist(), strict=True))
        fields: dict[str, Any] = {"caption_loss": _ratio(total["caption"], total["tokens"])}
        if self.module.objectives.reconstruction_weight > 0:
            loss = _ratio(total["reconstruction"], total["images"])
            mean_loss = _ratio(total["baseline"], total["images"])
            fields["reconstruction_loss"] = loss
            fields["explained_share"] = 1 - loss / mean_loss if loss is not None and mean_loss else None
        if total["swapped_tokens"]:
            own, other = (total[key] / total["swapped_tokens"] for key in ("own_caption", "other_caption"))
            fields |= {"other_picture_caption_loss": other, "picture_gain": other - own}
        counts = {key: int(total[key]) for key in ("samples", "tokens", "images", "bad_images")}
        return fields | counts | {"seconds": time.perf_counter() - started}

    def _sums(self) -> Tensor:
        """Return [columns] float64 over all micro-batches of all ranks."""
        num_batches = len(self.loader.micro_batches)
        table = torch.zeros(num_batches, len(_COLUMNS), dtype=torch.float64)
        targets: dict[int, TargetSample] = {}
        for turn, batch in enumerate(self.loader.batches()):
            POSITION.at("measuring the held-out loss", micro_batch=turn)
            own, swapped = self._run(batch.own), self._run(batch.swapped)
            if batch.number is not None:
                table[batch.number] = _row(batch, own, swapped)
                if own.targets is not None:
                    targets[batch.number] = own.targets._replace(kept=own.targets.kept.cpu())
        POSITION.at("adding up the held-out losses")
        mean = self._mean_target(targets, num_batches)
        for number, sample in targets.items():
            there = sample._replace(kept=sample.kept.to(self.device))
            assert mean is not None
            table[number, _COLUMNS.index("baseline")] = mean_target_loss(mean, there, self.module.objectives).double()
        return sum_over_ranks(table.to(self.device)).cpu().sum(dim=0)

    def _run(self, batch: MicroBatch) -> StageOutput:
        one = torch.ones((), device=self.device)
        _, parts = self.module(batch.to(self.device), token_weight=one, image_weight=one)
        output: StageOutput = parts
        return output

    def _mean_target(self, targets: dict[int, TargetSample], num_batches: int) -> Tensor | None:
        """Return [D], the mean of all counted targets; None without the objective."""
        if self.module.objectives.reconstruction_weight == 0:
            return None
        dim = self.module.model.llava.config.text_config.hidden_size
        table = torch.zeros(num_batches, dim + 1, dtype=torch.float64)
        for number, sample in targets.items():
            table[number, :-1] = sample.total.double()
            table[number, -1] = sample.num_counted.double()
        total = sum_over_ranks(table.to(self.device)).cpu().sum(dim=0)
        return (total[:-1] / total[-1].clamp(min=1)).float().to(self.device)


def _row(batch: HeldOutBatch, own: StageOutput, swapped: StageOutput) -> Tensor:
    """Return [columns] float64 of one micro-batch; `baseline` is still zero."""
    with_other = {sample.id: sample for sample in sample_losses([batch.swapped], [swapped.caption_by_sample])}
    losses = sample_losses([batch.own], [own.caption_by_sample])
    both = [sample for sample in losses if sample.id in with_other and with_other[sample.id].tokens == sample.tokens]
    values = {
        "caption": sum(sample.loss for sample in losses),
        "tokens": sum(sample.tokens for sample in losses),
        "reconstruction": float(own.reconstruction_sum),
        "images": int(batch.own.image_is_real.sum()),
        "samples": len(losses),
        "bad_images": len(batch.own.bad_images),
        "own_caption": sum(sample.loss for sample in both),
        "other_caption": sum(with_other[sample.id].loss for sample in both),
        "swapped_tokens": sum(sample.tokens for sample in both),
    }
    return torch.tensor([values.get(column, 0) for column in _COLUMNS], dtype=torch.float64)


def _ratio(total: float, count: float) -> float | None:
    return total / count if count else None


@contextmanager
def untouched(module: nn.Module) -> Iterator[None]:
    """Run a module without dropout, and leave its modes and the random numbers of the training as they were."""
    modes = {part: part.training for part in module.modules()}
    state = torch.get_rng_state()
    module.eval()
    try:
        yield
    finally:
        for part, mode in modes.items():
            part.training = mode
        torch.set_rng_state(state)
