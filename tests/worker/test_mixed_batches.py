"""Two real ranks that never see the same kind of sample at the same time (one launch for each ZeRO stage)."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from croc_cli.data.dataset import LlavaJsonDataset
from croc_cli.data.sampler import StepSampler
from croc_cli.recipe.load import dump_recipe
from tests.tiny import make_tiny_llava, make_tiny_parts
from tests.worker import harness

NUM_STEPS = 4
LAUNCH_SECONDS = 240
KEYS = {"CROC_JUDGE_API_KEY": "sk-key-of-judge", "HF_TOKEN": "hf_key-of-hub", "WANDB_API_KEY": "key-of-wandb"}


def seed_that_mixes_every_step(dataset: LlavaJsonDataset) -> int:
    """Return a seed with which one rank has an image and the other has text at every step."""
    for seed in range(1000):
        mixed = []
        for step in range(NUM_STEPS):
            kinds = []
            for rank in range(2):
                sampler = StepSampler(len(dataset), global_size=2, micro_size=1, rank=rank, num_ranks=2, seed=seed)
                [[index]] = sampler.micro_batches(step, dataset.length_hint)
                assert index is not None
                kinds.append(bool(dataset[index].images))
            mixed.append(kinds[0] != kinds[1])
        if all(mixed):
            return seed
    raise AssertionError("no seed mixes every step")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mixed")
    harness.make_data(folder)
    rows = json.loads((folder / "data.json").read_text())
    # as many images as texts, so that every pair can hold one of each
    (folder / "data.json").write_text(json.dumps(rows[:NUM_STEPS] + rows[-NUM_STEPS:]))
    make_tiny_parts(folder)
    make_tiny_llava(folder / "start")
    dataset = LlavaJsonDataset(str(folder / "data.json"), str(folder / "images"), num_samples=None, seed=0)
    recipe = harness.make_recipe(
        folder,
        reconstruct={
            "batch": {"global_size": 2, "micro_size": 1},
            "seed": seed_that_mixes_every_step(dataset),
            "learning_rate": {"vision_tower": 1e-3, "projector": 1e-3, "llm": 1e-3, "token_pool": 1e-3},
            "save_every": None,
        },
    )
    (folder / "recipe.yaml").write_text(dump_recipe(recipe))
    assert yaml.safe_load((folder / "recipe.yaml").read_text())["reconstruct"]["max_steps"] == NUM_STEPS
    return folder


def losses(home: Path, run_dir: Path, *, ranks: int, zero_stage: int) -> list[tuple[float, float]]:
    """Launch the reconstruct stage as a user would, and return (caption, reconstruction) of every step."""
    command = [sys.executable, "-m", "croc_cli", "reconstruct", str(home / "recipe.yaml")]
    command += ["--from", str(home / "start"), "--run-dir", str(run_dir), "--ranks", str(ranks)]
    command += ["--set", f"reconstruct.zero_stage={zero_stage}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LAUNCH_SECONDS, env=os.environ | KEYS)
    assert done.returncode == 0, done.stderr
    assert not [key for key in KEYS.values() if key in done.stdout + done.stderr]
    lines = (run_dir / "reconstruct" / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    return [(row["caption_loss"], row["reconstruction_loss"]) for row in rows]


@pytest.fixture(scope="module")
def one_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("one")


@pytest.fixture(scope="module")
def one_process(home: Path, one_folder: Path) -> list[tuple[float, float]]:
    return losses(home, one_folder, ranks=1, zero_stage=0)


@pytest.mark.parametrize("zero_stage", [2, 3])
def test_ranks_that_differ_at_every_step_finish_with_the_losses_of_one_process(
    home: Path, tmp_path: Path, one_process: list[tuple[float, float]], zero_stage: int
) -> None:
    found = losses(home, tmp_path, ranks=2, zero_stage=zero_stage)
    assert len(found) == NUM_STEPS
    for ours, expected in zip(found, one_process, strict=True):
        assert ours == pytest.approx(expected, abs=1e-4)


def test_keys_of_the_environment_are_in_no_file_that_a_run_or_its_report_writes(
    one_folder: Path, one_process: list[tuple[float, float]]
) -> None:
    command = [sys.executable, "-m", "croc_cli", "report", str(one_folder), "--no-model"]
    subprocess.run(command, capture_output=True, timeout=LAUNCH_SECONDS, env=os.environ | KEYS, check=True)
    files = [file for file in one_folder.rglob("*") if file.is_file()]
    assert {"recipe.yaml", "launch.json", "deepspeed.json", "metrics.jsonl", "croc.json", "index.html"} <= {
        file.name for file in files
    }
    assert any(file.suffix == ".log" for file in files)
    assert not [(file, key) for file in files for key in KEYS.values() if key.encode() in file.read_bytes()]
