"""A run's checkpoints: whole weights gathered from all ranks, and what it takes to go on exactly from here."""

import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import LlavaProcessor

from croc_cli.checkpoint.metadata import RESUME_FOLDER, CheckpointMetadata
from croc_cli.checkpoint.plain_pickles import only_plain_pickles
from croc_cli.checkpoint.save import (
    FolderAwayError,
    complete_checkpoints,
    resume_folder,
    save_checkpoint,
    step_folder_name,
)
from croc_cli.train.collectives import gather_from_ranks, rank
from croc_cli.train.resume_files import naming_damage
from croc_cli.train.stage_module import StageModule
from croc_cli.train.trainer import TrainerState
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
    return TrainerState(**json.loads((folder / _STATE_FILE).read_text(encoding="utf-8")))


class CheckpointSaver:
    """Saves checkpoints of one run.

    Args:
        engine: The DeepSpeed engine around a StageModule.
        processor: The stock processor that the stage trained with.
        folder: Where the checkpoints go.
        metadata: What croc.json says, but for step, health and hashes.
        recipe_yaml: The resolved recipe.
        keep: Newest checkpoints that stay.
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
        patience: float = AWAY_SECONDS,
    ) -> None:
        self.engine = engine
        self.module: StageModule = engine.module
        self.processor = processor
        self.folder = folder
        self.metadata = metadata
        self.recipe_yaml = recipe_yaml
        self.keep = keep
        self.mark = mark
        self.patience = patience

    def save(self, state: TrainerState, health: dict[str, Any]) -> Path:
        """Save the weights and everything a resumed run needs; every rank calls it after the same step.

        Raises:
            RunError: On every rank, where one could not write.
        """
        model = self.module.model
        trained = sum(p.numel() for group in self.engine.optimizer.param_groups for p in group["params"])

        def write_resume(folder: Path) -> None:
            # Frozen weights are in the stock files already.
            self.engine.save_checkpoint(str(folder), tag=_TAG, exclude_frozen_parameters=True)
            if rank() == 0:
                (folder / _STATE_FILE).write_text(json.dumps(asdict(state)), encoding="utf-8")
                (folder / "zero_to_fp32.py").unlink(missing_ok=True)  # DeepSpeed's script; the stock files replace it

        return save_checkpoint(
            self.folder / step_folder_name(state.step),
            llava=model.llava,
            processor=self.processor,
            metadata=CheckpointMetadata(**{**vars(self.metadata), "step": state.step, "health": health}),
            recipe_yaml=self.recipe_yaml,
            state_dict=whole_state_dict(model.llava),
            training_state=self._training_state(),
            write_resume=write_resume,
            resume_bytes=_RESUME_BYTES_PER_PARAMETER * trained,
            wait_for_folder=self._wait_for_folder,
            keep=self.keep,
            is_main=rank() == 0,
            gather=gather_from_ranks,
        )

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
        for prefix, part in (("pool.", model.pool), ("head.", model.head)):
            state = whole_state_dict(part) if isinstance(part, torch.nn.Module) else None
            tensors.update({prefix + name: tensor for name, tensor in (state or {}).items()})
        return tensors or None
