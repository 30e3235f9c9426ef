"""Starts the worker that computes figures with a model; `croc report` itself stays light."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from croc_cli.console import say
from croc_cli.errors import CrocError, UsageError
from croc_cli.launch.devices import Machine, inspect_machine
from croc_cli.launch.job import run_job
from croc_cli.launch.layout import Layout
from croc_cli.launch.plan import LaunchPlan, launch_environment, worker_arguments, worker_command
from croc_cli.launch.requirements import fits_cpu
from croc_cli.launch.weights import weights_sha256
from croc_cli.names import DEFAULT_RECIPE
from croc_cli.place import claim_folder
from croc_cli.recipe.load import dump_recipe, load_recipe, load_resolved
from croc_cli.recipe.parameters import parameter_counts
from croc_cli.recipe.schema import Recipe
from croc_cli.report.model_figures import FOLDER
from croc_cli.report.page import PAGE_FILE
from croc_cli.run_dir import RunDir, StageDir, read_json

FIGURES = "figures"
ATTENTION = "attention"


def compute_model_figures(run_dir: RunDir) -> None:
    """Have the figures of a run's stage 1.5 computed, unless they are there for its last checkpoint, or cannot be.

    What stands in the way is said and is no error: the page does without.
    """
    stage = run_dir.stage("reconstruct")
    checkpoint = stage.latest_checkpoint()
    if checkpoint is None or not stage.finished() or not (checkpoint / "config.json").is_file():
        return
    folder = StageDir(run_dir.root / FOLDER)
    made_of = read_json(folder.root / "figures.json").get("checkpoint_sha256")
    weights = weights_sha256(checkpoint)
    if weights is None or made_of == weights:
        return
    try:
        recipe = load_resolved(stage.recipe_file)
        layout = _layout(recipe)
        say(f"figures: pictures through stage 1.5, with {checkpoint}")
        _start(FIGURES, folder, recipe, layout, start=checkpoint)
    except (CrocError, OSError) as error:
        say(f"no pictures of stage 1.5: {error.message if isinstance(error, CrocError) else error}")


def compute_attention(
    models: Sequence[str], images: Sequence[Path], *, question: str, num_tokens: int, out: Path, device: str
) -> None:
    """Have the attention of models' answers computed into `out`.

    Raises:
        UsageError: A picture is missing, or what the worker found wrong with a model.
    """
    if missing := [image for image in images if not image.is_file()]:
        raise UsageError(f"{missing[0]} is not a file", hint="name pictures, such as photos/*.jpg")
    if device not in ("auto", "cpu", "cuda"):
        raise UsageError(f"--device {device}: unknown device", hint="one of auto, cpu, cuda")
    recipe = load_recipe(DEFAULT_RECIPE, environ={}).recipe
    folder = StageDir(out)
    task: dict[str, Any] = {
        "models": list(models),
        "images": [str(image) for image in images],
        "question": question,
        "num_tokens": num_tokens,
        "device": device,
    }
    try:
        _claim(folder)
    except OSError as error:
        raise UsageError(f"{out} cannot be written to: {error.strerror}", hint="--out DIR names another") from error
    machine = inspect_machine()
    layout = _one_process(machine, on_gpu=bool(machine.cuda) and device != "cpu")
    _start(ATTENTION, folder, recipe, layout, start=None, task=task)


def _layout(recipe: Recipe) -> Layout:
    """Return where one process of the recipe's model runs.

    Raises:
        UsageError: The model is too large for the CPU, and there is no GPU.
    """
    machine = inspect_machine()
    on_gpu = bool(machine.cuda) and recipe.launch.device != "cpu"
    if not on_gpu and not fits_cpu(parameter_counts(recipe, "reconstruct")):
        raise UsageError("the model needs a GPU, and this machine has none")
    return _one_process(machine, on_gpu=on_gpu)


def _one_process(machine: Machine, *, on_gpu: bool) -> Layout:
    ids = tuple(device.id for device in machine.cuda[:1]) if on_gpu else ()
    return Layout("cuda" if on_gpu else "cpu", (1,), ids, machine.num_cores)


def _claim(folder: StageDir) -> None:
    """Make a folder one of figures, or raise UsageError where a user's files lie in the places of the worker's."""
    files = (folder.recipe_file, folder.launch_file, folder.events_file, folder.summary_file, folder.stop_file)
    folders = (folder.logs, folder.failures, folder.ranks)
    others = ("task.json", "figures.json", "attention.json", PAGE_FILE)
    is_proven = "command" in read_json(folder.launch_file)
    claim_folder(folder.root, "figures", [*(path.name for path in (*files, *folders)), *others], is_proven=is_proven)


def _start(
    stage: str,
    folder: StageDir,
    recipe: Recipe,
    layout: Layout,
    *,
    start: Path | None,
    task: dict[str, Any] | None = None,
) -> None:
    """Run the worker to its end."""
    _claim(folder)
    command = worker_command(worker_arguments(folder, stage, start))
    plan = LaunchPlan(stage, folder, start, layout, command, launch_environment(layout, master_port=None))
    run_job(plan, recipe_yaml=dump_recipe(recipe), task=task)
