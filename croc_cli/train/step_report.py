"""What one optimizer step did, summed over its micro-batches and over ranks."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from croc_cli.data.collate import MicroBatch
from croc_cli.model.transfers import to_host
from croc_cli.objectives.baseline import TargetSample
from croc_cli.objectives.reconstruction import mean_target_loss
from croc_cli.objectives.settings import ObjectiveSettings
from croc_cli.train.collectives import num_ranks, sum_over_hosts, sum_over_ranks
from croc_cli.train.loss_groups import LossGroups, SampleLoss, sample_losses
from croc_cli.train.stage_module import StageOutput


@dataclass(frozen=True)
class StepCounts:
    """What a step holds, over all ranks; known before its forward passes.

    Args:
        trained_tokens: Tokens with a label.
        images: Real images that take part in reconstruction.
        images_shown: Images that the samples have, real or not.
        tokens: Tokens, visual ones included, without padding.
        padded_tokens: Places of the padded batches.
        micro_batches: Those that hold a sample.
        samples, truncated, dropped, bad_images: Samples, and what happened to some of them.
        loading_microseconds: Time that ranks took to load the step's samples, added up.
        stop: Ranks that were asked to stop.
        save_failed: Ranks whose last save has failed since.
    """

    trained_tokens: int
    images: int
    images_shown: int
    tokens: int
    padded_tokens: int
    micro_batches: int
    samples: int
    truncated: int
    dropped: int
    bad_images: int
    loading_microseconds: int
    stop: int
    save_failed: int

    @classmethod
    def over_ranks(
        cls,
        micro_batches: list[MicroBatch],
        *,
        loading_seconds: float,
        stop: bool,
        save_failed: bool,
        device: torch.device,
    ) -> "StepCounts":
        """Count this rank's micro-batches and add up the ranks."""
        local = [
            sum(batch.num_trained_tokens for batch in micro_batches),
            sum(int(batch.image_is_real.sum()) for batch in micro_batches),
            sum(int((batch.image_rows >= 0).sum()) for batch in micro_batches),
            sum(int(batch.attention_mask.sum()) for batch in micro_batches),
            sum(batch.attention_mask.numel() for batch in micro_batches),
            sum(batch.num_samples > 0 for batch in micro_batches),
            sum(batch.num_samples for batch in micro_batches),
            sum(batch.num_truncated for batch in micro_batches),
            sum(batch.num_dropped for batch in micro_batches),
            sum(len(batch.bad_images) for batch in micro_batches),
            int(1e6 * loading_seconds),
            int(stop),
            int(save_failed),
        ]
        return cls(*(int(n) for n in sum_over_hosts(torch.tensor(local, dtype=torch.float64), device).tolist()))


class StepSums:
    """The losses and the assignment of one step, added up as its micro-batches run.

    Sums stay on the device until they are read, so that neither it nor the host waits for the other before.

    Args:
        pool_size: N, tokens in the pool; 0 without one.
        device: Where the step runs.
        objectives: How reconstruction is measured.
        groups: By what samples' losses are added up.
        solver_threads: Threads of this rank that solve assignments.
    """

    def __init__(
        self,
        pool_size: int,
        device: torch.device,
        *,
        objectives: ObjectiveSettings,
        groups: LossGroups,
        solver_threads: int = 1,
    ) -> None:
        self.device = device
        self.solver_threads = solver_threads
        self.groups = groups
        self.samples: list[SampleLoss] = []
        self.by_group: dict[str, Any] = {}
        self.objectives = objectives
        self.caption = self.reconstruction = self.baseline = 0.0
        self.assignment_cost = self.solver_seconds = self.wait_seconds = 0.0
        self.pool_counts = torch.zeros(pool_size, dtype=torch.float64)
        self._totals = torch.zeros(3, dtype=torch.float64)
        self._losses = torch.zeros(2, dtype=torch.float64, device=device)
        self._targets: list[TargetSample] = []
        self._finite: list[Tensor] = []
        self._batches: list[MicroBatch] = []
        self._by_sample: list[Tensor] = []

    def add(self, loss: Tensor, parts: StageOutput, batch: MicroBatch) -> None:
        """Add one micro-batch; `batch` as it was before it went to the device."""
        self._losses += torch.stack([parts.caption_sum, parts.reconstruction_sum]).detach().double()
        if parts.targets is not None:
            self._targets.append(parts.targets)
        self._finite.append(torch.isfinite(loss.detach()))
        self._batches.append(replace(batch, pixel_values=torch.empty(0)))  # which may be kept for a step more
        self._by_sample.append(parts.caption_by_sample)
        self.assignment_cost += parts.assignment_cost_sum
        self.solver_seconds += parts.solver_seconds
        self.wait_seconds += parts.wait_seconds
        if parts.assignment is not None:
            taken = parts.assignment[parts.assignment >= 0]
            self.pool_counts += torch.bincount(taken, minlength=len(self.pool_counts))

    def queue(self) -> None:
        """Add up the ranks on the device, and begin to copy what the host is to read; waits for nothing."""
        totals = sum_over_ranks(torch.cat([self._losses, self._baseline()[None]]))
        self._targets.clear()
        self._totals = to_host(totals)
        self._finite = [to_host(finite) for finite in self._finite]
        self._by_sample = [to_host(losses) for losses in self._by_sample]

    def read(self) -> None:
        """Take the sums in, once their copies are there, and add up what the hosts know; every rank must call it."""
        self.samples = sample_losses(self._batches, self._by_sample)
        by_group = self.groups.sums(self.samples)
        found = torch.tensor([self.assignment_cost, self.solver_seconds, self.wait_seconds], dtype=torch.float64)
        summed = sum_over_hosts(torch.cat([found, by_group, self.pool_counts]), self.device)
        self.assignment_cost, self.solver_seconds, self.wait_seconds = summed[:3].tolist()
        self.by_group = self.groups.fields(summed[3 : 3 + len(by_group)])
        self.pool_counts = summed[3 + len(by_group) :]
        self.caption, self.reconstruction, self.baseline = self._totals.tolist()

    def _baseline(self) -> Tensor:
        """Return this rank's sum of the loss of predicting the step's mean target, which all ranks find together."""
        baseline = torch.zeros((), dtype=torch.float64, device=self.device)
        if not self._targets:
            return baseline
        total = torch.stack([sample.total for sample in self._targets]).double().sum(dim=0)
        count = torch.stack([sample.num_counted for sample in self._targets]).double().sum()
        summed = sum_over_ranks(torch.cat([total, count[None]]))
        mean = (summed[:-1] / summed[-1].clamp(min=1)).float()
        for sample in self._targets:
            baseline += mean_target_loss(mean, sample, self.objectives).double()
        return baseline

    def assignment_times(self, step_seconds: float) -> dict[str, float]:
        """Return what the assignment took of the step, as metrics.jsonl holds it; the ranks' mean.

        The solver's share is of the time of its threads, the wait's of the time of the step.
        """
        solver, wait = self.solver_seconds / num_ranks(), self.wait_seconds / num_ranks()
        return {
            "assignment_solver_seconds": solver,
            "assignment_wait_seconds": wait,
            "assignment_solver_share": solver / self.solver_threads / step_seconds,
            "assignment_wait_share": wait / step_seconds,
        }

    def samples_not_finite(self) -> list[str]:
        """Return this rank's samples of micro-batches whose loss was not finite."""
        return [
            sample
            for finite, batch in zip(self._finite, self._batches, strict=True)
            if not bool(finite)
            for sample in batch.sample_ids
        ]


def loss_fields(sums: StepSums, counts: StepCounts, *, weights: tuple[float, float], has_pool: bool) -> dict[str, Any]:
    """Return the losses of a step as metrics.jsonl holds them; weights: (caption, reconstruction)."""
    caption = sums.caption / max(counts.trained_tokens, 1)
    reconstruction = sums.reconstruction / max(counts.images, 1) if weights[1] > 0 else None
    return {
        "loss": weights[0] * caption + weights[1] * (reconstruction or 0.0),
        "caption_loss": caption,
        "reconstruction_loss": reconstruction,
        "assignment_cost": sums.assignment_cost / max(counts.images, 1) if has_pool else None,
    }
