"""Small real runs of the worker, in this process: a tiny LLaVA, a few noise pictures, fp32 on one rank."""

import json
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file

from croc_cli.launch.deepspeed_config import deepspeed_config
from croc_cli.names import StageName
from croc_cli.recipe.load import dump_recipe
from croc_cli.recipe.schema import Recipe
from croc_cli.run_dir import StageDir

NUM_IMAGES = 12


def make_data(folder: Path, *, num_text: int = 4) -> None:
    """Write noise pictures and a LLaVA JSON of image and text-only conversations."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    for index in range(NUM_IMAGES):
        pixels = np.random.default_rng(index).integers(0, 255, (40, 60, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "images" / f"{index}.png")
        turns = [("human", "<image>\nWhat is this?"), ("gpt", f"noise number {index}")]
        rows.append(row(f"image-{index}", turns, image=f"{index}.png"))
    for index in range(num_text):
        rows.append(row(f"text-{index}", [("human", "Say a number."), ("gpt", str(index))]))
    (folder / "data.json").write_text(json.dumps(rows))


def row(name: str, turns: list[tuple[str, str]], **more: Any) -> dict[str, Any]:
    return {"id": name, "conversations": [{"from": who, "value": text} for who, text in turns]} | more


def make_recipe(folder: Path, **changes: dict[str, Any]) -> Recipe:
    """Return a recipe over `folder`'s data; changes: section name → keys of it."""
    source = {"kind": "llava_json", "path": str(folder / "data.json"), "image_folder": str(folder / "images")}
    stage: dict[str, Any] = {
        "batch": {"global_size": 4, "micro_size": 2},
        "learning_rate": {"projector": 1e-3, "llm": 1e-3},
        "template": "vicuna_v1",
        "precision": "fp32",
        "zero_stage": 0,
        "gradient_checkpointing": False,
        "max_length": 256,
        "max_steps": 4,
    }
    values: dict[str, Any] = {
        "name": "tiny",
        "model": {"vision_tower": str(folder / "tower"), "llm": str(folder / "llm")},
        "data": {"align": source, "reconstruct": source, "finetune": source, "num_workers": 0},
        "align": stage | {"learning_rate": {"projector": 1e-3}},
        "reconstruct": stage
        | {"learning_rate": {"projector": 1e-3, "llm": 1e-3, "token_pool": 1e-3}, "pool": {"size": 24}},
        "finetune": dict(stage),
        "launch": {"device": "cpu", "num_ranks": 1},
    }
    for section, keys in changes.items():
        values[section] = values[section] | keys
    return Recipe.model_validate(values)


def prepare(recipe: Recipe, stage: StageName, root: Path) -> StageDir:
    """Write what the launch writes before it starts the ranks."""
    stage_dir = StageDir(root / stage)
    stage_dir.root.mkdir(parents=True, exist_ok=True)
    stage_dir.recipe_file.write_text(dump_recipe(recipe))
    config = deepspeed_config(recipe, stage, num_ranks=1, stage_folder=str(stage_dir.root), on_gpu=False)
    stage_dir.deepspeed_file.write_text(json.dumps(config))
    return stage_dir


@contextmanager
def one_rank() -> Iterator[None]:
    """Let the worker run in this process, and leave its signal handlers and environment as they were."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)}
    environment = dict(os.environ)
    os.environ["DS_ACCELERATOR"] = "cpu"
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        os.environ.clear()
        os.environ.update(environment)
        for number, handler in handlers.items():
            signal.signal(number, handler)


def train(recipe: Recipe, stage: StageName, root: Path, *, start: Path | None) -> StageDir:
    """Run a stage to its end in this process."""
    from croc_cli.worker.training import run_training

    stage_dir = prepare(recipe, stage, root)
    with one_rank():
        run_training(stage_dir, stage, start=start)
    return stage_dir


def metrics(stage_dir: StageDir) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stage_dir.metrics_file.read_text().splitlines()]


def events(stage_dir: StageDir) -> str:
    return stage_dir.events_file.read_text() if stage_dir.events_file.exists() else ""


def weights(stage_dir: StageDir) -> dict[str, torch.Tensor]:
    """Return everything that the newest checkpoint holds: model, pool, head."""
    checkpoint = stage_dir.latest_checkpoint()
    assert checkpoint is not None
    return {name: tensor for file in checkpoint.glob("*.safetensors") for name, tensor in load_file(file).items()}
