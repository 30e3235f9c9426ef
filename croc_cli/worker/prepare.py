"""What is done in one process before the ranks of a stage start: see `croc_cli.launch.prepare`."""

import time
from pathlib import Path

from croc_cli.launch.job import TASK_FILE
from croc_cli.names import stage_name
from croc_cli.recipe.load import load_resolved
from croc_cli.run_dir import StageDir, read_json, write_json
from croc_cli.train.metrics import JsonLines
from croc_cli.worker.ops import prepare_ops
from croc_cli.worker.start import ensure_assembled


def run_preparation(stage_dir: StageDir) -> None:
    """Do what the folder's task.json names: operators to compile, and where the model is to be assembled."""
    recipe = load_resolved(stage_dir.recipe_file)
    task = read_json(stage_dir.root / TASK_FILE)
    events = JsonLines(stage_dir.events_file)
    prepare_ops(task["ops"])
    if task["init"] is not None:
        ensure_assembled(
            recipe,
            stage_name(task["stage"]),
            Path(task["init"]),
            say=lambda text: events.write(time=time.time(), level="info", message=text),
        )
    write_json(stage_dir.summary_file, {"finished": True, "stage": "prepare"})
