"""Reads a folder's weights, in safetensors or in torch's own form, without running anything that is in them."""

import pickle
from collections.abc import Iterable
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from croc_cli.checkpoint.headers import read_header
from croc_cli.checkpoint.locate import indexed_files
from croc_cli.checkpoint.metadata import DAMAGED
from croc_cli.errors import UsageError, first_line
from croc_cli.model.values import check_values

WHOLE_FILES, INDEX_SUFFIX = ("model.safetensors", "pytorch_model.bin"), ".index.json"
PROJECTOR_FILES = ("mm_projector.safetensors", "mm_projector.bin")
ADAPTER_FILES = ("adapter_model.safetensors", "adapter_model.bin")
EXTRA_FILE = "non_lora_trainables.bin"


def model_files(folder: Path) -> list[Path]:
    """Return the files that hold a folder's whole weights; empty where it has none.

    Raises:
        UsageError: An index lists a file that is missing, or cannot be read.
    """
    found = _whole_or_index(folder)
    if found is None or found.name in WHOLE_FILES:
        return [] if found is None else [found]
    return sorted(set(indexed_files(found).values()))


def _whole_or_index(folder: Path) -> Path | None:
    return first_file(folder, [name for whole in WHOLE_FILES for name in (whole, whole + INDEX_SUFFIX)])


def first_file(folder: Path, names: Iterable[str]) -> Path | None:
    """Return the first of some files that a folder has, or None."""
    return next((folder / name for name in names if (folder / name).is_file()), None)


def read_model(folder: Path) -> dict[str, Tensor]:
    """Return the whole weights of a folder by name.

    Raises:
        UsageError: It has none, or they cannot be read.
    """
    files = model_files(folder)
    if not files:
        raise UsageError(
            f"{folder} has no weights: none of {', '.join(WHOLE_FILES)} is there",
            hint="fetch its weights too; a folder of a projector or of LoRA needs --base",
        )
    weights: dict[str, Tensor] = {}
    for file in files:
        weights |= read_file(file)
    index = _whole_or_index(folder)
    if index is not None and index not in files:
        for name, file in indexed_files(index).items():
            if name not in weights:
                raise UsageError(f"{index}: {name!r} is not in {file.name}", hint=DAMAGED)
    return weights


def read_file(file: Path) -> dict[str, Tensor]:
    """Return the tensors of one file; a pickle is read with `weights_only=True` and nothing else.

    Raises:
        UsageError: It is cut off, no weights file, a pickle with anything but tensors in it, or a weight is NaN.
    """
    if file.suffix == ".safetensors":
        read_header(file)
        try:
            loaded: object = load_file(file)
        except (SafetensorError, OSError) as error:
            raise UsageError(f"{file} cannot be read: {first_line(error)}", hint=DAMAGED) from error
    else:
        loaded = _read_pickle(file)
    if not isinstance(loaded, dict) or not all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in loaded.items()
    ):
        raise UsageError(f"{file} holds no tensors by name", hint="it is not a weights file of a model")
    empty = sorted(name for name, tensor in loaded.items() if tensor.numel() == 0)
    if empty:
        raise UsageError(
            f"{file}: {empty[0]} is empty ({loaded[empty[0]].shape}), as {len(empty)} of {len(loaded)} weights are",
            hint="it was saved under ZeRO-3 without gathering; make it again from the run's own checkpoint with "
            "DeepSpeed's zero_to_fp32.py",
        )
    for name, tensor in loaded.items():
        check_values(name, tensor, file)
    return loaded


def _read_pickle(file: Path) -> object:
    """Return what torch saved; mapped into memory but for the form that torch had before 1.6."""
    try:
        with file.open("rb") as stream:
            zipped = stream.read(4) == b"PK\x03\x04"
        return torch.load(file, map_location="cpu", weights_only=True, mmap=zipped)
    except pickle.UnpicklingError as error:
        raise UsageError(
            f"{file} holds more than tensors, and was not opened: reading it could run code",
            hint="get the weights as safetensors, or from someone you trust",
        ) from error
    except Exception as error:  # what damaged pickles raise has no class in common
        raise UsageError(
            f"{file} cannot be read: {first_line(error)}",
            hint="the copy or download broke off; fetch the file again",
        ) from error
