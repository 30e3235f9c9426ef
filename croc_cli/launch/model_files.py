"""Looks into a model's folder before any launch: are config, tokenizer and weights there, and whole?"""

from pathlib import Path
from typing import Any

from croc_cli.errors import UsageError, first_line
from croc_cli.files import read_bytes
from croc_cli.launch.weights import is_file_name
from croc_cli.reading import parse_json
from croc_cli.recipe.facts import CLIP_TYPES, SIGLIP_TYPES
from croc_cli.sources.read.content import HEAD_BYTES, LFS_POINTER, in_place_of_data

_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
"""What transformers looks for, alone or as an index of shards, the better form first."""
_TOKENIZERS = ("tokenizer.json", "*.model", "vocab.json", "vocab.txt")


def check_model_files(folder: Path, *, part: str) -> None:
    """Raise UsageError unless a folder holds a whole vision tower or LLM in Hugging Face's form.

    Reads configs and the headers of weights, not the weights; takes milliseconds.

    Args:
        folder: With config.json.
        part: The recipe key, "vision_tower" or "llm".

    Raises:
        UsageError: What is missing or damaged, and how to fix it.
    """
    where = f"model.{part}"
    config = _read_object(folder / "config.json", where)
    if not config.get("model_type"):
        raise UsageError(
            f"{where}: {folder / 'config.json'} names no model_type, so its architecture is unknown",
            hint='such as "model_type": "llama"; take the config.json that belongs to these weights',
        )
    if part == "vision_tower" and config["model_type"] not in CLIP_TYPES + SIGLIP_TYPES:
        raise UsageError(
            f"{where}: {folder} is of type {config['model_type']!r}, expected a CLIP or SigLIP vision tower",
            hint="such as openai/clip-vit-large-patch14-336 or google/siglip-so400m-patch14-384",
        )
    if part == "llm" and not any(any(folder.glob(pattern)) for pattern in _TOKENIZERS):
        raise UsageError(
            f"{where}: {folder} holds no tokenizer", hint="copy tokenizer.json (or tokenizer.model) beside the weights"
        )
    for file in _weight_files(folder, where):
        _check_whole(file, where)


def _weight_files(folder: Path, where: str) -> list[Path]:
    for name in _WEIGHTS:
        if (folder / name).is_file():
            return [folder / name]
        index = folder / f"{name}.index.json"
        if not index.is_file():
            continue
        weight_map = _read_object(index, where).get("weight_map")
        names = list(weight_map.values()) if isinstance(weight_map, dict) else []
        if not names or (wrong := [name for name in names if not is_file_name(name)]):
            found = repr(wrong[0])[:80] if names else "no weight_map"
            raise UsageError(
                f"{where}: {index} lists {found}, expected files of the same folder", hint="fetch it again"
            )
        shards = sorted(set(names))
        missing = [shard for shard in shards if not (folder / shard).is_file()]
        if missing:
            shown = ", ".join(missing[:3]) + (", …" if len(missing) > 3 else "")
            raise UsageError(
                f"{where}: {folder} lacks {len(missing)} of {len(shards)} shards: {shown}", hint="copy or fetch them"
            )
        return [folder / shard for shard in shards]
    raise UsageError(
        f"{where}: {folder} holds no weights: neither {' nor '.join(_WEIGHTS)}, nor an index of shards",
        hint="croc reads Hugging Face's form; adapters (LoRA) must be merged first",
    )


def _check_whole(file: Path, where: str) -> None:
    with file.open("rb") as stream:
        start = stream.read(HEAD_BYTES)
    if in_place_of_data(start) == LFS_POINTER:
        raise UsageError(f"{where}: {file} is a git-lfs pointer, not the weights", hint="git lfs pull fetches them")
    if not start:
        raise UsageError(f"{where}: {file} is empty", hint="fetch it again")
    if file.suffix != ".safetensors":
        return
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="np"):
            return
    except SafetensorError as error:
        reason = first_line(error).removeprefix("Error while deserializing header: ")
        raise UsageError(
            f"{where}: {file} is damaged or cut short ({reason}; {file.stat().st_size:,} bytes)", hint="fetch it again"
        ) from error


def _read_object(file: Path, where: str) -> dict[str, Any]:
    try:
        value = parse_json(read_bytes(file))
    except (ValueError, OSError, RecursionError) as error:
        raise UsageError(f"{where}: {file} is not JSON: {first_line(error)}", hint="fetch it again") from error
    if not isinstance(value, dict):
        raise UsageError(f"{where}: {file} is not a JSON object", hint="fetch it again")
    return value
