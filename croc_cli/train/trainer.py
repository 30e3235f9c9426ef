"""One loop for all stages: whole optimizer steps through the DeepSpeed engine, watched, counted and saved."""

import hashlib
import signal
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor

from croc_cli.data.collate import MicroBatch
from croc_cli.errors import Interrupted, RunError
from croc_cli.train.collectives import gather_from_ranks, num_ranks, rank
from croc_cli.train.gradient_shares import measure_gradient_shares
from croc_cli.train.metrics import ExplainedShare, JsonLines, PoolUsage, peak_memory_bytes
from croc_cli.train.optimizer import LearningRateSchedule
from croc_cli.train.position import POSITION
from croc_cli.train.stage_module import StageModule
from croc_cli.train.step_report import StepCounts, StepSums, loss_fields

MAX_SKIPPED_IN_A_ROW = 3
HEALTH_KEYS = ("pool_used_share", "pool_window_share", "pool_entropy", "explained_share", "assignment_share")
NAMED_SAMPLES = 12
"""Sample ids that an event names; the rest is counted."""


@dataclass(frozen=True)
class TrainerSettings:
    """What the loop needs to know of a stage.

    Args:
        num_steps: Optimizer steps of the stage.
        learning_rates: Peak rate of each parameter group.
        save_every: Steps between checkpoints; None saves the last step only.
        max_bad_images: Images that may fail to open before the run stops.
        gradient_shares_every: Steps between measurements of the objectives' gradients; None for never.
        seed: Seed of the run; step seeds derive from it.
    """

    num_steps: int
    learning_rates: Mapping[str, float]
    save_every: int | None
    max_bad_images: int
    gradient_shares_every: int | None
    seed: int


@dataclass
class TrainerState:
    """What a resumed run needs besides weights and optimizer state; plain values, kept as JSON."""

    step: int = 0
    bad_images: int = 0
    truncated: int = 0
    dropped: int = 0
    skipped: int = 0
    skipped_in_a_row: int = 0
    seconds: float = 0.0
    health: dict[str, Any] = field(default_factory=dict)


class Trainer:
    """Runs a stage from `state.step` to its last step.

    Args:
        engine: The DeepSpeed engine around a StageModule.
        settings: What the loop needs to know.
        schedule: Learning rates by step.
        state: Where to begin; a fresh one, or what a checkpoint kept.
        save: Called on every rank with the state and the health figures after a step that is to be kept; returns the
            checkpoint's folder.
        metrics, events: Files that rank 0 writes.
        stop_file: Its appearance asks the run to save and stop.
        alone: Tells whether the process that launched the ranks is gone; the run then saves and stops, too.
    """

    def __init__(
        self,
        engine: Any,
        settings: TrainerSettings,
        *,
        schedule: LearningRateSchedule,
        state: TrainerState,
        save: Callable[[TrainerState, dict[str, Any]], Path],
        metrics: JsonLines,
        events: JsonLines,
        stop_file: Path,
        alone: Callable[[], bool] = lambda: False,
    ) -> None:
        self.engine = engine
        self.module: StageModule = engine.module
        self.settings = settings
        self.schedule = schedule
        self.state = state
        self.save = save
        self.metrics = metrics
        self.events = events
        self.stop_file = stop_file
        self.alone = alone
        self.stop_requested = False
        self.failure: tuple[str, str] | None = None  # message and hint, equal on all ranks
        self.device = torch.device(engine.device)
        pool_size = self.module.model.pool.num_tokens if self.module.model.pool is not None else 0
        self.pool_usage = PoolUsage(pool_size) if pool_size else None
        self.explained = ExplainedShare()
        if state.health:
            self.explained.load_state_dict(state.health["explained"])
            if self.pool_usage is not None:
                self.pool_usage.load_state_dict(state.health["pool_usage"])

    def run(self, steps: Iterable[list[MicroBatch]]) -> dict[str, Any]:
        """Train on `steps`, which begins at the state's step, and return the last figures.

        Raises:
            Interrupted: After a request to stop, once everything is saved.
            RunError: Three steps in a row that were not finite, or too many images that do not open; saved as well.
        """
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
            signal.signal(number, self._on_signal)
        last: dict[str, Any] = {}
        checkpoint: Path | None = None
        iterator = iter(steps)
        for step in range(self.state.step, self.settings.num_steps):
            started = time.perf_counter()
            POSITION.at("loading samples", step=step + 1)
            micro_batches = next(iterator)
            POSITION.at("counting the step's tokens")
            counts = StepCounts.over_ranks(micro_batches, stop=self._asked_to_stop(), device=self.device)
            if counts.stop:
                saved = self._save_now(checkpoint, last)
                raise Interrupted(
                    f"stopped after step {step} of {self.settings.num_steps}; saved in {saved}",
                    hint="the same command goes on from there",
                )
            self._note_bad_images(micro_batches, counts)
            if self.failure is None:
                last = self._step(step, micro_batches, counts, started=started)
            if self.failure is not None:
                message, hint = self.failure
                saved = self._save_now(None if self.state.step > step else checkpoint, last)
                raise RunError(message, hint=f"{hint}; saved in {saved}, the same command goes on from there")
            every = self.settings.save_every
            checkpoint = None
            if step + 1 == self.settings.num_steps or (every and (step + 1) % every == 0):
                checkpoint = self._save_now(None, last)
        return last

    def _step(
        self, step: int, micro_batches: list[MicroBatch], counts: StepCounts, *, started: float
    ) -> dict[str, Any]:
        """Run one optimizer step and write its figures."""
        objectives = self.module.objectives
        rates = self.schedule.set(self.engine.optimizer, self.settings.learning_rates, step=step)
        # The engine divides by the number of micro-batches and averages over ranks; the means are over the whole step.
        scale = num_ranks() * len(micro_batches)
        token_weight = torch.tensor(objectives.caption_weight * scale / max(counts.trained_tokens, 1))
        image_weight = torch.tensor(objectives.reconstruction_weight * scale / max(counts.images, 1))
        weights = {"token_weight": token_weight.to(self.device), "image_weight": image_weight.to(self.device)}
        every = self.settings.gradient_shares_every
        shares = None
        if every and step % every == 0 and objectives.reconstruction_weight > 0:
            unscaled = {name: weight / num_ranks() for name, weight in weights.items()}
            shares = measure_gradient_shares(self.module, model_inputs(micro_batches[0].to(self.device)), **unscaled)
        sums = StepSums(self.pool_usage.total.numel() if self.pool_usage else 0, self.device, started=started)
        for number, batch in enumerate(micro_batches):
            POSITION.sample_ids = batch.sample_ids
            POSITION.at("forward", micro_batch=number)
            # Dropout alone draws from this generator; micro-batches are told apart by their first sample.
            torch.manual_seed(hash_of(self.settings.seed, step, batch.sample_ids[0] if batch.sample_ids else ""))
            loss, parts = self.engine(**model_inputs(batch.to(self.device)), **weights)
            POSITION.at("backward", micro_batch=number)
            self.engine.backward(loss)
            POSITION.at("optimizer", micro_batch=number)
            self.engine.step()
            sums.add(loss, parts, sample_ids=batch.sample_ids)
        POSITION.at("adding up the ranks' losses")
        sums.over_ranks()
        skipped = bool(getattr(self.engine.optimizer, "overflow", False))
        self.state.step = step + 1
        self._note_skip(step, skipped, sums.samples_not_finite(), micro_batches)
        fields = self._fields(step, counts, sums, rates=rates, skipped=skipped)
        fields["gradient_shares"] = shares
        self.metrics.write(**fields)
        self._tell_monitors(fields)
        return fields

    def _tell_monitors(self, fields: dict[str, Any]) -> None:
        """Hand the figures to TensorBoard or W&B where the recipe switched them on."""
        monitor = self.engine.monitor
        if rank() != 0 or not monitor.enabled:
            return
        flat = {
            f"{key}/{name}": v
            for key, values in fields.items()
            if isinstance(values, dict)
            for name, v in values.items()
        }
        flat |= {key: value for key, value in fields.items() if isinstance(value, (int, float))}
        monitor.write_events([(f"croc/{key}", value, fields["step"]) for key, value in flat.items() if key != "step"])

    def _fields(
        self, step: int, counts: StepCounts, sums: StepSums, *, rates: dict[str, float], skipped: bool
    ) -> dict[str, Any]:
        """Return a step's line of metrics.jsonl, and bring the health figures up to date."""
        objectives = self.module.objectives
        seconds = time.perf_counter() - sums.started
        self.state.seconds += seconds
        if not skipped and counts.images:
            self.explained.add(sums.reconstruction, sums.baseline)
        fields: dict[str, Any] = {"step": step + 1, "total_steps": self.settings.num_steps}
        fields |= loss_fields(
            sums,
            counts,
            weights=(objectives.caption_weight, objectives.reconstruction_weight),
            has_pool=self.pool_usage is not None,
        )
        if self.pool_usage is not None:
            self.pool_usage.add(sums.pool_counts.long())
            fields |= self.pool_usage.shares()
            fields["explained_share"] = self.explained.value() if objectives.reconstruction_weight > 0 else None
            fields["assignment_share"] = sums.assignment_seconds / num_ranks() / seconds
            self.state.health["pool_usage"] = self.pool_usage.state_dict()
        self.state.health["explained"] = self.explained.state_dict()
        norm = self.engine.get_global_grad_norm()
        return fields | {
            "learning_rate": rates,
            "gradient_norm": None if norm is None else float(norm),
            "tokens": counts.tokens,
            "tokens_per_second": counts.tokens / seconds,
            "samples": counts.samples,
            "samples_per_second": counts.samples / seconds,
            "step_seconds": seconds,
            "padding_share": 1 - counts.tokens / max(counts.padded_tokens, 1),
            "peak_memory_bytes": peak_memory_bytes(),
            "skipped": skipped,
            "truncated_samples": self.state.truncated,
            "dropped_samples": self.state.dropped,
            "bad_images": self.state.bad_images,
            "seconds_left": self.state.seconds / (step + 1) * (self.settings.num_steps - step - 1),
        }

    def _note_bad_images(self, micro_batches: list[MicroBatch], counts: StepCounts) -> None:
        """Name images that did not open, and count what was cut or dropped; too many bad images are a failure."""
        self.state.truncated += counts.truncated
        self.state.dropped += counts.dropped
        if not counts.bad_images:
            return
        self.state.bad_images += counts.bad_images
        failures = [bad for bads in gather_from_ranks([b for m in micro_batches for b in m.bad_images]) for bad in bads]
        for sample_id, name, reason in failures:
            self.warn(
                f"image {name} of sample {sample_id} does not open ({reason}); a blank took its place, without loss"
            )
        if self.state.bad_images > self.settings.max_bad_images:
            sample_id, name, reason = failures[-1]
            self.failure = (
                f"{self.state.bad_images} images failed to open, more than data.max_bad_images = "
                f"{self.settings.max_bad_images}; the last one was {name} of sample {sample_id} ({reason})",
                "mend the images, or allow more with data.max_bad_images",
            )

    def _note_skip(self, step: int, skipped: bool, odd_samples: list[str], micro_batches: list[MicroBatch]) -> None:
        """Log a step that was not finite with its samples; three in a row are a failure."""
        self.state.skipped_in_a_row = self.state.skipped_in_a_row + 1 if skipped else 0
        if not skipped:
            return
        self.state.skipped += 1
        all_samples = [sample for batch in micro_batches for sample in batch.sample_ids]
        gathered = gather_from_ranks((odd_samples, all_samples))
        odd = [sample for samples, _ in gathered for sample in samples]
        names = odd or [sample for _, samples in gathered for sample in samples]
        listed = ", ".join(names[:NAMED_SAMPLES]) + (
            f" and {len(names) - NAMED_SAMPLES} more" if len(names) > NAMED_SAMPLES else ""
        )
        what = "loss" if odd else "gradient"
        self.warn(f"step {step + 1} skipped: its {what} is not finite; samples {listed}")
        if self.state.skipped_in_a_row >= MAX_SKIPPED_IN_A_ROW:
            self.state.skipped_in_a_row = 0  # so that the same command gets past samples that are to blame
            self.failure = (
                f"{MAX_SKIPPED_IN_A_ROW} steps in a row had a {what} that is not finite; the last had samples {listed}",
                "look at these samples, or lower the learning rate",
            )

    def _save_now(self, already: Path | None, last: dict[str, Any]) -> Path:
        if already is not None:
            return already
        with POSITION.working("saving a checkpoint", "saved a checkpoint", opaque=True):
            return self.save(self.state, {key: last[key] for key in HEALTH_KEYS if last.get(key) is not None})

    def _asked_to_stop(self) -> bool:
        return self.stop_requested or self.alone() or (rank() == 0 and self.stop_file.exists())

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        self.stop_requested = True

    def warn(self, message: str) -> None:
        """Tell whoever watches the run."""
        self.events.write(time=time.time(), level="warning", message=message)


def model_inputs(batch: MicroBatch) -> dict[str, Tensor | None]:
    """Return what StageModule.forward takes of a micro-batch."""
    return {
        "input_ids": batch.input_ids,
        "attention_mask": batch.attention_mask,
        "labels": batch.labels,
        "pixel_values": batch.pixel_values,
        "image_is_real": batch.image_is_real,
        "image_rows": batch.image_rows,
        "masked": batch.masked,
    }


def hash_of(seed: int, step: int, sample_id: str) -> int:
    """Return a 63-bit seed that depends on its three arguments and nothing else."""
    digest = hashlib.sha256(f"{seed}/{step}/{sample_id}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
