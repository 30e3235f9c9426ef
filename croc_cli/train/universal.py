"""Goes on with another number of ranks: ZeRO's partitions become DeepSpeed's universal checkpoint, which fits any."""

import argparse
import shutil
from pathlib import Path
from typing import Any

from torch import Tensor

from croc_cli.errors import RunError
from croc_cli.train.collectives import gather_from_ranks, num_ranks, rank
from croc_cli.train.position import POSITION
from croc_cli.words import counted

UNIVERSAL_TAG = "universal"
_PARTITIONS = "*zero_pp_rank_*_optim_states.pt"


def num_partitions(folder: Path) -> int:
    """Return how many ranks wrote their part of the optimizer state into `folder`; 0 where it was not partitioned."""
    return len(list(folder.glob(_PARTITIONS)))


def universal_tag(resume: Path, tag: str) -> str | None:
    """Return the tag of the universal checkpoint where this number of ranks needs one, and None where it does not.

    Rank 0 converts the partitions once; every rank must call it. The result lies in the resume folder, whole or not at
    all, and goes with it when the next checkpoint is complete.

    Args:
        resume: The checkpoint's resume folder.
        tag: DeepSpeed's tag of the partitions in it.

    Raises:
        RunError: On every rank, where the conversion failed.
    """
    if num_partitions(resume / tag) in (0, num_ranks()):
        return None
    failure = None
    if rank() == 0:
        try:
            change = f"the checkpoint for {counted(num_ranks(), 'rank')}"
            with POSITION.working(f"converting {change}", f"converted {change}", opaque=True):
                convert(resume / tag, resume / UNIVERSAL_TAG)
        except Exception as error:  # the other ranks wait below, and must hear of it
            failure = f"{type(error).__name__}: {error}"
    if message := next((text for text in gather_from_ranks(failure) if text), None):
        raise RunError(
            f"{resume / tag} was saved by {num_partitions(resume / tag)} ranks and could not be converted for "
            f"{num_ranks()}: {message}",
            hint=f"resume with {num_partitions(resume / tag)} ranks",
        )
    return UNIVERSAL_TAG


def convert(partitions: Path, destination: Path) -> None:
    """Write the universal checkpoint of `partitions` to `destination`, unless it is there."""
    if destination.is_dir():
        return
    from deepspeed.checkpoint.ds_to_universal import main

    growing = destination.with_name(f".{destination.name}.tmp")
    shutil.rmtree(growing, ignore_errors=True)
    # One worker each: it then runs in this process, where `only_plain_pickles` holds.
    main(
        argparse.Namespace(
            input_folder=str(partitions),
            output_folder=str(growing),
            num_extract_workers=1,
            num_merge_workers=1,
            keep_temp_folder=False,
            strict=True,
            inject_missing_state=True,
        )
    )
    growing.rename(destination)


def load_universal(engine: Any, resume: Path, tag: str) -> None:
    """Give the engine the optimizer state and the trained weights of a universal checkpoint.

    DeepSpeed gives every parameter group the settings of the checkpoint's first one (ZeRO-3); the groups' own names,
    rates and decays are put back. It also gives all of them one and the same tensor that counts the steps, which each
    group's update would then raise for the others, too; each gets a copy.
    """
    groups = engine.optimizer.param_groups
    settings = [{key: value for key, value in group.items() if key != "params"} for group in groups]
    engine._config.load_universal_checkpoint = True
    try:
        engine.load_checkpoint(str(resume), tag=tag, load_module_strict=False, load_lr_scheduler_states=False)
    finally:
        engine._config.load_universal_checkpoint = False
    for group, own in zip(engine.optimizer.param_groups, settings, strict=True):
        group.update(own)
    for state in getattr(engine.optimizer, "optimizer", engine.optimizer).state.values():
        if isinstance(state.get("step"), Tensor):
            state["step"] = state["step"].clone()
