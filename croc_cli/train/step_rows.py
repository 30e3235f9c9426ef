"""The rows of metrics.jsonl: on a GPU a step's figures are read while the next step runs."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from croc_cli.model.transfers import arrival
from croc_cli.train.collectives import num_ranks
from croc_cli.train.loss_groups import SampleLoss
from croc_cli.train.metrics import ExplainedShare, JsonLines, PoolUsage, peak_memory_bytes
from croc_cli.train.monitors import Monitors
from croc_cli.train.stage_module import StageModule
from croc_cli.train.state import TrainerSettings, TrainerState
from croc_cli.train.step_report import StepCounts, StepSums, loss_fields

LOSS_DIGITS = 4
"""After the point, of a sample's loss in its file."""


class StepClock:
    """Times a step: by events on a GPU, where the host is ahead, else by the host's clock.

    Args:
        device: Where the step runs.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._started = time.perf_counter()
        self._ended = self._started
        self._first = arrival(device)  # on a GPU that still works on the step before, that step's end
        self._last: torch.cuda.Event | None = None

    @property
    def host_seconds(self) -> float:
        """Seconds of the host's clock since the start."""
        return time.perf_counter() - self._started

    def stop(self) -> None:
        """Note the step's end, which a GPU may not have come to yet."""
        self._ended = time.perf_counter()
        self._last = arrival(self.device)

    def seconds(self) -> float:
        """Wait for the step's end, and return how long it took."""
        if self._first is None or self._last is None:
            return self._ended - self._started
        self._last.synchronize()
        return self._first.elapsed_time(self._last) / 1000  # type: ignore[no-any-return]  # torch has no type


@dataclass
class EndedStep:
    """A step whose figures may still be on their way from the device.

    Args:
        number: The step, from 0.
        counts: What it holds.
        sums: Its sums, queued.
        clock: Stopped after the last copy was queued.
        norm: Gradient norm over all ranks, on the host by the clock's end; None where there is none.
        group_norms: Tells those of the groups, once they are there.
        fields: What else its row says.
    """

    number: int
    counts: StepCounts
    sums: StepSums
    clock: StepClock
    norm: Tensor | float | None
    group_norms: Callable[[], dict[str, float] | None]
    fields: dict[str, Any]


class StepRows:
    """Writes a row for each step, and keeps the health figures.

    Args:
        module: The stage's.
        settings: What the loop knows of the stage.
        state: The loop's; its times and health are brought up to date with each row.
        metrics: Gets the rows.
        samples: Gets the losses of this rank's samples.
        monitors: What else rows go to.
    """

    def __init__(
        self,
        module: StageModule,
        settings: TrainerSettings,
        state: TrainerState,
        *,
        metrics: JsonLines,
        samples: JsonLines,
        monitors: Monitors | None,
    ) -> None:
        self.objectives = module.objectives
        self.settings = settings
        self.state = state
        self.metrics = metrics
        self.samples = samples
        self.monitors = monitors
        self.last: dict[str, Any] = {}
        self._ended: EndedStep | None = None
        pool = module.model.pool
        self.pool_usage = PoolUsage(pool.num_tokens) if pool is not None else None
        self.explained = ExplainedShare()
        if state.health:
            self.explained.load_state_dict(state.health["explained"])
            if self.pool_usage is not None:
                self.pool_usage.load_state_dict(state.health["pool_usage"])

    def keep(self, ended: EndedStep) -> None:
        """Keep a step until `finish`."""
        assert self._ended is None
        self._ended = ended

    def finish(self, more: Callable[[], dict[str, Any]] = dict) -> None:
        """Write the row of the step that is kept, if there is one; every rank must call it at the same point.

        Args:
            more: Returns what else the row says; called once the step's time is known.
        """
        if self._ended is None:
            return
        ended, self._ended = self._ended, None
        seconds = ended.clock.seconds()
        ended.sums.read()
        self.last = self._fields(ended, seconds) | more()
        self.metrics.write(**self.last)
        self._note_losses(ended.number, ended.sums.samples)
        if self.monitors is not None:
            self.monitors.tell(self.last)

    def _fields(self, ended: EndedStep, seconds: float) -> dict[str, Any]:
        """Return a step's line of metrics.jsonl, and bring the health figures up to date."""
        counts, sums, step = ended.counts, ended.sums, ended.number
        self.state.seconds += seconds
        if not ended.fields["skipped"] and counts.images:
            self.explained.add(sums.reconstruction, sums.baseline)
        weights = (self.objectives.caption_weight, self.objectives.reconstruction_weight)
        fields: dict[str, Any] = {"step": step + 1, "total_steps": self.settings.num_steps}
        fields |= loss_fields(sums, counts, weights=weights, has_pool=self.pool_usage is not None)
        if self.pool_usage is not None:
            self.pool_usage.add(sums.pool_counts.long())
            fields |= self.pool_usage.shares()
            fields["explained_share"] = self.explained.value() if weights[1] > 0 else None
            fields |= sums.assignment_times(seconds)
            self.state.health["pool_usage"] = self.pool_usage.state_dict()
        self.state.health["explained"] = self.explained.state_dict()
        return (
            fields
            | sums.by_group
            | {
                "gradient_norm": None if ended.norm is None else float(ended.norm),
                "gradient_norms": ended.group_norms(),
                "tokens": counts.tokens,
                "tokens_per_second": counts.tokens / seconds,
                "samples": counts.samples,
                "samples_per_second": counts.samples / seconds,
                "step_seconds": seconds,
                "padding_share": 1 - counts.tokens / max(counts.padded_tokens, 1),
                "peak_memory_bytes": peak_memory_bytes(),
                "seconds_left": self.state.all_seconds / (step + 1) * (self.settings.num_steps - step - 1),
            }
            | ended.fields
        )

    def _note_losses(self, step: int, samples: list[SampleLoss]) -> None:
        """Write the loss of each sample that this rank trained on, in nats a token."""
        trained = [sample for sample in samples if sample.tokens]
        means = [round(sample.loss / sample.tokens, LOSS_DIGITS) for sample in trained]
        ids, tokens = [sample.id for sample in trained], [sample.tokens for sample in trained]
        self.samples.write(step=step + 1, ids=ids, tokens=tokens, losses=means)


def wait_shares(loading: float, counts: StepCounts) -> dict[str, float]:
    """Return how long the step waited for its samples, and how long of it ranks waited for each other."""
    own = counts.loading_microseconds / 1e6 / num_ranks()
    return {"data_seconds": loading, "rank_wait_seconds": max(0.0, loading - own)}
