"""Finds a checkpoint by folder or hub id, and checks its files without loading torch."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from croc_cli.checkpoint.formats.original import SUPPORTED, is_original, read_original_config
from croc_cli.checkpoint.formats.victor import GENERATIONS, saved_names
from croc_cli.checkpoint.headers import SavedTensor, read_header
from croc_cli.checkpoint.metadata import DAMAGED, read_metadata, read_object
from croc_cli.errors import UsageError
from croc_cli.files import own_path
from croc_cli.launch.weights import is_file_name
from croc_cli.names import METADATA_FILE, RUNS_FOLDER, TRAINING_STATE_FILE, StageName

if TYPE_CHECKING:
    from croc_cli.model.find import Fetching

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")
_WEIGHTS = (["*.safetensors"], ["*.bin"])
"""The original code's checkpoints have them under other names than transformers'."""
_WHOLE_FILE, _INDEX_FILE = "model.safetensors", "model.safetensors.index.json"
_HINT = "give a folder that `croc` or transformers saved, such as runs/NAME/finetune/checkpoints/step-00000240"


def locate_checkpoint(name: str | Path, *, fetching: "Fetching | None" = None) -> Path:
    """Return the local folder of a checkpoint given as a folder or a hub id, and check it; a hub id is fetched.

    Args:
        name: The folder or hub id.
        fetching: See `croc_cli.model.find.find_model`; None shows no bar of croc's.

    Raises:
        UsageError: Nothing of that name is here or on the hub, or its files are no whole LLaVA checkpoint.
    """
    folder = find_folder(name, fetching=fetching)
    check_checkpoint(folder)
    return folder


def find_folder(name: str | Path, *, fetching: "Fetching | None" = None) -> Path:
    """Return the local folder that a name stands for, whatever is in it; a hub id is fetched; see `locate_checkpoint`.

    Raises:
        UsageError: Nothing of that name is here or on the hub.
    """
    folder = own_path(name)
    if not folder.is_dir():
        if folder.is_file():
            raise UsageError(f"{folder} is a file, expected a checkpoint folder", hint="give the folder that holds it")
        if not _HUB_ID.fullmatch(str(name)):
            raise UsageError(
                f"checkpoint {name} not found: no such folder in {Path.cwd()}",
                hint="--model takes a folder or a hub id",
            )
        folder = _fetch(str(name), fetching)
    return folder


def newest_checkpoints(
    stage: StageName, runs: Path = Path(RUNS_FOLDER), *, say: Callable[[str], None] = lambda _: None
) -> list[Path]:
    """Return the checkpoints of `stage` under `runs`, the one whose croc.json was written last first.

    Args:
        stage: The stage.
        runs: Folder of runs.
        say: Told of those whose croc.json is damaged, one line each.

    Raises:
        UsageError: There is none.
    """
    found: list[tuple[int, Path]] = []
    for file in runs.glob(f"*/*/checkpoints/step-*/{METADATA_FILE}"):
        try:
            if read_metadata(file.parent).stage == stage:
                found.append((file.stat().st_mtime_ns, file.parent))
        except (UsageError, OSError) as error:
            say(f"skipped: {error.message if isinstance(error, UsageError) else error}")
    if not found:
        raise UsageError(
            f"no {stage} checkpoint under {runs.absolute()}",
            hint="`croc demo` trains a small model in minutes; --model takes any checkpoint folder or hub id",
        )
    return [folder for _, folder in sorted(found, reverse=True)]


def _fetch(hub_id: str, fetching: "Fetching | None") -> Path:
    """Return the local copy of a hub repository, fetched where it is not yet there; its pickles only if need be."""
    from huggingface_hub import constants
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    from croc_cli.model.find import fetch_files, unwatched

    cache, endpoint = constants.HF_HUB_CACHE, constants.ENDPOINT
    try:
        return fetch_files(hub_id, forms=_WEIGHTS, fetching=fetching or unwatched)
    except Exception as error:  # httpx, OSError, ValueError: huggingface_hub's roots change with its versions
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        reason, hint = (
            lines[0] if lines else type(error).__name__,
            "download it elsewhere and pass the local folder: --model DIR",
        )
        if isinstance(error, GatedRepoError):
            reason, hint = "it is gated", f"ask for access at {endpoint}/{hub_id}, then `hf auth login` or HF_TOKEN"
        elif isinstance(error, RepositoryNotFoundError):
            reason, hint = (
                "no such repository, or no right to see it",
                "check the name; for a private one log in (HF_TOKEN), or pass the local folder: --model DIR",
            )
        raise UsageError(
            f"checkpoint {hub_id} not found: no folder {Path(hub_id).absolute()}, not in the cache {cache}, "
            f"and {endpoint} did not give it ({reason})",
            hint=hint,
        ) from error


def read_config(folder: Path) -> dict[str, object]:
    """Return config.json of a checkpoint.

    Raises:
        UsageError: There is none, or it cannot be read.
    """
    file = folder / "config.json"
    if not file.is_file():
        raise UsageError(f"{folder} is not a checkpoint: it has no config.json", hint=_HINT)
    return read_object(file)


def check_stock_config(config: Mapping[str, object], folder: Path) -> None:
    """Raise UsageError unless config.json is that of a stock LLaVA."""
    if (model_type := config.get("model_type")) != "llava":
        named = f" ({known})" if (known := GENERATIONS.get(str(model_type))) else ""
        raise UsageError(f"{folder} holds a {model_type} model{named}, expected a LLaVA: {SUPPORTED}", hint=_HINT)


def check_checkpoint(folder: Path) -> None:
    """Check that `folder` holds a LLaVA, and a stock one its processor and every byte of its weights.

    Of the original code's form only the config is looked at; what else it needs is found when it is opened.

    Raises:
        UsageError: Names the file that is missing, of another kind, or cut off.
    """
    hint = _HINT
    config = read_config(folder)
    if is_original(config):
        read_original_config(config, str(folder / "config.json"), names=saved_names(folder))
        return
    check_stock_config(config, folder)
    if not (folder / "preprocessor_config.json").is_file() and not (folder / "processor_config.json").is_file():
        raise UsageError(f"{folder} has no processor: processor_config.json is missing", hint=hint)
    if not (files := saved_files(folder)):
        other = next((file.name for kind in ("*.bin", "*.pt", "*.pth") for file in sorted(folder.glob(kind))), None)
        found = (
            f"; {other} is not read here: `croc convert {folder} {folder.name}-stock` writes it as safetensors"
            if other
            else ""
        )
        raise UsageError(f"{folder} has no weights: model.safetensors is missing{found}", hint=hint)
    for file in files:
        read_header(file)
    if (folder / TRAINING_STATE_FILE).is_file():
        read_header(folder / TRAINING_STATE_FILE)
    read_metadata(folder)


def saved_files(folder: Path) -> list[Path]:
    """Return the safetensors files that transformers opens as a folder's model; empty where there are none.

    Raises:
        UsageError: The index is not what it should be, or a file that it lists is missing.
    """
    if (folder / _WHOLE_FILE).is_file():
        return [folder / _WHOLE_FILE]
    index = folder / _INDEX_FILE
    return sorted(set(indexed_files(index).values())) if index.is_file() else []


def indexed_files(index: Path) -> dict[str, Path]:
    """Return the file of each weight that an index lists.

    Raises:
        UsageError: It cannot be read, or lists what is missing or outside its folder.
    """
    weight_map = read_object(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise UsageError(f"{index} has no weight_map from weights to files", hint=DAMAGED)
    for weight, name in weight_map.items():
        if not is_file_name(name):
            raise UsageError(f"{index}: {weight} lies in {name!r}, expected a file of the same folder", hint=DAMAGED)
    if missing := sorted({name for name in weight_map.values() if not (index.parent / name).is_file()}):
        raise UsageError(
            f"{index.parent} is incomplete: {missing[0]} is missing, which {index.name} lists",
            hint="fetch the file too, or use another checkpoint",
        )
    return {weight: index.parent / name for weight, name in weight_map.items()}


def read_headers(folder: Path) -> dict[str, SavedTensor]:
    """Return what a folder's safetensors files hold, by saved names.

    Raises:
        UsageError: A file is damaged, or an index lists a weight in a file that does not hold it.
    """
    headers = {file: read_header(file) for file in saved_files(folder)}
    index = folder / _INDEX_FILE
    if index.is_file() and not (folder / _WHOLE_FILE).is_file():
        for weight, file in indexed_files(index).items():
            if weight not in headers[file]:
                raise UsageError(f"{index}: {weight} is not in {file.name}", hint=DAMAGED)
    return {name: saved for header in headers.values() for name, saved in header.items()}
