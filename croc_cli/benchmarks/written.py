"""Writes the files beside a results.json, and never replaces one that the user changed or put there.

The proof is in results.json, which holds the SHA-256 of each file that croc wrote beside it: unlike times of change, it
survives a copy of the folder.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from croc_cli.place import check_place, growing_file, is_made, is_there
from croc_cli.redact import redact
from croc_cli.run_dir import StageDir, read_json, sha256_of


def check_file(file: Path, stage_dir: StageDir) -> None:
    """Raise UsageError where writing a file would lose something of the user's.

    Args:
        file: In the stage's folder or one below it.
        stage_dir: With results.json.
    """
    folder = file.parent
    if folder != stage_dir.root and is_there(folder) and (folder.is_symlink() or not folder.is_dir()):
        check_place(folder)
    if not _is_proven(file, stage_dir):
        check_place(file)


def put_file(file: Path, content: str | bytes, stage_dir: StageDir) -> Path:
    """Write a file that appears whole or not at all, and return it; secrets in a text are hidden.

    Raises:
        UsageError: See `check_file`.
    """
    check_file(file, stage_dir)
    file.parent.mkdir(parents=True, exist_ok=True)
    with growing_file(file, is_proven=_is_proven(file, stage_dir)) as growing:
        growing.write_bytes(redact(content).encode() if isinstance(content, str) else content)
    return file


def hashes_of(entries: Iterable[Mapping[str, Any]], stage_dir: StageDir) -> dict[str, str]:
    """Return the SHA-256 of each file that entries of results.json name, by its path from the stage's folder."""
    found: dict[str, str] = {}
    for entry in entries:
        for file in map(Path, _names(entry).values()):
            with suppress(OSError, ValueError):  # a file that is gone, or one of another folder
                found[file.relative_to(stage_dir.root).as_posix()] = sha256_of(file)
    return found


def known_hashes(results: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a results.json says of the files that croc wrote beside it."""
    files = results.get("files")
    return dict(files) if isinstance(files, dict) else {}


def _names(entry: Any) -> dict[str, str]:
    """Return the files that an entry names, by their names without folders."""
    entry = entry if isinstance(entry, Mapping) else {}
    example = entry.get("example")
    named = (entry.get("items"), entry.get("submission"), example.get("image") if isinstance(example, dict) else None)
    return {Path(name).name: name for name in named if isinstance(name, str)}


def _is_proven(file: Path, stage_dir: StageDir) -> bool:
    """Tell whether croc wrote a file, and nobody changed it since."""
    if file.is_symlink() or not file.is_file():
        return False
    if is_made(file):
        return True
    results = read_json(stage_dir.results_file)
    if "files" not in results:  # written by an earlier version, which kept no hashes
        entries = results.get("benchmarks")
        return isinstance(entries, dict) and any(file.name in _names(one) for one in entries.values())
    noted = known_hashes(results).get(file.relative_to(stage_dir.root).as_posix())
    return noted is not None and noted == sha256_of(file)
