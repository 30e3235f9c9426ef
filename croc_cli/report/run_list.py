"""All runs at a glance, from their files alone: stage and step, state, loss, speed, age, size, how to resume."""

import os
import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from croc_cli.errors import EXIT_INTERRUPTED, CrocError, UsageError
from croc_cli.launch.live import format_seconds
from croc_cli.launch.process import ProcessIdentity
from croc_cli.launch.run_lock import SILENCE_SECONDS
from croc_cli.names import RUNS_FOLDER, STAGES
from croc_cli.report.metrics_reader import last_rows, last_rows_with, mean_of
from croc_cli.report.run_data import find_runs, read_recipe
from croc_cli.report.terminal import best_of, best_words, format_table
from croc_cli.run_dir import RunDir, StageDir, read_json
from croc_cli.words import counted

State = Literal["running", "stopped", "failed", "killed", "finished", "never started"]


@dataclass(frozen=True)
class RunState:
    """One run.

    Args:
        folder: Its folder.
        recipe: Name of its recipe; empty where it cannot be read.
        stage: The stage that it is in; None before the first.
        step, total_steps: Of that stage; None where no step is written down.
        state: What it does.
        where: Host and process that runs it or ran it last; empty where the lock does not tell.
        loss: Mean over the last steps.
        held_out_loss: The newest; None where none is measured.
        scores: The newest of each benchmark that is answered on the way.
        best: Benchmark, step and value of the best step, whose checkpoint is kept; empty where none is.
        tokens_per_second: Mean over the last steps.
        seconds_left: Of the stage, as the last step estimates it.
        age_seconds: Since its files last changed.
        size_bytes: On disk; 0 where it was not added up.
        command: What resumes it; None where nothing is left to do or it runs.
    """

    folder: str
    recipe: str
    stage: str | None
    step: int | None
    total_steps: int | None
    state: State
    where: str
    loss: float | None
    held_out_loss: float | None
    scores: dict[str, float]
    best: dict[str, Any]
    tokens_per_second: float | None
    seconds_left: float | None
    age_seconds: float | None
    size_bytes: int
    command: str | None


def _recipe(file: Path) -> dict[str, Any]:
    """Return a recipe's values, none where it is half-written or of another version."""
    try:
        return read_recipe(file)
    except CrocError:
        return {}


def list_runs(folders: Sequence[Path]) -> list[RunState]:
    """Return the runs at and below folders, the one that changed last first.

    Args:
        folders: Where to look; none for `runs/`.

    Raises:
        UsageError: A folder that was named does not exist.
    """
    for folder in folders:
        if not folder.is_dir():
            raise UsageError(f"{folder}: no such folder", hint="name run folders, or a folder that holds them")
    found = [run for folder in folders or [Path(RUNS_FOLDER)] for run in find_runs(folder)]
    states = [run_state(folder) for folder in dict.fromkeys(found)]
    return sorted(states, key=lambda run: run.age_seconds if run.age_seconds is not None else float("inf"))


def run_state(folder: Path, *, measure: bool = True) -> RunState:
    """Return what a run's files say of it.

    Args:
        folder: The run folder.
        measure: Add up its size on disk, which takes a look at every file.
    """
    run = RunDir(folder)
    recipe = _recipe(run.recipe_file)
    stage = current_stage(run)
    rows = last_rows(stage.metrics_file) if stage is not None else []
    last: Mapping[str, Any] = rows[-1] if rows else {}
    state, where = _state(run, stage, recipe)
    return RunState(
        folder=str(folder),
        recipe=str(recipe.get("name") or (_recipe(stage.recipe_file).get("name") if stage else "") or ""),
        stage=stage.name if stage is not None else None,
        step=_whole(last.get("step")),
        total_steps=_whole(last.get("total_steps")),
        state=state,
        where=where,
        loss=mean_of(rows, "loss"),
        held_out_loss=next(reversed(held_out_losses(stage) if stage is not None else []), None),
        scores={name: found[-1] for name, found in benchmark_scores(stage).items()} if stage is not None else {},
        best=best_of(stage) if stage is not None else {},
        tokens_per_second=mean_of(rows, "tokens_per_second"),
        seconds_left=_number(last.get("seconds_left")) if state in ("running", "stopped", "failed", "killed") else None,
        age_seconds=_age(run, stage),
        size_bytes=folder_bytes(folder) if measure else 0,
        command=None if state in ("running", "finished") else resume_command(run, stage, recipe),
    )


def current_stage(run: RunDir) -> StageDir | None:
    """Return the last stage in order that was started, None where none was."""
    started = [run.stage(name) for name in STAGES if run.stage(name).exists()]
    return started[-1] if started else None


def resume_command(run: RunDir, stage: StageDir | None, recipe: Mapping[str, Any]) -> str:
    """Return the command that goes on with a run, from the recipe that lies in its folder."""
    if stage is not None and not stage.finished():
        words = ["croc", stage.name, str(stage.recipe_file)]
    else:
        file = run.recipe_file if recipe else (stage.recipe_file if stage else run.recipe_file)
        words = ["croc", "run", str(file)]
    return shlex.join([*words, "--run-dir", str(run.root)])


def _state(run: RunDir, stage: StageDir | None, recipe: Mapping[str, Any]) -> tuple[State, str]:
    lock = read_json(run.lock_file)
    holder = ProcessIdentity.from_json(lock.get("process")) or ProcessIdentity.from_json(lock)
    where = f"{holder.host}/{holder.pid}" if holder is not None else ""
    if holder is not None:
        alive = holder.is_alive() if holder.is_here() else _changed_within(run.lock_file, 2 * SILENCE_SECONDS)
        return ("running" if alive else "killed"), where
    if stage is None or not (stage.metrics_file.is_file() or stage.latest_checkpoint()):
        return ("failed" if stage is not None and _failed(stage) else "never started"), ""
    if stage.finished():
        enabled = [name for name in STAGES if _enabled(recipe, name)]
        return ("finished" if not enabled or stage.name == enabled[-1] else "stopped"), ""
    return ("failed" if _failed(stage) else "stopped"), ""


def _failed(stage: StageDir) -> bool:
    """Tell whether ranks of the last launch ended by an error; those that were asked to stop did not."""
    codes = [read_json(file).get("exit_code") for file in stage.failures.glob("rank-*.json")]
    return any(code != EXIT_INTERRUPTED for code in codes)


def _enabled(recipe: Mapping[str, Any], stage: str) -> bool:
    section = recipe.get(stage)
    return isinstance(section, Mapping) and bool(section.get("enabled", True))


def _changed_within(file: Path, seconds: float) -> bool:
    try:
        return time.time() - file.stat().st_mtime < seconds
    except OSError:
        return False


def _age(run: RunDir, stage: StageDir | None) -> float | None:
    files = [run.recipe_file, *((stage.metrics_file, stage.summary_file, stage.recipe_file) if stage else ())]
    times = [file.stat().st_mtime for file in files if file.is_file()]
    return max(0.0, time.time() - max(times)) if times else None


def held_out_losses(stage: StageDir) -> list[float]:
    """Return the caption losses of a stage's held-out samples, the newest last; none where none are measured."""
    measured = [row.get("held_out") for row in last_rows_with(stage.metrics_file, "held_out")]
    losses = [_number(one.get("caption_loss")) for one in measured if isinstance(one, Mapping)]
    return [loss for loss in losses if loss is not None]


def benchmark_scores(stage: StageDir) -> dict[str, list[float]]:
    """Return the scores of benchmarks that a stage answers on the way, the newest last; none where it answers none."""
    found: dict[str, list[float]] = {}
    for row in last_rows_with(stage.metrics_file, "benchmark"):
        answered = row["benchmark"]
        for name, figures in answered.items() if isinstance(answered, Mapping) else ():
            score = _number(figures.get("score")) if isinstance(figures, Mapping) else None
            if score is not None:
                found.setdefault(str(name), []).append(score)
    return found


def folder_bytes(folder: Path) -> int:
    """Return the bytes of all files in a folder; a link counts as itself, what vanishes meanwhile as nothing."""
    total = 0
    pending = [str(folder)]
    while pending:
        try:
            with os.scandir(pending.pop()) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        pending.append(entry.path)
                    else:
                        total += entry.stat(follow_symlinks=False).st_size
        except OSError:
            continue
    return total


def runs_table(runs: Sequence[RunState], *, width: int | None = None) -> str:
    """Return runs as a table; the columns that matter least are left out where it would be wider than a terminal.

    Args:
        runs: In order.
        width: Columns of the terminal; None shows all.
    """
    rows = [_cells(run) for run in runs]
    shown = [name for name in _COLUMNS if name != "best" or any(row["best"] for row in rows)]
    for least in (None, "best", "recipe", "tokens/s", "size", "changed", "held-out"):
        shown = [name for name in shown if name != least]
        text = format_table([shown, *([row[name] for name in shown] for row in rows)])
        if width is None or max(map(len, text.splitlines())) <= width:
            break
    return text


_COLUMNS = ("run", "recipe", "stage", "state", "loss", "held-out", "best", "tokens/s", "left", "changed", "size")


def _cells(run: RunState) -> dict[str, str]:
    steps = "" if run.step is None else f" {run.step:,}" + (f"/{run.total_steps:,}" if run.total_steps else "")
    return {
        "run": run.folder,
        "recipe": run.recipe,
        "stage": f"{run.stage or '–'}{steps}",
        "state": run.state + (f" {run.where}" if run.state == "running" else ""),
        "loss": _shown(run.loss, ".3f"),
        "held-out": _shown(run.held_out_loss, ".3f"),
        "best": best_words(run.best),
        "tokens/s": _shown(run.tokens_per_second, ",.0f"),
        "left": format_seconds(run.seconds_left) if run.seconds_left else "",
        "changed": "" if run.age_seconds is None else f"{age(run.age_seconds)} ago",
        "size": size(run.size_bytes),
    }


def age(seconds: float) -> str:
    """Return a time in its largest unit: `3 minutes`."""
    for length, unit in ((86_400, "day"), (3600, "hour"), (60, "minute")):
        if seconds >= length:
            return counted(int(seconds // length), unit)
    return counted(int(seconds), "second")


def size(number: int) -> str:
    """Return bytes in a readable unit: `1.2 GB`."""
    for unit, scale in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if number >= scale:
            return f"{number / scale:,.1f} {unit}"
    return f"{number} B"


def as_json(runs: Sequence[RunState]) -> list[dict[str, Any]]:
    """Return runs as plain values."""
    return [asdict(run) for run in runs]


def _shown(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, float | int) and not isinstance(value, bool) else None


def _whole(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None
