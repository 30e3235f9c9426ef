"""Reads the scores of drawn scenes, also from run folders of earlier versions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from croc_cli.benchmarks.registry import SCENES
from croc_cli.names import BENCHMARKS
from croc_cli.run_dir import EARLIER_BENCHMARKS, RunDir, read_json

OTHER_MODELS = "other_models"
"""Key of results.json under which the scores of other models stay, the last first."""


def scenes_entry(run: RunDir) -> dict[str, Any]:
    """Return the entry of the benchmark `scenes` in a run's results.json; empty where there is none.

    Where another checkpoint was scored since, on other benchmarks, it is the entry of the last one that has it.
    """
    results = read_json(run.stage(BENCHMARKS).results_file)
    others = results.get(OTHER_MODELS)
    models = [results, *(others if isinstance(others, list) else [])]
    entry = next((entry for one in models if isinstance(one, dict) and (entry := _entry(one))), {})
    return entry or earlier_entry(read_json(run.stage(EARLIER_BENCHMARKS).results_file))


def earlier_entry(results: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a results.json of an earlier version says of scenes, in the form of this one; else nothing.

    Earlier versions kept the scores themselves where `parts` stands now, in a folder `eval`.
    """
    parts = _entry(results)
    if not parts:
        return {}
    mean, number = parts.get("mean_accuracy"), parts.get("num_questions")
    return {
        "metric": "mean accuracy",
        "variant": "primary",
        "value": 100 * mean if isinstance(mean, int | float) else None,
        "num_questions": number,
        "num_answered": number,
        "parts": parts,
        "example": results.get("example"),
    }


def _entry(results: Mapping[str, Any]) -> dict[str, Any]:
    benchmarks = results.get("benchmarks")
    entry = benchmarks.get(SCENES) if isinstance(benchmarks, dict) else None
    return dict(entry) if isinstance(entry, dict) else {}
