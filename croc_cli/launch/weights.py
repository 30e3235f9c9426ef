"""The identity of a checkpoint's weights: hashes of the files as they are now, whatever croc.json says of them."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

from croc_cli.errors import UsageError
from croc_cli.launch.known_files import known_sha256
from croc_cli.names import METADATA_FILE, TRAINING_STATE_FILE
from croc_cli.run_dir import read_json


def weights_files(folder: Path) -> list[Path]:
    """Return the model's safetensors files in `folder`, by name; the pool's file is not one of them."""
    return sorted(file for file in folder.glob("*.safetensors") if file.name != TRAINING_STATE_FILE and file.is_file())


def combine_hashes(files: Mapping[str, str]) -> str:
    """Return one SHA-256 over the names and hashes of the model's weights files."""
    lines = sorted(f"{sha256}  {name}\n" for name, sha256 in files.items() if name != TRAINING_STATE_FILE)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def weights_sha256(folder: Path) -> str | None:
    """Return one hash over a checkpoint's weights files as they are now; None for a folder that says nothing of them.

    Large files are read once and known by inode, size and times afterwards. A folder of the original code is known by
    its pickles, and one whose weights are gone by what croc.json says of them. Imports nothing heavy.

    Raises:
        UsageError: Weights are missing, others, or more than croc.json lists; the file is named.
    """
    about = read_json(folder / METADATA_FILE)
    if is_hashes(listed := about.get("files")) and listed:
        return combine_hashes(checked_hashes(folder, listed))
    if files := weights_files(folder) or sorted(file for file in folder.glob("*.bin") if file.is_file()):
        return combine_hashes({file.name: known_sha256(file) for file in files})
    claimed = about.get("weights_sha256")
    return claimed if isinstance(claimed, str) else None


def checked_hashes(folder: Path, listed: Mapping[str, str]) -> dict[str, str]:
    """Return the hashes of a folder's weights files, which are those that croc.json lists.

    Raises:
        UsageError: A file is missing, differs, or is not listed; it is named.
    """
    hint = (
        f"use another checkpoint or copy this one again; after a change on purpose, take `files` out of {METADATA_FILE}"
    )
    if unlisted := [file for file in weights_files(folder) if file.name not in listed]:
        raise UsageError(f"{unlisted[0]} is not among the files that {METADATA_FILE} lists", hint=hint)
    hashes = {}
    for name, expected in listed.items():
        file = folder / name
        if not file.is_file():
            raise UsageError(f"{file} is missing, but {METADATA_FILE} lists it", hint=hint)
        hashes[name] = known_sha256(file)
        if hashes[name] != expected:
            raise UsageError(
                f"{file} is not what was saved: SHA-256 {hashes[name]}, expected {expected} by {METADATA_FILE}",
                hint=hint,
            )
    return hashes


def is_file_name(name: object) -> bool:
    """Tell whether a name that a checkpoint gives is that of a file in its own folder."""
    return isinstance(name, str) and name not in ("", ".", "..") and not set(name) & set("/\\\0")


def is_hashes(value: object) -> bool:
    """Tell whether a value is what croc.json keeps under `files`: a hash for each file name."""
    return isinstance(value, dict) and all(is_file_name(key) and isinstance(one, str) for key, one in value.items())
