"""Stages of ablations that have run, made without training anything."""

import json
from pathlib import Path

from croc_cli.ablation.rows import row_recipe
from croc_cli.ablation.stages import RowRun, StageStore, chain
from croc_cli.recipe.load import dump_recipe
from croc_cli.run_dir import RunDir, StageDir, write_json
from tests.report.runs import SCENES, row


def row_run(name: str, seed: int = 0) -> RowRun:
    recipe = row_recipe(name, base="nano", seed=seed)
    return RowRun(name, seed, recipe, chain(recipe))


def finish(stage: StageDir, run: RowRun, *, start: str | None, mean: float = 0.8, loss: float = 1.0) -> None:
    """Write a finished stage of a row; start: hash of the weights that it started from."""
    stage.root.mkdir(parents=True)
    stage.recipe_file.write_text(dump_recipe(run.recipe))
    if stage.name == "benchmarks":
        entry = {"value": 100 * mean, "parts": SCENES | {"mean_accuracy": mean}}
        write_json(stage.results_file, {"benchmarks": {"scenes": entry}, "model": {"model_sha256": start}})
        write_json(stage.launch_file, {"wall_seconds": 20.0})
        return
    lines = [json.dumps(row(step, 10, stage=stage.name) | {"caption_loss": loss}) for step in range(1, 11)]
    stage.metrics_file.write_text("\n".join(lines) + "\n")
    health = {"pool_window_share": 0.9} if stage.name == "reconstruct" else {}
    write_json(stage.summary_file, {"finished": True, "steps": 10, "losses": {}, "health": health})
    write_json(stage.launch_file, {"wall_seconds": 5.0})
    checkpoint = stage.checkpoint(10)
    checkpoint.mkdir(parents=True)
    (checkpoint / "config.json").write_text("{}")
    begun = {"path": "", "weights_sha256": start} if start else None
    write_json(checkpoint / "croc.json", {"weights_sha256": f"weights of {stage.root}", "start": begun})


def finish_row(store: StageStore, run: RowRun, *, mean: float = 0.8, loss: float = 1.0) -> None:
    """Finish every stage of a row that is still open."""
    before: str | None = None
    for link in run.links:
        if store.find(link) is None:
            finish(store.home(link).step(link.stage), run, start=before, mean=mean, loss=loss)
        before = f"weights of {store.home(link).step(link.stage).root}"


def finish_plain_run(folder: Path, run: RowRun) -> Path:
    """Write a run as `croc run` lays it out."""
    before: str | None = None
    for link in run.links:
        stage = RunDir(folder).step(link.stage)
        finish(stage, run, start=before)
        before = f"weights of {stage.root}"
    return folder
