"""What may go from runs to free disk space: what no later command needs."""

import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from croc_cli.names import RESUME_FOLDER, STAGES
from croc_cli.report.run_list import RunState, folder_bytes
from croc_cli.run_dir import RunDir, StageDir

_ASIDE = re.compile(rf"({'|'.join(STAGES)}|init|eval|benchmarks)-\d{{8}}-\d{{6}}(-\d+)?")
"""Names of folders that `--fresh` set aside."""


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

    The newest checkpoint of each stage stays, and of a stage that is not finished also what it resumes from.
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
    checkpoints = stage.complete_checkpoints()
    for old in checkpoints[:-1]:
        yield old, "older checkpoint"
    if checkpoints and stage.finished() and (resume := checkpoints[-1] / RESUME_FOLDER).is_dir():
        yield resume, "resume state of a finished stage; without it, more steps start over"
    if stage.checkpoints.is_dir():
        yield from ((path, "unfinished save") for path in sorted(stage.checkpoints.glob(".*")) if path.is_dir())


def _set_aside(run: Path) -> list[Path]:
    try:
        return sorted(path for path in run.iterdir() if path.is_dir() and _ASIDE.fullmatch(path.name))
    except OSError:
        return []


def remove(found: Sequence[Prunable]) -> list[str]:
    """Remove what may go, and return what could not be removed, with the reason."""
    problems = []
    for one in found:
        try:
            shutil.rmtree(one.path)
        except OSError as error:
            problems.append(f"{one.path}: {error.strerror or error}")
    return problems
