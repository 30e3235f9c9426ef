"""What keeps runs from being compared as they are: each difference named in a line."""

from collections.abc import Mapping, Sequence
from typing import Any

from croc_cli.benchmarks.compare import warnings as benchmark_warnings
from croc_cli.launch.stage_state import stage_facts
from croc_cli.names import STAGES
from croc_cli.report.run_data import RunData
from croc_cli.run_dir import RunDir

_SHOWN = 6
Facts = dict[str, Any]


def differences(runs: Sequence[RunData]) -> list[str]:
    """Return one line for each thing in which runs differ and a comparison should not pass over."""
    if len(runs) < 2:
        return []
    found = []
    unfinished = [run.label for run in runs if any(not s.finished for n, s in run.stages.items() if n in STAGES)]
    if unfinished:
        found.append(f"not finished: {', '.join(unfinished)}; its last figures are not those of a whole run")
    found += _one("croc versions", {run.label: _versions(run) for run in runs})
    for stage in STAGES:
        having = {run.label: run for run in runs if stage in run.stages}
        if having and len(having) < len(runs):
            missing = [run.label for run in runs if stage not in run.stages]
            found.append(f"{stage} is missing in {', '.join(missing)}")
        steps = {label: f"{run.stages[stage].metrics.max_step:,}" for label, run in having.items()}
        found += _one(f"{stage} steps", {label: number for label, number in steps.items() if number != "0"})
        seen = {label: _samples(run, stage) for label, run in having.items()}
        found += _one(f"{stage} samples a step", {label: number for label, number in seen.items() if number})
        found += _one(f"{stage} seed", {label: str(_get(run, stage, "seed")) for label, run in having.items()})
    found += _evaluation(runs)
    return found


def recipe_differences(runs: Sequence[RunData]) -> list[list[str]]:
    """Return a table of the recipe keys that decide an outcome and differ between runs; empty where none does."""
    if len(runs) < 2:
        return []
    facts = [_facts(run) for run in runs]
    keys = sorted({key for one in facts for key in one})
    absent = "–"
    rows = [
        [key, *(str(one.get(key, absent)) for one in facts)]
        for key in keys
        if len({str(one.get(key, absent)) for one in facts}) > 1
    ]
    return [["key", *(run.label for run in runs)], *rows] if rows else []


def _facts(run: RunData) -> Facts:
    """Return what decides each stage's outcome, from the recipe that the stage was started with."""
    facts: Facts = {}
    for name, stage in run.stages.items():
        if name in STAGES and stage.recipe:
            facts |= stage_facts(stage.recipe, name)
    evaluation = run.stages.get(RunDir(run.root).evaluation().name)
    if run.scenes and evaluation is not None:
        facts |= stage_facts(evaluation.recipe, "eval")
    return facts


def _one(what: str, values: Mapping[str, str]) -> list[str]:
    """Return the line that says that a value is not the same in all runs, or none where it is."""
    if len(set(values.values())) < 2:
        return []
    shown = [f"{label} {value}" for label, value in list(values.items())[:_SHOWN]]
    more = f" and {len(values) - _SHOWN} more" if len(values) > _SHOWN else ""
    return [f"different {what}: {', '.join(shown)}{more}"]


def _versions(run: RunData) -> str:
    found = sorted({stage.croc_version for stage in run.stages.values() if stage.croc_version})
    return " and ".join(found) or "unknown"


def _samples(run: RunData, stage: str) -> str:
    size = _get(run, stage, "batch")
    return str(size.get("global_size", "")) if isinstance(size, Mapping) else ""


def _get(run: RunData, stage: str, key: str) -> Any:
    section = run.stages[stage].recipe.get(stage)
    return section.get(key) if isinstance(section, Mapping) else None


def _evaluation(runs: Sequence[RunData]) -> list[str]:
    found = []
    scored = [run for run in runs if run.scenes]
    if scored and len(scored) < len(runs):
        missing = [run.label for run in runs if not run.scenes]
        found.append(f"no evaluation in {', '.join(missing)}")
    found += _one("numbers of evaluation questions", {r.label: str(r.scenes.get("num_questions")) for r in scored})
    entries = {run.label: run.benchmarks for run in runs if run.benchmarks}
    if len(entries) > 1:
        try:
            found += benchmark_warnings(entries)
        except (AttributeError, TypeError):
            found.append("the benchmark scores of a run are not in the form that this version writes")
    return found
