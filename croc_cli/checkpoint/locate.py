"""Finds a checkpoint by folder or hub id, and checks its files without loading torch."""

import json
import re
import struct
from collections.abc import Mapping
from pathlib import Path

from croc_cli.checkpoint.formats.original import SUPPORTED, is_original, read_original_config
from croc_cli.checkpoint.metadata import METADATA_FILE, read_metadata, read_object, weights_files
from croc_cli.errors import UsageError
from croc_cli.names import RUNS_FOLDER, StageName

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")
_TEXT_FILES = ["*.json", "*.model", "*.txt", "*.jinja"]
_SAFE_WEIGHTS, _TORCH_WEIGHTS = ["*.safetensors"], ["*.bin"]
_INDEX_FILE = "model.safetensors.index.json"
_HINT = "give a folder that `croc` or transformers saved, such as runs/NAME/finetune/checkpoints/step-00000240"
_MAX_HEADER_BYTES = 100_000_000  # what safetensors itself allows


def locate_checkpoint(name: str | Path) -> Path:
    """Return the local folder of a checkpoint given as a folder or a hub id, and check it; a hub id is fetched.

    Raises:
        UsageError: Nothing of that name is here or on the hub, or its files are no whole LLaVA checkpoint.
    """
    folder = find_folder(name)
    check_checkpoint(folder)
    return folder


def find_folder(name: str | Path) -> Path:
    """Return the local folder that a name stands for, whatever is in it; a hub id is fetched.

    Raises:
        UsageError: Nothing of that name is here or on the hub.
    """
    folder = Path(name).expanduser()
    if not folder.is_dir():
        if folder.is_file():
            raise UsageError(f"{folder} is a file, expected a checkpoint folder", hint="give the folder that holds it")
        if not _HUB_ID.fullmatch(str(name)):
            raise UsageError(
                f"checkpoint {name} not found: no such folder in {Path.cwd()}",
                hint="--model takes a folder or a hub id",
            )
        folder = _fetch(str(name))
    return folder


def newest_checkpoint(stage: StageName, runs: Path = Path(RUNS_FOLDER)) -> Path:
    """Return the checkpoint of `stage` under `runs` whose croc.json was written last.

    Raises:
        UsageError: There is none.
    """
    found: list[tuple[int, Path]] = []
    for file in runs.glob(f"*/*/checkpoints/step-*/{METADATA_FILE}"):
        if read_metadata(file.parent).stage == stage:
            found.append((file.stat().st_mtime_ns, file.parent))
    if not found:
        raise UsageError(
            f"no {stage} checkpoint under {runs.absolute()}",
            hint="`croc demo` trains a small model in minutes; --model takes any checkpoint folder or hub id",
        )
    return max(found)[1]


def _fetch(hub_id: str) -> Path:
    """Return the local copy of a hub repository, fetched where it is not yet there; its pickles only if need be."""
    import huggingface_hub
    from huggingface_hub import constants
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    cache, endpoint = constants.HF_HUB_CACHE, constants.ENDPOINT
    try:
        folder = Path(huggingface_hub.snapshot_download(hub_id, allow_patterns=_TEXT_FILES + _SAFE_WEIGHTS))
        if any(folder.glob(_SAFE_WEIGHTS[0])):
            return folder
        return Path(huggingface_hub.snapshot_download(hub_id, allow_patterns=_TEXT_FILES + _TORCH_WEIGHTS))
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
        raise UsageError(f"{folder} is no checkpoint: it has no config.json", hint=_HINT)
    return read_object(file)


def check_stock_config(config: Mapping[str, object], folder: Path) -> None:
    """Raise UsageError unless config.json is that of a stock LLaVA."""
    if (model_type := config.get("model_type")) != "llava":
        raise UsageError(f"{folder} holds a {model_type} model, expected a LLaVA: {SUPPORTED}", hint=_HINT)


def check_checkpoint(folder: Path) -> None:
    """Check that `folder` holds a LLaVA, and a stock one its processor and every byte of its weights.

    Of the original code's form only the config is looked at; what else it needs is found when it is opened.

    Raises:
        UsageError: Names the file that is missing, of another kind, or cut off.
    """
    hint = _HINT
    config = read_config(folder)
    if is_original(config):
        read_original_config(config, str(folder / "config.json"))
        return
    check_stock_config(config, folder)
    if not (folder / "preprocessor_config.json").is_file() and not (folder / "processor_config.json").is_file():
        raise UsageError(f"{folder} has no processor: processor_config.json is missing", hint=hint)
    index_file = folder / _INDEX_FILE
    if index_file.is_file():
        weight_map = read_object(index_file).get("weight_map")
        shards = set(weight_map.values()) if isinstance(weight_map, dict) else {f"weight_map of {_INDEX_FILE}"}
        if missing := sorted(name for name in shards if not (folder / name).is_file()):
            raise UsageError(f"{folder} is not whole: {missing[0]} is missing, which {_INDEX_FILE} lists", hint=hint)
    elif not (folder / "model.safetensors").is_file():
        other = next((file.name for kind in ("*.bin", "*.pt", "*.pth") for file in sorted(folder.glob(kind))), None)
        found = f"; {other} is not read here: `croc convert {folder} DST` writes it as safetensors" if other else ""
        raise UsageError(f"{folder} has no weights: model.safetensors is missing{found}", hint=hint)
    for file in weights_files(folder):
        check_safetensors(file)


def check_safetensors(file: Path) -> None:
    """Check that a safetensors file is as long as its header says.

    Raises:
        UsageError: It is cut off or no safetensors file; it is named.
    """
    hint = "the copy or download broke off; fetch the file again or use another checkpoint"
    size = file.stat().st_size
    with file.open("rb") as stream:
        length = struct.unpack("<Q", stream.read(8))[0] if size >= 8 else 0
        if not 2 <= length <= min(size - 8, _MAX_HEADER_BYTES):
            raise UsageError(f"{file} is no whole safetensors file: {size} bytes, its header does not fit", hint=hint)
        try:
            header = json.loads(stream.read(length))
            ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
            expected = 8 + length + max(ends, default=0)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise UsageError(f"{file} is no safetensors file: its header is not readable", hint=hint) from error
    if size != expected:
        raise UsageError(f"{file} has {size} bytes, its header says {expected}", hint=hint)
