"""What is known of weights files that have not changed since they were read: their hashes, and that their values are
numbers.

A file is taken for the same while its place, inode, size and both of its times are. What is known lies in croc's cache
folder; where that cannot be written, files are read again.
"""

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from croc_cli.run_dir import read_json, sha256_of, write_json
from croc_cli.sources.read.cache import cache_folder, file_key

_PURPOSE = "weights"
_SMALL = 4 * 2**20
"""Bytes below which reading a file again costs less than remembering it."""


def known_sha256(file: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal; of a large file that has not changed, the one known."""
    state = _state(file)
    known = recall(file).get("sha256")
    if isinstance(known, str):
        return known
    found = sha256_of(file)
    if _state(file) == state:
        remember(file, sha256=found)
    return found


def recall(file: Path) -> dict[str, Any]:
    """Return what was remembered of a file; nothing where it has changed since."""
    known = read_json(_note(file)) if file.stat().st_size >= _SMALL else {}
    return known if known.get("state") == _state(file) else {}


def remember(file: Path, **facts: Any) -> None:
    """Keep what was found out about a file, until it changes."""
    if file.stat().st_size >= _SMALL:
        with suppress(OSError):
            write_json(_note(file), {**recall(file), **facts, "file": os.path.abspath(file), "state": _state(file)})


def _note(file: Path) -> Path:
    return cache_folder() / _PURPOSE / f"{file_key(file, _PURPOSE)}.json"


def _state(file: Path) -> list[int]:
    state = file.stat()
    return [state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns]
