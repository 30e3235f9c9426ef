"""Run folders for the report's tests, made without training anything."""

import json
import math
from pathlib import Path
from typing import Any

from croc_cli.recipe.load import dump_recipe
from croc_cli.run_dir import RunDir, write_json
from tests.launch.make import recipe

SCENES = {
    "mean_accuracy": 0.8,
    "accuracy": {"existence": 0.9, "colour": 0.7},
    "baselines": {
        "swapped_picture": {"existence": 0.5, "colour": 0.1},
        "no_picture": {"existence": 0.5, "colour": 0.1},
    },
    "best_blind": {"existence": 0.5, "colour": 0.3},
    "caption_recall": 0.78,
    "num_questions": 1000,
}


def row(step: int, total: int, *, stage: str = "align") -> dict[str, Any]:
    """Return a line of metrics.jsonl as the worker writes them."""
    pool = stage == "reconstruct"
    return {
        "step": step,
        "total_steps": total,
        "loss": 2.0 / step,
        "caption_loss": 2.0 / step,
        "reconstruction_loss": 1.0 / step if pool else None,
        "assignment_cost": 1.5 if pool else None,
        **({"pool_used_share": 1.0, "pool_window_share": 0.9, "pool_entropy": 0.95} if pool else {}),
        **({"explained_share": 0.3, "assignment_wait_share": 0.01, "assignment_solver_share": 0.2} if pool else {}),
        "learning_rate": {"projector": 1e-3 * math.sin(step / total), **({"llm": 1e-4} if stage != "align" else {})},
        "gradient_norm": 1.0 + 1 / step,
        "gradient_norms": {"projector": 0.5, **({"llm": 0.9 + 1 / step} if stage != "align" else {})},
        "tokens_per_second": 3000.0,
        "step_seconds": 0.5,
        "skipped": False,
        "gradient_shares": {"caption": 1.0, "reconstruction": 2.0} if pool and step % 10 == 1 else None,
    }


def make_run(
    folder: Path,
    *,
    steps: int = 20,
    stages: tuple[str, ...] = ("align", "reconstruct", "finetune"),
    scenes: dict[str, Any] | None = SCENES,
    **changes: Any,
) -> Path:
    """Write a finished run of `nano` into `folder` and return it; changes: keys of the recipe, `__` for a dot."""
    run = RunDir(folder)
    text = dump_recipe(recipe(**changes))
    for name in stages:
        stage = run.stage(name)
        stage.root.mkdir(parents=True)
        stage.recipe_file.write_text(text)
        with stage.metrics_file.open("w") as file:
            file.writelines(json.dumps(row(step, steps, stage=name)) + "\n" for step in range(1, steps + 1))
        stage.samples_file(0).parent.mkdir()
        losses_of_samples = {"ids": ["scene-1"], "tokens": [3], "losses": [1.5]}
        stage.samples_file(0).write_text(json.dumps({"step": steps} | losses_of_samples) + "\n")
        health = {"pool_used_share": 1.0, "pool_window_share": 0.9, "explained_share": 0.3} if name[0] == "r" else {}
        losses = {"caption_loss": 2.0 / steps, "reconstruction_loss": 1.0 / steps if health else None}
        write_json(stage.summary_file, {"finished": True, "steps": steps, "losses": losses, "health": health})
        write_json(stage.launch_file, {"wall_seconds": 60.0})
    if scenes is not None:
        stage = run.stage("benchmarks")
        stage.root.mkdir()
        stage.recipe_file.write_text(text)
        write_json(stage.summary_file, {"finished": True})
        write_json(stage.launch_file, {"wall_seconds": 9.0})
        entry = {"value": 80.0, "num_questions": 3060, "parts": scenes}
        write_json(stage.results_file, {"versions": {"croc": "1.0"}, "benchmarks": {"scenes": entry}})
    return folder
