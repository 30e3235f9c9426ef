"""A run's checkpoints: whole weights gathered from all ranks, and what it takes to resume exactly from here."""

import json
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import LlavaProcessor

from croc_cli.checkpoint.metadata import CheckpointMetadata
from croc_cli.checkpoint.plain_pickles import only_plain_pickles
from croc_cli.checkpoint.save import (
    FolderAwayError,
    check_completed,
    complete_checkpoints,
    failure_of,
    resume_folder,
    step_folder_name,
    write_checkpoint,
)
from croc_cli.errors import RunError, first_line
from croc_cli.names import RESUME_FOLDER
from croc_cli.run_dir import parse_object
from croc_cli.train.collectives import gather_from_ranks, rank
from croc_cli.train.position import POSITION
from croc_cli.train.resume_files import naming_damage
from croc_cli.train.stage_module import StageModule
from croc_cli.train.state import TrainerState
from croc_cli.train.universal import load_universal, universal_tag
from croc_cli.train.weights import whole_state_dict

AWAY_SECONDS = 300.0
"""How long a save waits for the run folder's file system to come back."""
_TAG = "engine"
_STATE_FILE = "trainer_state.json"
_RESUME_BYTES_PER_PARAMETER = 16
"""float32 master weights, two moments, and the 16-bit or float32 weights themselves, rounded up."""


def checkpoint_to_resume(checkpoints: Path) -> Path | None:
    """Return the newest complete checkpoint of a stage that a run can go on from, or None."""
    resumable = [folder for folder in complete_checkpoints(checkpoints) if resume_folder(folder)]
    return resumable[-1] if resumable else None


@naming_damage
def load_resume(engine: Any, checkpoint: Path) -> TrainerState:
    """Give the engine its optimizer state back, and return the loop's; the weights were loaded with the model.

    The number of ranks may be another than when it was saved.
    """
    folder = checkpoint / RESUME_FOLDER
    with only_plain_pickles():
        tag = universal_tag(folder, _TAG)
        if tag is None:
            engine.load_checkpoint(str(folder), tag=_TAG, load_module_strict=False, load_lr_scheduler_states=False)
        else:
            load_universal(engine, folder, tag)
    file = folder / _STATE_FILE
    try:
        return TrainerState.from_json(parse_object(file.read_bytes()))
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise RunError(
            f"{file} is damaged: {first_line(error)}",
            hint=f"move {checkpoint} away; the same command resumes from the checkpoint before it",
        ) from error


def num_trained(module: torch.nn.Module) -> int:
    """Return the trained parameters of a module; under ZeRO-3, which leaves them empty, DeepSpeed knows their sizes."""
    return sum(int(getattr(p, "ds_numel", p.numel())) for p in module.parameters() if p.requires_grad)


class Completion(threading.Thread):
    """What is left of a save when its files are written, beside the next steps: hashes, fsync, the new name.

    Args:
        complete: What `write_checkpoint` returned.
    """

    def __init__(self, complete: Callable[[], None]) -> None:
        super().__init__(name="croc-save", daemon=True)
        self.complete = complete
        self.error: Exception | None = None

    def run(self) -> None:
        """Do it, and keep what it raises."""
        self.error = failure_of(self.complete)


class CheckpointSaver:
    """Saves checkpoints of one run.

    All ranks stop while files are written. Rank 0 completes the checkpoint in a thread; until then it has no name, so
    it is there whole or not at all.

    Args:
        engine: The DeepSpeed engine around a StageModule.
        processor: The stock processor that the stage trained with.
        folder: Where the checkpoints go.
        metadata: What croc.json says, but for step, health and hashes.
        recipe_yaml: The resolved recipe.
        keep: Newest checkpoints that stay.
        best: Returns the checkpoint that stays beside them, or None.
        mark: A file of the stage's folder, by which its file system is known to be there.
        patience: Seconds that a save waits for a file system that has gone.
    """

    def __init__(
        self,
        engine: Any,
        processor: LlavaProcessor,
        folder: Path,
        *,
        metadata: CheckpointMetadata,
        recipe_yaml: str,
        keep: int,
        mark: Path,
        best: Callable[[], Path | None] = lambda: None,
        patience: float = AWAY_SECONDS,
    ) -> None:
        self.engine = engine
        self.module: StageModule = engine.module
        self.processor = processor
        self.folder = folder
        self.metadata = metadata
        self.recipe_yaml = recipe_yaml
        self.keep = keep
        self.best = best
        self.mark = mark
        self.patience = patience
        self._destination: Path | None = None
        self._completion: Completion | None = None

    @property
    def has_failed(self) -> bool:
        """Whether this rank knows that the last save failed; `finish` then says so on every rank."""
        return self._completion is not None and self._completion.error is not None

    def save(self, state: TrainerState, health: dict[str, Any]) -> Path:
        """Write the weights and everything a resumed run needs; every rank calls it after the same step.

        Returns:
            The checkpoint's folder, which is complete after `finish`.

        Raises:
            RunError: On every rank, where one could not write.
        """
        self.finish()
        model = self.module.model
        state_dict = whole_state_dict(model.llava)

        def write_resume(folder: Path) -> None:
            # Frozen weights are in the stock files already.
            self.engine.save_checkpoint(str(folder), tag=_TAG, exclude_frozen_parameters=True)
            if rank() == 0:
                (folder / _STATE_FILE).write_text(json.dumps(asdict(state)), encoding="utf-8")
                (folder / "zero_to_fp32.py").unlink(missing_ok=True)  # DeepSpeed's script; the stock files replace it

        destination = self.folder / step_folder_name(state.step)
        complete = write_checkpoint(
            destination,
            llava=model.llava,
            processor=self.processor,
            metadata=CheckpointMetadata(**{**vars(self.metadata), "step": state.step, "health": health}),
            recipe_yaml=self.recipe_yaml,
            state_dict=state_dict,
            training_state=self._training_state(),
            write_resume=write_resume,
            resume_bytes=_RESUME_BYTES_PER_PARAMETER * num_trained(self.module),
            wait_for_folder=self._wait_for_folder,
            keep=self.keep,
            best=self.best(),
            is_main=rank() == 0,
            gather=gather_from_ranks,
        )
        self._destination = destination
        if rank() == 0:
            self._completion = Completion(complete)
            self._completion.start()
        return destination

    def finish(self) -> None:
        """Wait until the last save is complete; every rank calls it at the same point.

        Raises:
            RunError: On every rank, where it failed.
        """
        if self._destination is None:
            return
        POSITION.at("waiting for the checkpoint to be complete")
        destination, completion = self._destination, self._completion
        self._destination = self._completion = None
        if completion is not None:
            with POSITION.working("completing the checkpoint", "completed the checkpoint", opaque=True):
                completion.join()
        error = completion.error if completion is not None else None
        check_completed(destination, error, is_main=rank() == 0, gather=gather_from_ranks)

    def wait(self) -> None:
        """Let this rank's part of the last save end, without asking the others: for a process that is about to end."""
        if self._completion is not None:
            self._completion.join()

    def _wait_for_folder(self) -> None:
        """Wait while the run folder's file system is away.

        Raises:
            FolderAwayError: It did not come back in time.
        """
        deadline = time.monotonic() + self.patience
        while not self.mark.is_file():
            if time.monotonic() > deadline:
                raise FolderAwayError(
                    f"{self.mark.parent} has not been there for {self.patience:.0f} s; its file system has gone"
                )
            time.sleep(min(1.0, self.patience / 4))

    def _training_state(self) -> dict[str, Tensor] | None:
        """Return pool and head on rank 0, as `pool.…` and `head.…`."""
        model = self.module.model
        tensors: dict[str, Tensor] = {}
        for prefix, part in model.training_parts().items():
            tensors.update({prefix + name: tensor for name, tensor in (whole_state_dict(part) or {}).items()})
        return tensors or None
