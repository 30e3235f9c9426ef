"""A run folder as the report reads it: stages with curves, recipe, health, scores; what is missing is left out."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from croc_cli.benchmarks.earlier import scenes_entry
from croc_cli.benchmarks.registry import SCENES
from croc_cli.errors import UsageError
from croc_cli.names import BENCHMARKS, HEALTH_KEYS, METADATA_FILE, STAGES
from croc_cli.recipe.yaml_file import read_yaml
from croc_cli.report.metrics_reader import Metrics, read_metrics
from croc_cli.report.terminal import finite_numbers, stage_seconds
from croc_cli.run_dir import EARLIER_BENCHMARKS, RunDir, StageDir, damage_of, read_json

FOLDERS = (*STAGES, EARLIER_BENCHMARKS, BENCHMARKS)
_OTHERS = {
    "trainer_state.json": "a run of the Hugging Face Trainer",
    "config.json": "a checkpoint",
    "index.html": "a report",
    "table.json": "the folder of an ablation",
}
"""What a folder without croc's stages may be, by a file in it."""


@dataclass
class StageData:
    """One stage of a run.

    Args:
        name: Its name.
        dir: Its folder.
        metrics: Curves; empty for an evaluation.
        summary: summary.json.
        recipe: Its resolved recipe as plain values; empty where it cannot be read.
        seconds: Time that it took, None where unknown.
        croc_version: What wrote its newest checkpoint or its scores; None where unknown.
    """

    name: str
    dir: StageDir
    metrics: Metrics
    summary: dict[str, Any]
    recipe: dict[str, Any]
    seconds: float | None
    croc_version: str | None

    @property
    def finished(self) -> bool:
        """Whether it reached its last step."""
        return self.dir.finished()

    @property
    def health(self) -> Mapping[str, Any]:
        """Health figures of the last step, as far as there are any."""
        found = self.summary.get("health")
        if isinstance(found, dict) and found:
            return found
        return {
            key: self.metrics.last[key] for key in HEALTH_KEYS if isinstance(self.metrics.last.get(key), float | int)
        }


@dataclass
class RunData:
    """One run.

    Args:
        label: What tells it from the others on a page.
        root: Its folder.
        stages: Name → stage, in order, those that exist.
        scenes: Accuracy by question type, baselines and so on of the benchmark `scenes`; empty where there is none.
        example: The picture and question that the evaluation kept.
        benchmarks: Entries of the paper's benchmarks, by name.
        notes: What is wrong with the folder, one line each.
    """

    label: str
    root: Path
    stages: dict[str, StageData] = field(default_factory=dict)
    scenes: dict[str, Any] = field(default_factory=dict)
    example: dict[str, Any] = field(default_factory=dict)
    benchmarks: dict[str, dict[str, Any]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def recipe(self) -> Mapping[str, Any]:
        """The recipe of the last training stage that has one."""
        found = [stage.recipe for name, stage in self.stages.items() if stage.recipe and name in STAGES]
        return found[-1] if found else {}

    @property
    def seconds(self) -> float:
        """Time of all stages whose time is known."""
        return sum(stage.seconds or 0.0 for stage in self.stages.values())

    @property
    def accuracy(self) -> Mapping[str, float]:
        """Share of right answers by question type of the `scenes` benchmark."""
        return finite_numbers(self.scenes.get("accuracy"))

    @property
    def mean_accuracy(self) -> float | None:
        """Mean over question types, None without an evaluation."""
        mean = self.scenes.get("mean_accuracy")
        if isinstance(mean, float | int):
            return float(mean)
        return sum(self.accuracy.values()) / len(self.accuracy) if self.accuracy else None


def read_run(root: Path, *, label: str | None = None) -> RunData:
    """Read a run folder.

    Raises:
        UsageError: It does not exist, or holds no stage of croc; says what it looks like instead.
    """
    if not root.is_dir():
        raise UsageError(f"{root} is not a folder", hint="a run folder is one such as runs/nano")
    folder = RunDir(root)
    run = RunData(label or root.resolve().name, root)
    for name in FOLDERS:
        stage_dir = folder.stage(name)
        if not _is_stage(stage_dir):
            continue
        stage = run.stages[name] = _read_stage(name, stage_dir)
        run.notes += [f"{name}: {note}" for note in (*_damage(stage_dir), *stage.metrics.notes())]
        if not stage.finished and name in STAGES:
            run.notes.append(f"{name} is not finished: {_how_far(stage)}")
    if not run.stages:
        raise UsageError(f"{root} holds no run of croc{_guess(root)}", hint=_hint(root))
    _read_scores(run, folder)
    return run


def find_runs(folder: Path, *, depth: int = 3) -> list[Path]:
    """Return the run folders at or below a folder, in the order of their names; a run holds no other run.

    Args:
        folder: Where to look.
        depth: Levels below it that are looked into.
    """
    if any(_is_stage(StageDir(folder / name)) for name in FOLDERS):
        return [folder]
    if depth == 0:
        return []
    try:
        inside = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    except OSError:
        return []
    return [run for path in inside for run in find_runs(path, depth=depth - 1)]


def _is_stage(stage_dir: StageDir) -> bool:
    return any(file.is_file() for file in (stage_dir.recipe_file, stage_dir.metrics_file, stage_dir.results_file))


def _read_stage(name: str, stage_dir: StageDir) -> StageData:
    results = read_json(stage_dir.results_file)
    version = results.get("croc_version") or _mapping(results.get("versions")).get("croc")
    latest = stage_dir.latest_checkpoint()
    if version is None and latest is not None:
        version = read_json(latest / METADATA_FILE).get("croc_version")
    metrics = read_metrics(stage_dir.metrics_file)
    seconds = stage_seconds(stage_dir)
    if not seconds and metrics.num_rows:
        average = metrics.curves.get("step_seconds")
        seconds = metrics.num_rows * sum(average.means) / len(average.means) if average else None
    return StageData(
        name=name,
        dir=stage_dir,
        metrics=metrics,
        summary=read_json(stage_dir.summary_file),
        recipe=read_recipe(stage_dir.recipe_file),
        seconds=seconds,
        croc_version=str(version) if version else None,
    )


def _damage(stage_dir: StageDir) -> list[str]:
    """Return which of a stage's files cannot be read, or not whole."""
    files = (
        stage_dir.launch_file,
        stage_dir.summary_file,
        stage_dir.results_file,
        stage_dir.events_file,
        stage_dir.metrics_file,
    )
    return [damage for file in files if (damage := damage_of(file)) is not None]


def read_recipe(file: Path) -> dict[str, Any]:
    """Return a resolved recipe as plain values; empty where it cannot be read."""
    return read_yaml(file, label=str(file)).values if file.is_file() else {}


def _read_scores(run: RunData, folder: RunDir) -> None:
    scenes = scenes_entry(folder)
    run.scenes = dict(_mapping(scenes.get("parts")))
    run.example = dict(_mapping(scenes.get("example")))
    entries = _mapping(read_json(folder.stage(BENCHMARKS).results_file).get("benchmarks"))
    run.benchmarks = {
        str(name): dict(entry) for name, entry in entries.items() if isinstance(entry, dict) and name != SCENES
    }


def _how_far(stage: StageData) -> str:
    total = stage.metrics.last.get("total_steps")
    if not stage.metrics.num_rows:
        return "no step is written down"
    return f"step {stage.metrics.max_step:,}" + (f" of {total:,}" if isinstance(total, int) else "")


def _guess(root: Path) -> str:
    found = next((what for file, what in _OTHERS.items() if (root / file).exists()), None)
    if found is None and any(root.glob("events.out.tfevents*")):
        found = "TensorBoard's events"
    return f"; it looks like {found}" if found else ""


def _hint(root: Path) -> str:
    if _is_stage(StageDir(root)):
        return f"this is one stage of a run; `croc report {root.parent}` shows the run"
    inside = sorted(path for path in root.iterdir() if path.is_dir() and any((path / name).is_dir() for name in STAGES))
    if inside:
        return f"it holds run folders: `croc report {' '.join(str(path) for path in inside[:3])}`"
    return "a run folder holds align/, reconstruct/, finetune/ or benchmarks/, as `croc run` makes them"


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
