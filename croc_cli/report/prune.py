"""What may go from runs to free disk space: what no later command needs, croc made, and holds nothing of the user's."""

import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from croc_cli.names import RESUME_FOLDER, STAGES
from croc_cli.place import CHECKPOINT_NAMES, LIST_NAME, holds_only, is_made
from croc_cli.report.run_list import RunState, folder_bytes
from croc_cli.run_dir import RunDir, StageDir

_ASIDE = re.compile(rf"({'|'.join(STAGES)}|init|eval|benchmarks)-\d{{8}}-\d{{6}}(-\d+)?")
"""Names of folders that `--fresh` set aside."""
_OF_STAGE = (
    *("*.json", "*.jsonl", "recipe.yaml", "example.png", "stop", "hostfile", ".deepspeed_env", "checkpoints"),
    *("samples", "predictions", "items", "judge_replies", "logs", "failures", "ranks", "tensorboard", "during"),
    LIST_NAME,
)
"""What croc puts into the top of a stage's folder, as patterns of names; a folder with anything else in it stays."""
_REPLACED, _REMOVED = ".old", ".removed"
"""Ends of names: of a checkpoint whose place a save is about to take, and of what is being removed."""


@dataclass(frozen=True)
class Prunable:
    """Something that may go.

    Args:
        path: The folder.
        why: What it is, and what goes with it.
        size_bytes: On disk.
    """

    path: Path
    why: str
    size_bytes: int


def prunable(runs: Sequence[RunState]) -> list[Prunable]:
    """Return what may go of runs; nothing of a run that runs.

    The newest and the best checkpoint of each stage stay, and of an unfinished stage also what it resumes from.
    """
    found = []
    for run in runs:
        if run.state != "running":
            folder = RunDir(Path(run.folder))
            for name in STAGES:
                found += [Prunable(path, why, folder_bytes(path)) for path, why in _of_stage(folder.stage(name))]
            found += [Prunable(path, "set aside by --fresh", folder_bytes(path)) for path in _set_aside(folder.root)]
    return found


def _of_stage(stage: StageDir) -> Iterator[tuple[Path, str]]:
    checkpoints = [path for path in stage.complete_checkpoints() if is_made(path, "checkpoint")]
    for old in checkpoints[:-1]:
        if old != stage.best_checkpoint() and holds_only(old, CHECKPOINT_NAMES):
            yield old, "older checkpoint"
    if checkpoints and stage.finished() and _is_folder(resume := checkpoints[-1] / RESUME_FOLDER):
        yield resume, "resume state of a finished stage; without it, more steps start over"
    for path in sorted(stage.checkpoints.glob(".step-*")):
        complete = path.with_name(path.name[1:].removesuffix(_REPLACED))
        is_needed = path.suffix == _REPLACED and not complete.exists()  # the next save puts it back
        if is_made(path, "checkpoint") and not is_needed and holds_only(path, CHECKPOINT_NAMES):
            yield path, "unfinished save"


def _set_aside(run: Path) -> list[Path]:
    """Return the stages and models that `--fresh` set aside, those that croc can prove to be its own."""
    try:
        named = sorted(path for path in run.iterdir() if _is_folder(path) and _ASIDE.fullmatch(path.name))
    except OSError:
        return []
    stages = [path for path in named if (path / "launch.json").is_file() and holds_only(path, _OF_STAGE)]
    models = [path for path in named if is_made(path, "checkpoint") and holds_only(path, CHECKPOINT_NAMES)]
    return [path for path in named if path in stages or path in models]


def _is_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def remove(found: Sequence[Prunable]) -> list[str]:
    """Remove what may go, and return what could not be removed, with the reason."""
    problems = []
    for one in found:
        try:
            # Hidden first: half a checkpoint must never look like one.
            shutil.rmtree(one.path if one.path.name.startswith(".") else one.path.rename(_hidden(one.path)))
        except OSError as error:
            problems.append(f"{one.path}: {error.strerror or error}")
    return problems


def _hidden(path: Path) -> Path:
    return path.with_name(f".{path.name}{_REMOVED}")
