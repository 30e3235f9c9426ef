"""Writes a checkpoint so that it appears complete or not at all, from one process or from every rank of a run.

A checkpoint grows in a folder whose name starts with "." and is renamed when every byte of it is on disk. It is made in
two halves. `write_checkpoint` runs on all ranks, which tell each other after each phase whether it failed, so that
nobody waits at a barrier for a rank that has given up. What it returns is left to rank 0: hashes, fsync and the new
name, which need nothing of the model and may run beside the next step. `check_completed` tells all ranks how that went.
"""

import errno
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor
from transformers import LlavaForConditionalGeneration, LlavaProcessor

from croc_cli import __version__
from croc_cli.checkpoint.metadata import RECIPE_FILE, CheckpointMetadata
from croc_cli.errors import RunError
from croc_cli.files import free_disk
from croc_cli.launch.weights import combine_hashes, weights_files
from croc_cli.model.stock_names import names_to_write
from croc_cli.names import METADATA_FILE, RESUME_FOLDER, TRAINING_STATE_FILE
from croc_cli.place import CHECKPOINT_NAMES, LIST_NAME, holds_only, is_made, mark_folder
from croc_cli.redact import redact
from croc_cli.run_dir import STEP_DIGITS, sha256_of, step_of

Gather = Callable[[str | None], Sequence[str | None]]
"""Returns every rank's value, in rank order."""
_UNFINISHED, _REPLACED = ".tmp", ".old"
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
# safetensors and torch.save hide the errno; these are their words for a full disk (safetensors 0.8, torch 2.13).
_DISK_FULL_WORDS = ("No space left on device", "os error 28", "os error 122", "inline_container", "PytorchStreamWriter")


class FolderAwayError(OSError):
    """The run folder is not there: its file system has gone, and what is written now would land below its mount."""


def step_folder_name(step: int) -> str:
    """Return the name of a step's checkpoint folder, such as step-00000120."""
    return f"step-{step:0{STEP_DIGITS}d}"


def complete_checkpoints(folder: Path) -> list[Path]:
    """Return the complete checkpoints in `folder`, oldest step first."""
    steps = {path: step for path in folder.glob("*") if path.is_dir() and (step := step_of(path)) is not None}
    return sorted(steps, key=lambda path: steps[path])


def resume_folder(checkpoint: Path) -> Path | None:
    """Return the folder of DeepSpeed's own state in `checkpoint`, or None where it is no longer kept."""
    folder = checkpoint / RESUME_FOLDER
    return folder if folder.is_dir() else None


def unfinished_folder(destination: Path) -> Path:
    """Return where `destination` grows: the same name on every rank, hidden until it is complete."""
    return destination.with_name(f".{destination.name}{_UNFINISHED}")


def remove_leftovers(folder: Path) -> None:
    """Remove what interrupted saves left in `folder`, and put back a checkpoint that was being replaced."""
    for path in folder.glob(".step-*"):
        complete = path.with_name(path.name[1:].removesuffix(_REPLACED))
        if path.suffix == _REPLACED and not complete.exists():
            path.rename(complete)
        elif is_made(path) or (path.is_dir() and all(part.name.startswith(".") for part in path.iterdir())):
            shutil.rmtree(path)  # where nothing but the start of a mark is in it, the save was killed as it made it


def begin(destination: Path, *, needed_bytes: int = 0) -> Path:
    """Make the hidden folder that `destination` grows in, after clearing what earlier saves left.

    Raises:
        OSError: The folder cannot be made; ENOSPC also where `needed_bytes` are not free.
    """
    folder = destination.parent
    folder.mkdir(parents=True, exist_ok=True)
    remove_leftovers(folder)
    free = free_disk(folder)
    if needed_bytes > free:
        raise OSError(errno.ENOSPC, f"{needed_bytes / 2**30:.2f} GiB needed, {free / 2**30:.2f} GiB free", str(folder))
    unfinished = unfinished_folder(destination)
    unfinished.mkdir()
    mark_folder(unfinished, "checkpoint")  # until it is complete: then croc.json says whose it is
    return unfinished


def write_main(
    unfinished: Path,
    *,
    llava: LlavaForConditionalGeneration,
    processor: LlavaProcessor,
    recipe_yaml: str,
    state_dict: Mapping[str, Tensor] | None = None,
    training_state: Mapping[str, Tensor] | None = None,
) -> None:
    """Write the stock files, the training state and the recipe into the hidden folder.

    Args:
        unfinished: What `begin` returned.
        llava: The model; under ZeRO-3 its own parameters may be empty, then `state_dict` has them.
        processor: Its processor.
        recipe_yaml: The resolved recipe, as text.
        state_dict: The model's whole weights under stock names; None takes them from `llava`.
        training_state: The token pool and the reconstruction head; None or empty where there are none.
    """
    llava.save_pretrained(unfinished, state_dict=_stock_weights(llava, state_dict))
    processor.save_pretrained(unfinished)
    if training_state:
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in training_state.items()}
        safetensors.torch.save_file(tensors, unfinished / TRAINING_STATE_FILE, metadata={"format": "pt"})
    (unfinished / RECIPE_FILE).write_text(redact(recipe_yaml), encoding="utf-8")


def write_metadata(unfinished: Path, metadata: CheckpointMetadata) -> None:
    """Hash the weights in the hidden folder and write croc.json; `metadata` has all but hashes and version."""
    files = {file.name: sha256_of(file) for file in weights_files(unfinished)}
    assert files, "save_pretrained wrote no safetensors file"
    combined = combine_hashes(files)
    if (training_state := unfinished / TRAINING_STATE_FILE).exists():
        files[TRAINING_STATE_FILE] = sha256_of(training_state)
    replace(metadata, croc_version=__version__, files=files, weights_sha256=combined).write(unfinished)


def _stock_weights(llava: LlavaForConditionalGeneration, state_dict: Mapping[str, Tensor] | None) -> dict[str, Tensor]:
    """Return the weights to write: all of them, on the CPU, in the dtype that the model computes in."""
    own = llava.state_dict()
    weights = own if state_dict is None else dict(state_dict)
    tied = set(llava.all_tied_weights_keys)  # written once, under the name they are tied to
    missing = own.keys() - weights.keys() - tied
    unknown = weights.keys() - own.keys()
    empty = [name for name, tensor in weights.items() if tensor.numel() == 0]
    assert not missing, f"weights are missing: {sorted(missing)}"
    assert not unknown, f"weights that a stock LLaVA does not have: {sorted(unknown)}"
    assert not empty, f"weights that ZeRO-3 has not gathered: {empty}"
    return names_to_write(
        {
            name: tensor.detach().to(device="cpu", dtype=llava.dtype if tensor.is_floating_point() else tensor.dtype)
            for name, tensor in weights.items()
            if name not in tied
        }
    )


def commit(unfinished: Path, destination: Path) -> None:
    """Put every byte of the hidden folder on disk, then give it its name in one step."""
    (unfinished / LIST_NAME).unlink(missing_ok=True)
    for path in sorted(unfinished.rglob("*"), reverse=True):
        _sync(path)
    _sync(unfinished)
    replaced = destination.with_name(f".{destination.name}{_REPLACED}")
    if destination.exists():  # the same step saved again: the old one comes back if we die before the next line is done
        if not is_made(destination):
            raise FileExistsError(errno.EEXIST, "exists, and croc did not create it", str(destination))
        destination.rename(replaced)
    unfinished.rename(destination)
    _sync(destination.parent)
    if replaced.exists():
        shutil.rmtree(replaced)


def _sync(path: Path) -> None:
    """Wait until a file's or folder's contents are on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def prune_checkpoints(folder: Path, keep: int, *, best: Path | None = None) -> None:
    """Keep the newest `keep` checkpoints in `folder` and the best, and DeepSpeed's resume state in the newest alone.

    An older one that holds something of the user's stays too.
    """
    assert keep >= 1, "the newest checkpoint always stays"
    checkpoints = [checkpoint for checkpoint in complete_checkpoints(folder) if is_made(checkpoint)]
    for old in checkpoints[:-keep]:
        if old == best or not holds_only(old, CHECKPOINT_NAMES):
            continue
        hidden = unfinished_folder(old)  # hidden first: half a checkpoint must never look like one
        old.rename(hidden)
        shutil.rmtree(hidden)
    for older in checkpoints[:-1]:
        if older not in (*checkpoints[-keep:], best):
            continue
        if resume := resume_folder(older):
            hidden = older / f".{RESUME_FOLDER}"
            resume.rename(hidden)
            shutil.rmtree(hidden)


def write_checkpoint(
    destination: Path,
    *,
    llava: LlavaForConditionalGeneration,
    processor: LlavaProcessor,
    metadata: CheckpointMetadata,
    recipe_yaml: str,
    state_dict: Mapping[str, Tensor] | None = None,
    training_state: Mapping[str, Tensor] | None = None,
    write_resume: Callable[[Path], None] | None = None,
    resume_bytes: int = 0,
    wait_for_folder: Callable[[], None] = lambda: None,
    keep: int = 1,
    best: Path | None = None,
    is_main: bool = True,
    gather: Gather = lambda failure: [failure],
) -> Callable[[], None]:
    """Write a checkpoint's files into its hidden folder; every rank calls it at the same point.

    Args:
        destination: <stage>/checkpoints/step-NNNNNNNN, on a disk that all ranks share.
        llava: See `write_main`, as the next four but `metadata`; they are used on rank 0 only.
        processor: The model's processor.
        metadata: Everything but the hashes and the version.
        recipe_yaml: The resolved recipe, as text.
        state_dict: The whole weights on rank 0, None elsewhere or where `llava` holds them.
        training_state: The token pool and the head on rank 0, where they exist.
        write_resume: Called on every rank with the folder that DeepSpeed's own state goes into.
        resume_bytes: About how much `write_resume` writes, so that a disk too small is found before it starts.
        wait_for_folder: Called on every rank first; returns once the run folder can be written into, or raises OSError.
        keep: Newest checkpoints that stay.
        best: A checkpoint that stays beside them.
        is_main: True on rank 0.
        gather: Returns every rank's value in rank order, as `train.collectives.gather_from_ranks` does.

    Returns:
        What is left to rank 0: hash the weights, put every byte on disk, give the checkpoint its name and remove old
        ones. Until it has returned there is no checkpoint.

    Raises:
        RunError: On every rank, when any of them could not write; the last complete checkpoint stays.
    """
    unfinished = unfinished_folder(destination)
    weights = [*(state_dict or llava.state_dict()).values(), *(training_state or {}).values()]
    needed = resume_bytes + sum(tensor.nbytes for tensor in weights)

    def write() -> None:
        write_main(
            unfinished,
            llava=llava,
            processor=processor,
            recipe_yaml=recipe_yaml,
            state_dict=state_dict,
            training_state=training_state,
        )

    phases: list[tuple[bool, Callable[[], object]]] = [(True, wait_for_folder)]
    phases.append((is_main, lambda: begin(destination, needed_bytes=needed)))
    if write_resume is not None:
        phases.append((True, lambda: write_resume(unfinished / RESUME_FOLDER)))
    phases.append((is_main, write))
    for takes_part, phase in phases:
        check_completed(destination, failure_of(phase) if takes_part else None, is_main=is_main, gather=gather)

    needs = (METADATA_FILE, "config.json", *([RESUME_FOLDER] if write_resume is not None else []))

    def complete() -> None:
        write_metadata(unfinished, metadata)
        if missing := [name for name in needs if not (unfinished / name).exists()]:
            raise FolderAwayError(f"{', '.join(missing)} went missing; the file system went away for a moment")
        commit(unfinished, destination)
        prune_checkpoints(destination.parent, keep, best=best)

    return complete


def check_completed(destination: Path, error: Exception | None, *, is_main: bool, gather: Gather) -> None:
    """Tell the other ranks of this rank's error, if any; every rank calls it at the same point.

    Args:
        destination: The checkpoint.
        error: What this rank's part of saving it raised.
        is_main: True on rank 0.
        gather: As for `write_checkpoint`.

    Raises:
        RunError: On every rank, where one has an error; what was written is removed.
    """
    failures = gather(None if error is None else _describe(error))
    if failure := next((failure for failure in failures if failure), None):
        _give_up(unfinished_folder(destination), failure=failure, error=error, is_main=is_main)


def save_checkpoint(
    destination: Path, *, is_main: bool = True, gather: Gather = lambda failure: [failure], **parts: Any
) -> Path:
    """Write and complete a checkpoint, and return its folder; arguments and errors are those of `write_checkpoint`."""
    complete = write_checkpoint(destination, is_main=is_main, gather=gather, **parts)
    check_completed(destination, failure_of(complete) if is_main else None, is_main=is_main, gather=gather)
    return destination


def failure_of(phase: Callable[[], object]) -> Exception | None:
    """Run a phase and return what it raised: the other ranks must hear of it before anyone leaves."""
    try:
        phase()
    except Exception as error:
        return error
    return None


def _describe(error: Exception) -> str:
    """Return one line for people: a full disk is called so, whichever library met it."""
    disk_full = isinstance(error, OSError) and error.errno in _DISK_FULL
    if disk_full or any(word in str(error) for word in _DISK_FULL_WORDS):
        return f"disk full ({error})"
    return f"{type(error).__name__}: {error}"


def _give_up(unfinished: Path, *, failure: str, error: Exception | None, is_main: bool) -> None:
    """Remove the hidden folder and raise; an error that is our own bug is raised as it is."""
    if is_main:
        shutil.rmtree(unfinished, ignore_errors=True)
    if error is not None and not isinstance(error, (OSError, RuntimeError, safetensors.SafetensorError)):
        raise error
    complete = complete_checkpoints(unfinished.parent)
    kept = f"the last complete checkpoint stays: {complete[-1]}" if complete else "no earlier checkpoint is there"
    if not unfinished.parents[1].is_dir():
        kept = "what was saved before stays where its file system is"
    raise RunError(
        f"saving {unfinished.parent / unfinished.name[1:].removesuffix(_UNFINISHED)} failed: {failure}; {kept}",
        hint="free some disk space and run the same command again; it resumes from there"
        if failure.startswith("disk full")
        else "fix the cause and run the same command again; it resumes from there",
    ) from error
