"""Puts files and folders in place; replaces, moves and deletes only what croc made and can prove that it made.

The proof is a list, `.croc.json`, that croc keeps in a folder:

- In a folder that croc made as a whole (a mix, a run), it names the kind and every file that croc put there.
- In a user's folder, it names the files that croc put there, each with size and change time. A file that was changed
  since is the user's.

Links are never croc's: what lies at a link's end may be anybody's.
"""

import glob
import os
import shutil
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path
from socket import gethostname
from typing import Any

from croc_cli import __version__
from croc_cli.errors import UsageError
from croc_cli.names import BENCHMARKS, METADATA_FILE, RESUME_FOLDER, STAGES
from croc_cli.redact import redact
from croc_cli.run_dir import RunDir, StageDir, read_json, write_json

LIST_NAME = ".croc.json"
_GROWING = "growing"
_OWN_MANIFESTS: dict[str, tuple[str, set[str], set[str]]] = {
    "mix": (
        "manifest.json",
        {"order_sha256", "made_with"},
        {"manifest.json", "rows.jsonl", "index", "images", "lengths"},
    ),
    "checkpoint": (METADATA_FILE, {"croc_version", "weights_sha256"}, set()),
}
"""Proof for folders that were made before there was a list: a file that only croc writes, keys that it has, and the
names that the folder may hold (none = not looked at)."""
CHECKPOINT_NAMES = (
    *("*config.json", "*.safetensors", "*.safetensors.index.json", "tokenizer*.json", "*.model", "*.jinja"),
    *("special_tokens_map.json", "added_tokens.json", "vocab.*", "merges.txt", METADATA_FILE, "recipe.yaml"),
    *(RESUME_FOLDER, f".{RESUME_FOLDER}*", LIST_NAME),
)
"""What croc puts into the top of a checkpoint, as patterns of names; one with anything else in it is never removed."""
_HINT = "name another place, or move it away first"


def is_there(path: Path) -> bool:
    """Tell whether anything lies at a path, a link that leads nowhere included."""
    return os.path.lexists(path)


def is_made(path: Path, kind: str | None = None) -> bool:
    """Tell whether croc made what lies at a path, and can prove it.

    Args:
        path: A file or a folder.
        kind: What a folder must be, such as "mix"; None for any kind.
    """
    if path.is_symlink():
        return False
    if path.is_dir():
        listed = read_json(path / LIST_NAME).get("kind")
        if isinstance(listed, str):
            return kind in (None, listed)
        return any(
            keys <= read_json(path / name).keys()
            for of_kind, (name, keys, _) in _OWN_MANIFESTS.items()
            if kind in (None, of_kind)
        )
    noted = _noted_files(path.parent).get(path.name)
    return noted is not None and noted == _state(path)


def holds_only(folder: Path, patterns: Collection[str]) -> bool:
    """Tell whether everything in the top of a folder has a name of one of the patterns."""
    try:
        return all(any(fnmatch(path.name, pattern) for pattern in patterns) for path in folder.iterdir())
    except OSError:
        return False


def check_place(path: Path, *, kind: str | None = None, later: Collection[str] = ()) -> None:
    """Raise UsageError unless nothing lies at a path, or what croc made and nothing of the user's in it.

    Args:
        path: Where something is about to be put.
        kind: What a folder there must be; None for any kind.
        later: Names in the folder's top that croc adds after it was put in place.
    """
    if not is_there(path):
        return
    if not is_made(path, kind):
        what = "a link" if path.is_symlink() else "a folder" if path.is_dir() else "a file"
        raise UsageError(f"{path} is {what} that croc did not make, so croc does not change it", hint=_HINT)
    if path.is_dir() and (stray := _first_stray(path, later)) is not None:
        raise UsageError(
            f"{stray} is not croc's, and would be lost with {path}", hint=f"move {stray.name} elsewhere first"
        )


@contextmanager
def growing_folder(destination: Path, *, kind: str, later: Collection[str] = ()) -> Iterator[Path]:
    """Yield a hidden folder beside a destination; it takes the destination's name when the block ends well.

    A folder that croc made there is replaced. The destination appears whole or not at all.

    Args:
        destination: The folder's name in the end.
        kind: What it is, such as "mix".
        later: See `check_place`.

    Raises:
        UsageError: Something lies there that croc did not make.
    """
    check_place(destination, kind=kind, later=later)
    destination.parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(destination)
    growing = Path(tempfile.mkdtemp(prefix=f"{_start(destination)}{os.getpid()}-", dir=destination.parent))
    growing.chmod(0o777 & ~_umask())
    try:
        write_json(growing / LIST_NAME, {"made_by": f"croc {__version__}", "kind": _GROWING, "host": gethostname()})
        yield growing
        _put_folder(growing, destination, kind=kind, later=later)
    finally:
        shutil.rmtree(growing, ignore_errors=True)


def mark_folder(folder: Path, kind: str) -> None:
    """Write the list of a folder that croc made as a whole: its kind, and the files that are in it now."""
    write_json(folder / LIST_NAME, {"made_by": f"croc {__version__}", "kind": kind, "files": sorted(_files(folder))})


def claim_run(run_dir: RunDir) -> None:
    """Make a folder a run's, or raise UsageError where a user's files lie in the places of a run's."""
    names = [file.name for file in (run_dir.recipe_file, run_dir.preflight_file, run_dir.lock_file, run_dir.init)]
    proofs = (*run_dir.root.glob("*/launch.json"), *run_dir.root.glob("*/ranks/rank-*.json"))
    is_proven = "process" in read_json(run_dir.lock_file) or bool(proofs)
    claim_folder(
        run_dir.root, "run", [*names, *STAGES, "eval", BENCHMARKS, "preflight", "prepare"], is_proven=is_proven
    )


def claim_benchmarks(stage_dir: StageDir) -> None:
    """Make a folder one of answers and scores, or raise UsageError where a user's files lie in the places of its own.

    Answers may lie in its `predictions/` before: they are scored, and never changed.
    """
    files = (stage_dir.results_file, stage_dir.recipe_file, stage_dir.launch_file, stage_dir.events_file)
    more = (stage_dir.summary_file, stage_dir.stop_file, stage_dir.logs, stage_dir.failures, stage_dir.ranks)
    others = ("items", "submissions", "example.png", "task.json", "judge_replies")
    is_proven = (
        isinstance(read_json(stage_dir.results_file).get("benchmarks"), dict)
        or "benchmarks" in read_json(stage_dir.root / "task.json")
        or any(stage_dir.predictions.glob("*.made_by.json"))
    )
    names = [*(path.name for path in (*files, *more)), *others]
    claim_folder(stage_dir.root, "benchmarks", names, is_proven=is_proven)


def claim_folder(folder: Path, kind: str, names: Collection[str], *, is_proven: bool = False) -> None:
    """Make a folder that croc works in for a long time, such as a run's, croc's; a user's other files may lie in it.

    Args:
        folder: Made where it is not there.
        kind: Such as "run".
        names: What croc writes into its top, by name.
        is_proven: Something else shows that croc has worked here, as in folders from before there was a list.

    Raises:
        UsageError: One of the names is there, and croc did not make the folder.
    """
    if is_there(folder) and not folder.is_dir():
        check_place(folder)
    folder.mkdir(parents=True, exist_ok=True)
    listed = read_json(folder / LIST_NAME)
    if listed.get("kind") == kind:
        return
    taken = next((folder / name for name in names if is_there(folder / name)), None)
    if taken is not None and not is_proven:
        raise UsageError(f"{taken} exists, and croc did not create it, so croc does not change it", hint=_HINT)
    write_json(folder / LIST_NAME, {**listed, "made_by": f"croc {__version__}", "kind": kind})


def remove_made(folder: Path, kind: str) -> None:
    """Delete a folder that croc made; nothing there is fine.

    Raises:
        UsageError: It is not croc's.
    """
    if not is_there(folder):
        return
    check_place(folder, kind=kind)
    shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def growing_file(destination: Path, *, is_proven: bool = False) -> Iterator[Path]:
    """Yield a hidden file beside a destination; it takes the destination's name when the block ends well.

    A file that croc made there, and that nobody changed since, is replaced.

    Args:
        destination: The file's name in the end.
        is_proven: Something else than the folder's list shows that the file is croc's, and unchanged.

    Raises:
        UsageError: Something lies there that croc did not make.
    """
    if not is_proven:
        check_place(destination)
    destination.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=_start(destination), suffix=".unfinished", dir=destination.parent)
    os.fchmod(handle, 0o666 & ~_umask())
    os.close(handle)
    growing = Path(name)
    try:
        yield growing
        put_file(growing, destination, is_proven=is_proven)
    finally:
        growing.unlink(missing_ok=True)


def put_file(growing: Path, destination: Path, *, is_proven: bool = False) -> None:
    """Give a finished file its name, and note it as croc's; see `growing_file`.

    Raises:
        UsageError: Something lies there that croc did not make.
    """
    if not is_proven:
        check_place(destination)
    growing.replace(destination)
    noted = _noted_files(destination.parent)
    # What is gone or was changed since is no longer croc's: the list stays short, and says so.
    kept = {name: state for name, state in noted.items() if _state(destination.with_name(name)) == state}
    listed = read_json(destination.parent / LIST_NAME)
    now = {**kept, destination.name: _state(destination)}
    write_json(destination.parent / LIST_NAME, {**listed, "made_by": f"croc {__version__}", "single_files": now})


def put_text(destination: Path, text: str) -> None:
    """Write a text file that appears whole or not at all; see `growing_file`."""
    put_bytes(destination, redact(text).encode("utf-8"))


def put_bytes(destination: Path, content: bytes) -> None:
    """Write a file that appears whole or not at all; see `growing_file`."""
    with growing_file(destination) as growing:
        growing.write_bytes(content)


def _put_folder(growing: Path, destination: Path, *, kind: str, later: Collection[str]) -> None:
    mark_folder(growing, kind)
    check_place(destination, kind=kind, later=later)  # once more: the work may have taken hours
    if not is_there(destination):
        growing.rename(destination)
        return
    aside = Path(tempfile.mkdtemp(prefix=f"{_start(destination)}{os.getpid()}-", dir=destination.parent))
    destination.rename(aside)  # onto an empty folder of ours
    try:
        growing.rename(destination)
    except OSError:
        aside.rename(destination)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def _remove_abandoned(destination: Path) -> None:
    """Remove what killed processes of this machine left while they made the same folder."""
    start = _start(destination)
    for path in destination.parent.glob(f"{glob.escape(start)}*-*"):
        process = path.name.removeprefix(start).partition("-")[0]
        listed = {} if path.is_symlink() else read_json(path / LIST_NAME)
        is_ours = listed.get("kind") == _GROWING and listed.get("host") == gethostname()
        if is_ours and process.isdigit() and Path("/proc/self").exists() and not Path(f"/proc/{process}").exists():
            shutil.rmtree(path, ignore_errors=True)


def _start(destination: Path) -> str:
    """Return how the names of what grows for a destination start; cut, as names end at 255 bytes."""
    return f".{destination.name.encode()[:150].decode(errors='ignore')}."


def _first_stray(folder: Path, later: Collection[str]) -> Path | None:
    """Return a file in a folder of croc's that croc did not put there, or None."""
    content = read_json(folder / LIST_NAME)
    listed = content.get("files")
    single = _noted_files(folder)
    if isinstance(listed, list):
        known, tops = {*map(str, listed), *single}, set(later)
    else:  # made before there was a list
        known, tops = (
            set(single),
            next((names for name, _, names in _OWN_MANIFESTS.values() if (folder / name).is_file()), set()),
        )
        if not tops:
            return None
    strays = (name for name in sorted(_files(folder)) if name not in known and name.split("/")[0] not in tops)
    return next((folder / name for name in strays), None)


def _files(folder: Path) -> Iterator[str]:
    for top, folders, names in os.walk(folder):
        links = [name for name in folders if Path(top, name).is_symlink()]
        for name in (*names, *links):
            if (found := os.path.relpath(Path(top, name), folder)) != LIST_NAME:
                yield found


def _noted_files(folder: Path) -> dict[str, Any]:
    noted = read_json(folder / LIST_NAME).get("single_files")
    return noted if isinstance(noted, dict) else {}


def _state(file: Path) -> list[int] | None:
    """Return size and change time in nanoseconds of a plain file, as JSON holds them; None where there is none."""
    try:
        state = file.lstat()
    except OSError:
        return None
    return [state.st_size, state.st_mtime_ns] if file.is_file() and not file.is_symlink() else None


def _umask() -> int:
    """Return the mask of this process's new files: temporary ones are made for their owner alone."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
