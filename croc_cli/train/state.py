"""What the training loop is told of a stage, and what it keeps so that a later process can resume it."""

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from croc_cli.names import HEALTH_KEYS


def health_of(step: Mapping[str, Any]) -> dict[str, Any]:
    """Return the health figures in a step's line of metrics.jsonl."""
    return {key: step[key] for key in HEALTH_KEYS if step.get(key) is not None}


@dataclass(frozen=True)
class TrainerSettings:
    """What the loop needs to know of a stage.

    Args:
        num_steps: Optimizer steps of the stage.
        learning_rates: Peak rate of each parameter group.
        save_every: Steps between checkpoints; None saves the last step only.
        max_bad_images: Images that may fail to open before the run stops: a number, or a share of those seen such as
            `5%`.
        gradient_shares_every: Steps between measurements of the objectives' gradients; None for never.
        seed: Seed of the run; step seeds derive from it.
        means_per_micro_batch: See `croc_cli.train.loss_weights`.
        sources: Names of the sources whose losses are told apart.
        assigns_ahead: Whether a step's assignments are begun before its first micro-batch runs.
    """

    num_steps: int
    learning_rates: Mapping[str, float]
    save_every: int | None
    max_bad_images: int | str
    gradient_shares_every: int | None
    seed: int
    means_per_micro_batch: bool = False
    sources: tuple[str, ...] = ()
    assigns_ahead: bool = True


@dataclass
class TrainerState:
    """What a resumed run needs besides weights and optimizer state; plain values, kept as JSON.

    Args:
        step: Steps that are done.
        images: Images that steps were to show, bad ones included.
        bad_images: Those of them that did not open.
        trained: Tokens and images that a loss was computed of.
        truncated, dropped: Samples that were cut, and samples of which nothing to train was left.
        skipped, skipped_in_a_row: Steps that were not finite.
        seconds: Time in steps.
        save_seconds: Time that the ranks stood still for saves.
        held_out_seconds: Time in measurements of the held-out loss.
        benchmark_seconds: Time in benchmarks on the way.
        health: State of the health figures.
    """

    step: int = 0
    images: int = 0
    bad_images: int = 0
    trained: int = 0
    truncated: int = 0
    dropped: int = 0
    skipped: int = 0
    skipped_in_a_row: int = 0
    seconds: float = 0.0
    save_seconds: float = 0.0
    held_out_seconds: float = 0.0
    benchmark_seconds: float = 0.0
    health: dict[str, Any] = field(default_factory=dict)

    @property
    def all_seconds(self) -> float:
        """Time in steps, and in all that is done between them."""
        return self.seconds + self.save_seconds + self.held_out_seconds + self.benchmark_seconds

    @property
    def has_trained(self) -> bool:
        """Whether there is something to keep: some loss was computed, and not with blanks in place of all images."""
        return self.trained > 0 and not 0 < self.images == self.bad_images

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "TrainerState":
        """Return the state that a checkpoint kept; one of an older croc counts as having trained something.

        Raises:
            TypeError: A key is unknown.
            ValueError: A value is none that this class keeps.
        """
        state = cls(**{"trained": 1} | values)
        for name, usual in asdict(cls()).items():
            value = getattr(state, name)
            kinds = dict if isinstance(usual, dict) else int if isinstance(usual, int) else (int, float)
            if (
                not isinstance(value, kinds)
                or isinstance(value, bool)
                or (not isinstance(value, dict) and not value >= 0)
            ):
                raise ValueError(f"{name} is {str(value)[:40]!r}")
        return state


def hash_of(seed: int, step: int, sample_id: str) -> int:
    """Return a 63-bit seed that depends on its three arguments and nothing else."""
    digest = hashlib.sha256(f"{seed}/{step}/{sample_id}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
