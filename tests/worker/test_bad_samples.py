"""Samples that are odd or broken, on two ranks: the step's means are right, nothing hangs, and every one is counted."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from croc_cli.recipe.schema import Recipe
from tests.tiny import make_tiny_llava, make_tiny_parts
from tests.worker import harness
from tests.worker.harness import row
from tests.worker.ranks import run_ranks

GLOBAL_SIZE = 4
NUM_STEPS = 4


def odd_rows() -> list[dict[str, Any]]:
    """Return sixteen rows: eight odd ones, and text in plenty, so that a global batch can be without any image."""
    picture = "<image>\nWhat is this?"
    rows = [
        row("truncated-image", [("human", picture), ("gpt", "noise")], image="truncated.png"),
        row("missing-image", [("human", picture), ("gpt", "noise")], image="nowhere.png"),
        row("one-token", [("human", "Hi"), ("gpt", "a")]),
        row("long-answer", [("human", "Count."), ("gpt", "one two " * 50_000)]),
        row("all-ignored", [("human", "word " * 100_000), ("gpt", "yes")]),
        row("twelve-images", [("human", "<image>" * 12), ("gpt", "a")], image=[f"{i}.png" for i in range(12)]),
        row("image-cut-off", [("human", f"{'word ' * 500} <image>"), ("gpt", "never seen")], image="1.png"),
        row("image", [("human", picture), ("gpt", "noise number 2")], image="2.png"),
    ]
    return rows + [row(f"text-{i}", [("human", "Say a number."), ("gpt", str(i) * (i + 1))]) for i in range(8)]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bad_samples")
    harness.make_data(folder)
    (folder / "data.json").write_text(json.dumps(odd_rows()))
    picture = (folder / "images" / "0.png").read_bytes()
    (folder / "images" / "truncated.png").write_bytes(picture[: len(picture) // 2])
    make_tiny_parts(folder)
    make_tiny_llava(folder / "start")
    return folder


def seed_with_a_batch_of_text(num_samples: int) -> int:
    """Return a seed with which one global batch holds text alone."""
    from croc_cli.data.sampler import StepSampler

    for seed in range(1000):
        sampler = StepSampler(num_samples, global_size=GLOBAL_SIZE, micro_size=2, rank=0, num_ranks=1, seed=seed)
        if any(all(index >= 8 for index in sampler.global_batch(step)) for step in range(NUM_STEPS)):
            return seed
    raise AssertionError("no seed gives such a batch")


def means_sample_by_sample(recipe: Recipe, start: Path) -> list[tuple[float, float | None, int]]:
    """Return (caption loss, reconstruction loss, trained tokens) of every step, from passes of one sample each."""
    from croc_cli.worker.build import build_stage
    from croc_cli.worker.training import prepare_pool_and_head

    parts = build_stage(recipe, "reconstruct", start=start, weights=start, rank=0, num_ranks=1, chat_template=None)
    prepare_pool_and_head(parts, recipe, "reconstruct", stopped_at=None, device="cpu")
    one = torch.tensor(1.0)
    means = []
    for step in range(NUM_STEPS):
        caption = reconstruction = tokens = images = 0.0
        for index in parts.loader.sampler.global_batch(step):
            batch = parts.loader.collator([parts.loader.dataset[index]], step=step)
            with torch.no_grad():
                _, sums = parts.module(batch, token_weight=one, image_weight=one)
            caption += float(sums.caption_sum)
            reconstruction += float(sums.reconstruction_sum)
            tokens += batch.num_trained_tokens
            images += int(batch.image_is_real.sum())
        means.append((caption / max(tokens, 1), reconstruction / max(images, 1), int(tokens)))
    return means


@pytest.mark.parametrize("zero_stage", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_odd_and_broken_samples_leave_the_means_right_and_are_counted(
    home: Path, tmp_path: Path, zero_stage: int
) -> None:
    rates = {"projector": 1e-12, "llm": 1e-12, "token_pool": 1e-12}  # so small that weights stay as they are
    changes = {
        "batch": {"global_size": GLOBAL_SIZE, "micro_size": 2},
        "learning_rate": rates,
        "seed": seed_with_a_batch_of_text(len(odd_rows())),
        "max_steps": NUM_STEPS,
        "zero_stage": zero_stage,
        "max_length": 480,  # twelve images and their prompt fit
    }
    recipe = harness.make_recipe(home, reconstruct=changes)
    stage_dir, ended = run_ranks(recipe, "reconstruct", tmp_path, start=home / "start", num_ranks=2)
    assert ended.codes == [0, 0], ended.logs
    rows = harness.metrics(stage_dir)
    for found, (caption, reconstruction, tokens) in zip(
        rows, means_sample_by_sample(recipe, home / "start"), strict=True
    ):
        assert found["caption_loss"] == pytest.approx(caption, abs=1e-4)
        assert found["reconstruction_loss"] == pytest.approx(reconstruction, abs=1e-4)
        assert found["samples"] == GLOBAL_SIZE
        assert tokens > 0
        assert not found["skipped"]
    assert any(row["reconstruction_loss"] == 0 for row in rows)  # the batch without any image
    last = rows[-1]
    assert last["bad_images"] == 2
    assert last["truncated_samples"] == 3
    assert last["dropped_samples"] == 2
    counts = json.loads(stage_dir.summary_file.read_text())["counts"]
    assert counts == {"truncated_samples": 3, "dropped_samples": 2, "bad_images": 2, "skipped_steps": 0}
    for name in ("truncated.png of sample truncated-image#0", "nowhere.png of sample missing-image#1"):
        assert f"{name} does not open" in harness.events(stage_dir)
