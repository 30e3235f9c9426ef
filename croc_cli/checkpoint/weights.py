"""Reads a folder's weights, in safetensors or in torch's own form, without running anything that is in them."""

import json
import pickle
from collections.abc import Iterable
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from croc_cli.checkpoint.locate import check_safetensors
from croc_cli.errors import UsageError

INDEX_FILES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
WHOLE_FILES = ("model.safetensors", "pytorch_model.bin")
PROJECTOR_FILES = ("mm_projector.safetensors", "mm_projector.bin")
ADAPTER_FILES = ("adapter_model.safetensors", "adapter_model.bin")
EXTRA_FILE = "non_lora_trainables.bin"


def model_files(folder: Path) -> list[Path]:
    """Return the files that hold a folder's whole weights; empty where it has none.

    Raises:
        UsageError: An index lists a file that is missing, or cannot be read.
    """
    for name in INDEX_FILES:
        if (folder / name).is_file():
            return _shards(folder, name)
    return [folder / name for name in WHOLE_FILES if (folder / name).is_file()][:1]


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
    return weights


def read_file(file: Path) -> dict[str, Tensor]:
    """Return the tensors of one file; a pickle is read with `weights_only=True` and nothing else.

    Raises:
        UsageError: It is cut off, no weights file, or a pickle with anything but tensors in it.
    """
    if file.suffix == ".safetensors":
        check_safetensors(file)
        loaded: object = load_file(file)
    else:
        loaded = _read_pickle(file)
    if not isinstance(loaded, dict) or not all(isinstance(value, Tensor) for value in loaded.values()):
        raise UsageError(f"{file} holds no tensors by name", hint="it is no weights file of a model")
    empty = sorted(name for name, tensor in loaded.items() if tensor.numel() == 0)
    if empty:
        raise UsageError(
            f"{file}: {empty[0]} is empty ({loaded[empty[0]].shape}), as {len(empty)} of {len(loaded)} weights are",
            hint="it was saved under ZeRO-3 without gathering; make it again from the run's own checkpoint with "
            "DeepSpeed's zero_to_fp32.py",
        )
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
    except (OSError, RuntimeError, ValueError, EOFError, KeyError) as error:
        raise UsageError(
            f"{file} cannot be read: {str(error).splitlines()[0] if str(error) else type(error).__name__}",
            hint="the copy or download broke off; fetch the file again",
        ) from error


def _shards(folder: Path, index: str) -> list[Path]:
    try:
        names = set(json.loads((folder / index).read_text(encoding="utf-8"))["weight_map"].values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"{folder / index} cannot be read", hint="fetch the file again") from error
    if missing := sorted(name for name in names if not (folder / name).is_file()):
        raise UsageError(
            f"{folder} is not whole: {missing[0]} is missing, which {index} lists", hint="fetch the file too"
        )
    return [folder / name for name in sorted(names)]
