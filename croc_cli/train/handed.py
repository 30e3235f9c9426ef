"""What the loop is handed from outside: what saves checkpoints, and what answers benchmarks on the way."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from croc_cli.train.state import TrainerState


class Saver(Protocol):
    """Saves checkpoints, see `croc_cli.train.saving.CheckpointSaver`."""

    @property
    def has_failed(self) -> bool:
        """Whether this rank knows that the last save failed."""

    def save(self, state: TrainerState, health: dict[str, Any]) -> Path:
        """Write a checkpoint and return its folder."""

    def finish(self) -> None:
        """Wait until the last one is complete, on all ranks."""

    def wait(self) -> None:
        """Wait for this rank's part alone."""


class Evaluation(Protocol):
    """Answers benchmarks between two steps, see `croc_cli.worker.during.DuringEvaluation`."""

    def is_open(self, step: int) -> bool:
        """Whether `step` has an evaluation that is not done; the same on all ranks."""

    def evaluate(self, step: int, *, stop: Callable[[], bool]) -> dict[str, Any] | None:
        """Return the figures, the same on all ranks; None where it was stopped."""

    def is_best(self, step: int) -> bool:
        """Whether `step` has the best figure so far; the same on all ranks."""
