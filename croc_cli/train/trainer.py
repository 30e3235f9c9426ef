"""One loop for all stages: whole optimizer steps through the DeepSpeed engine, watched, counted and saved."""

import functools
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

import torch

from croc_cli.data.micro_batch import MicroBatch
from croc_cli.errors import Interrupted, RunError
from croc_cli.model.transfers import to_host
from croc_cli.train.ahead import make_ready
from croc_cli.train.collectives import gather_from_ranks, num_ranks, rank
from croc_cli.train.gradient_norms import GradientNorms
from croc_cli.train.gradient_shares import measure_gradient_shares
from croc_cli.train.handed import Evaluation, Saver
from croc_cli.train.held_out import HeldOutMeasure
from croc_cli.train.loss_groups import LossGroups
from croc_cli.train.loss_weights import LossWeights
from croc_cli.train.metrics import JsonLines
from croc_cli.train.monitors import Monitors
from croc_cli.train.optimizer import LearningRateSchedule
from croc_cli.train.position import POSITION
from croc_cli.train.sample_limits import Failure, bad_image_failure, nothing_trained_failure
from croc_cli.train.stage_module import StageModule
from croc_cli.train.state import TrainerSettings, TrainerState, hash_of, health_of
from croc_cli.train.step_report import StepCounts, StepSums
from croc_cli.train.step_rows import EndedStep, StepClock, StepRows, wait_shares
from croc_cli.train.zero3 import outside_forward

T = TypeVar("T")
MAX_SKIPPED_IN_A_ROW = 3
NAMED_SAMPLES = 12
"""Sample ids that an event names; the rest is counted."""


class Trainer:
    """Runs a stage from `state.step` to its last step.

    Args:
        engine: The DeepSpeed engine around a StageModule.
        settings: What the loop needs to know.
        schedule: Learning rates by step.
        state: Where to begin; a fresh one, or what a checkpoint kept.
        saver: Saves on every rank after a step that is to be kept.
        metrics, events: Files that rank 0 writes.
        samples: This rank's file of its samples' losses.
        held_out: Measures the loss of samples that are not trained on; None where none are held out.
        during: Answers benchmarks on the way; None where none are asked for.
        monitors: What else the figures go to; None on all ranks but the first.
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
        saver: Saver,
        metrics: JsonLines,
        events: JsonLines,
        samples: JsonLines,
        held_out: HeldOutMeasure | None = None,
        during: Evaluation | None = None,
        monitors: Monitors | None = None,
        stop_file: Path,
        alone: Callable[[], bool] = lambda: False,
    ) -> None:
        self.engine = engine
        self.module: StageModule = engine.module
        self.settings = settings
        self.schedule = schedule
        self.state = state
        self.saver = saver
        self.metrics = metrics
        self.events = events
        self.held_out = held_out
        self.during = during
        self.was_cut = False  # the last evaluation was stopped; equal on all ranks
        self.was_evaluated = False  # the last step has figures of benchmarks
        self.groups = LossGroups(settings.sources)
        self.gradient_norms = GradientNorms(engine.optimizer)
        self.stop_file = stop_file
        self.alone = alone
        self.stop_requested = False
        self.failure: Failure | None = None  # equal on all ranks
        self.pause = 0.0  # seconds that this rank stood still for a save since the last step's figures
        self.loading = 0.0  # seconds until the last step's samples were there on all ranks
        self.device = torch.device(engine.device)
        self.rows = StepRows(self.module, settings, state, metrics=metrics, samples=samples, monitors=monitors)
        self.reads_late = self.device.type == "cuda"

    def run(self, steps: Iterable[list[MicroBatch]]) -> dict[str, Any]:
        """Train on `steps`, which begins at the state's step, and return the last figures.

        Raises:
            Interrupted: After a request to stop, once everything is saved.
            RunError: Three steps in a row that were not finite, or too many images that do not open; saved as well.
        """
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
            signal.signal(number, self._on_signal)
        try:
            return self._run_steps(iter(steps))
        finally:
            self.saver.wait()

    def _run_steps(self, steps: Iterator[list[MicroBatch]]) -> dict[str, Any]:
        checkpoint: Path | None = None
        if self.state.step and (fields := self._benchmark_fields(self.state.step)):  # one that was cut
            self.metrics.amend(self.state.step, **fields)
        if self.was_cut:
            raise self._stopped("its checkpoint already exists")
        for step in range(self.state.step, self.settings.num_steps):
            clock = StepClock(self.device)
            POSITION.at("loading samples", step=step + 1)
            micro_batches = next(steps)
            loading = clock.host_seconds
            POSITION.at("counting the step's tokens")
            counts = StepCounts.over_ranks(
                micro_batches,
                loading_seconds=loading,
                stop=self._asked_to_stop(),
                save_failed=self.saver.has_failed,
                device=self.device,
            )
            self.loading = clock.host_seconds
            if counts.save_failed:
                self.saver.finish()
            if counts.stop:
                raise self._stopped(self._save_at_end(checkpoint))
            self._note_samples(micro_batches, counts)
            if self.failure is None:
                self._step(step, micro_batches, counts, clock=clock)
            if self.failure is not None:
                message, hint = self.failure
                saved = self._save_at_end(None if self.state.step > step else checkpoint)
                raise RunError(message, hint=f"{hint}; {saved}")
            every = self.settings.save_every
            checkpoint = None
            is_due = step + 1 == self.settings.num_steps or (every and (step + 1) % every == 0)
            is_due = is_due or (self.was_evaluated and self.during is not None and self.during.is_best(step + 1))
            if self.was_cut:
                raise self._stopped(self._save_at_end(None))
            if is_due and self.state.has_trained:
                checkpoint = self._save_now()
        self.rows.finish()
        self._timed(self.saver.finish)
        return self.rows.last

    def _step(self, step: int, micro_batches: list[MicroBatch], counts: StepCounts, *, clock: StepClock) -> None:
        """Run one optimizer step, and write its figures or leave that to the next one."""
        objectives = self.module.objectives
        rates = self.schedule.set(self.engine.optimizer, self.settings.learning_rates, step=step)
        # The engine divides by its number of micro-batches and averages over ranks.
        scale = num_ranks() * self.engine.gradient_accumulation_steps()
        weights = LossWeights(objectives, counts, self.settings.means_per_micro_batch, self.device)
        scaled = [weights.of(batch, scale=scale) for batch in micro_batches]
        shares = self._gradient_shares(step, micro_batches, weights)
        model, pool = self.module.model, self.module.model.pool
        sums = StepSums(
            pool.num_tokens if pool is not None else 0,
            self.device,
            objectives=objectives,
            groups=self.groups,
            solver_threads=pool.solver_threads if pool is not None else 1,
        )
        self.was_evaluated = False
        POSITION.at("beginning the step's assignments")
        ready = make_ready(
            model,
            micro_batches,
            self.device,
            ahead=self.settings.assigns_ahead,
            outside=outside_forward(self.engine, model),
        )
        for number, (batch, (there, assignment)) in enumerate(zip(micro_batches, ready, strict=True)):
            POSITION.sample_ids = batch.sample_ids
            POSITION.at("forward", micro_batch=number)
            self._seed_dropout(step, batch)
            # Packed steps differ in their number of micro-batches, so this loop knows the last one, not the engine.
            self.engine.set_gradient_accumulation_boundary(number + 1 == len(micro_batches))
            loss, parts = self.engine(there, **scaled[number], assignment=assignment)
            POSITION.at("backward", micro_batch=number)
            self.engine.backward(loss)
            POSITION.at("optimizer", micro_batch=number)
            self.engine.step()
            sums.add(loss, parts, batch)
            if number == 0:
                self.rows.finish()  # the step before, while the device works on this one
        POSITION.at("adding up the ranks' losses")
        skipped: bool = getattr(self.engine.optimizer, "overflow", False)
        self.state.step = step + 1
        self.state.trained += counts.trained_tokens + counts.images
        self.rows.keep(self._ended(step, counts, sums, clock, rates=rates, skipped=skipped, shares=shares))
        measures = self._measures(step)
        if skipped or measures or not self.reads_late:
            self.rows.finish(functools.partial(self._measured, step) if measures else dict)
        self._note_skip(step, skipped, sums, micro_batches)
        self.failure = self.failure or nothing_trained_failure(self.state, num_steps=self.settings.num_steps)

    def _ended(
        self,
        step: int,
        counts: StepCounts,
        sums: StepSums,
        clock: StepClock,
        *,
        rates: dict[str, float],
        skipped: bool,
        shares: dict[str, float] | None,
    ) -> EndedStep:
        """Return what the row of a step is made of, as far as it is known; what is not is on its way."""
        sums.queue()
        norm = self.engine.get_global_grad_norm()
        norm = to_host(norm) if torch.is_tensor(norm) else norm
        group_norms = self.gradient_norms.fetch()
        clock.stop()
        pause, self.pause = self.pause, 0.0
        fields = wait_shares(self.loading, counts) | {
            "learning_rate": rates,
            "save_seconds": pause,
            "skipped": skipped,
            "truncated_samples": self.state.truncated,
            "dropped_samples": self.state.dropped,
            "bad_images": self.state.bad_images,
            "gradient_shares": shares,
        }
        return EndedStep(step, counts, sums, clock, norm, group_norms, fields)

    def _gradient_shares(
        self, step: int, micro_batches: list[MicroBatch], weights: LossWeights
    ) -> dict[str, float] | None:
        """Return the objectives' gradient norms where it is this step's turn, else None."""
        every = self.settings.gradient_shares_every
        if not every or step % every or self.module.objectives.reconstruction_weight == 0:
            return None
        return measure_gradient_shares(
            self.module,
            micro_batches,
            weights=weights.of,
            device=self.device,
            before_each=lambda batch: self._seed_dropout(step, batch),
        )

    def _measures(self, step: int) -> bool:
        """Tell whether something is measured after this step, with its weights."""
        return self._measures_held_out(step) or (self.during is not None and self.during.is_open(step + 1))

    def _measures_held_out(self, step: int) -> bool:
        is_last = step + 1 == self.settings.num_steps
        return self.held_out is not None and (is_last or (step + 1) % self.held_out.every == 0)

    def _measured(self, step: int) -> dict[str, Any]:
        """Return what is measured after this step, as its row says it."""
        return self._held_out_fields(step) | self._benchmark_fields(step + 1)

    def _held_out_fields(self, step: int) -> dict[str, Any]:
        """Return the losses of held-out samples where it is this step's turn, with the share of time that they take."""
        if self.held_out is None or not self._measures_held_out(step):
            return {}
        fields = self.held_out.measure()
        self.state.held_out_seconds += fields["seconds"]
        share = self.state.held_out_seconds / (self.state.held_out_seconds + self.state.seconds)
        return {"held_out": fields | {"time_share": share}}

    def _benchmark_fields(self, step: int) -> dict[str, Any]:
        """Return the scores of benchmarks where it is this step's turn, with the share of time that they take."""
        if self.during is None or not self.during.is_open(step):
            return {}
        started = time.perf_counter()
        fields = self.during.evaluate(step, stop=self._asked_to_stop)
        self.state.benchmark_seconds += time.perf_counter() - started
        self.was_cut, self.was_evaluated = fields is None, fields is not None
        share = self.state.benchmark_seconds / (self.state.benchmark_seconds + self.state.seconds)
        return {} if fields is None else {"benchmark": fields | {"time_share": share}}

    def _stopped(self, saved: str) -> Interrupted:
        step, total = self.state.step, self.settings.num_steps
        hint = f"the same command {'resumes there' if self.state.has_trained else 'starts it again'}"
        return Interrupted(f"stopped after step {step} of {total}; {saved}", hint=hint)

    def _seed_dropout(self, step: int, batch: MicroBatch) -> None:
        """Seed the generator that dropout alone draws from; micro-batches are told apart by their first sample."""
        torch.manual_seed(hash_of(self.settings.seed, step, batch.sample_ids[0] if batch.sample_ids else ""))

    def _note_samples(self, micro_batches: list[MicroBatch], counts: StepCounts) -> None:
        """Count what was cut or dropped, and name images that did not open; too many of them are a failure.

        A step that is not run is not counted: the resumed run meets its samples again.
        """
        if counts.bad_images:
            own = [bad for batch in micro_batches for bad in batch.bad_images]
            bads = [bad for from_rank in gather_from_ranks(own) for bad in from_rank]
            for sample_id, name, reason in bads:
                self.warn(
                    f"image {name} of sample {sample_id} does not open ({reason}); a blank took its place, without loss"
                )
            limit = self.settings.max_bad_images
            if (failure := bad_image_failure(self.state, counts, limit, last=bads[-1])) is not None:
                self.failure = failure
                return
        self.state.truncated += counts.truncated
        self.state.dropped += counts.dropped
        self.state.images += counts.images_shown
        self.state.bad_images += counts.bad_images

    def _note_skip(self, step: int, skipped: bool, sums: StepSums, micro_batches: list[MicroBatch]) -> None:
        """Log a step that was not finite with its samples; three in a row are a failure."""
        self.state.skipped_in_a_row = self.state.skipped_in_a_row + 1 if skipped else 0
        if not skipped:
            return
        self.state.skipped += 1
        all_samples = [sample for batch in micro_batches for sample in batch.sample_ids]
        gathered = gather_from_ranks((sums.samples_not_finite(), all_samples))
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

    def _save_at_end(self, already: Path | None) -> str:
        """Save unless that was done, and say where; nothing is saved of a run that has trained nothing."""
        self.rows.finish()
        if not self.state.has_trained:
            return "nothing was trained, so no checkpoint was saved"
        saved = self._save_now() if already is None else already
        self.saver.finish()
        return f"saved in {saved}"

    def _save_now(self) -> Path:
        self.rows.finish()
        health = health_of(self.rows.last)
        with POSITION.working("saving a checkpoint", "saved a checkpoint", opaque=True):
            return self._timed(lambda: self.saver.save(self.state, health))

    def _timed(self, work: Callable[[], T]) -> T:
        """Do a save's work and count the time that the ranks stand still for it."""
        started = time.perf_counter()
        done = work()
        seconds = time.perf_counter() - started
        self.pause += seconds
        self.state.save_seconds += seconds
        return done

    def _asked_to_stop(self) -> bool:
        return self.stop_requested or self.alone() or (rank() == 0 and self.stop_file.exists())

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        self.stop_requested = True

    def warn(self, message: str) -> None:
        """Tell whoever watches the run."""
        self.events.write(time=time.time(), level="warning", message=message)
