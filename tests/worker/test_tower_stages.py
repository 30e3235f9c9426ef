"""All stages as ViCToR has them, at tiny size: SigLIP trained too, two ranks under ZeRO-3, killed and resumed."""

import itertools
from pathlib import Path

import pytest
import torch
from transformers import SiglipImageProcessorPil, SiglipVisionConfig, SiglipVisionModel

from croc_cli.checkpoint.load import load_for_inference
from croc_cli.names import StageName
from croc_cli.recipe.schema import Recipe
from croc_cli.run_dir import StageDir
from tests.worker import harness
from tests.worker.faults import Fault
from tests.worker.ranks import run_ranks
from tests.worker.test_tower import tower_of

NUM_STEPS = 20
KILLED_BEFORE = 12
BEHIND = ("encoder.layers.2.", "post_layernorm.", "head.")


def make_siglip(folder: Path) -> Path:
    """Write a SigLIP tower of three layers and 4 × 4 patches, with its pooling head."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 2}
    SiglipVisionModel(SiglipVisionConfig(**sizes, image_size=56, patch_size=14)).save_pretrained(folder)
    SiglipImageProcessorPil(
        size={"height": 56, "width": 56}, image_mean=[0.5] * 3, image_std=[0.5] * 3
    ).save_pretrained(folder)
    return folder


def victor_like(home: Path) -> Recipe:
    """Return ViCToR's choices for a tiny model, with larger rates: it has 20 steps to move."""
    rates = {"vision_tower": 2e-4, "projector": 1e-3, "llm": 1e-3}
    optimizer = {"betas": (0.9, 0.999), "schedule": "linear", "warmup_ratio": 0.0, "weight_decay": 0.1}
    stage = {"max_steps": NUM_STEPS, "save_every": 5, "zero_stage": 3, "precision": "bf16", "optimizer": optimizer}
    stage["gradient_checkpointing"] = True
    measured = {"target": "l2", "loss": "smooth_l1", "scope": "all", "head": "linear"}
    return harness.make_recipe(
        home,
        model={"vision_tower": str(make_siglip(home / "siglip")), "visual_norm": "l2"},
        align=stage,
        reconstruct={
            **stage,
            "learning_rate": rates | {"token_pool": 1e-2, "head": 1e-3},
            "pool": {"size": 24, "initialisation": "normal"},
            "attention": "causal",
            "reconstruction": measured,
        },
        finetune={**stage, "learning_rate": rates},
    )


def run_stage(recipe: Recipe, stage: StageName, root: Path, *, start: Path | None, killed: bool) -> StageDir:
    """Run a stage on two ranks; killed: let one of them die in the middle first."""
    if killed:
        fault = Fault(at_step=((1, KILLED_BEFORE, "exit"),))
        _, ended = run_ranks(recipe, stage, root, start=start, num_ranks=2, fault=fault)
        assert 7 in ended.codes, ended.logs
    stage_dir, ended = run_ranks(recipe, stage, root, start=start, num_ranks=2)
    assert ended.codes == [0, 0], ended.logs
    if killed:
        assert "resuming at step 11 of 20" in harness.events(stage_dir)
    assert [row["step"] for row in harness.metrics(stage_dir)] == list(range(1, NUM_STEPS + 1))
    return stage_dir


@pytest.mark.slow
def test_the_tower_trains_through_the_stages_killed_and_resumed(home: Path, tmp_path: Path) -> None:
    recipe = victor_like(home)
    align = run_stage(recipe, "align", tmp_path, start=None, killed=False).latest_checkpoint()
    reconstruct = run_stage(recipe, "reconstruct", tmp_path, start=align, killed=True)
    finetune = run_stage(recipe, "finetune", tmp_path, start=reconstruct.latest_checkpoint(), killed=True)

    towers = [tower_of(folder) for folder in (align, reconstruct.latest_checkpoint(), finetune.latest_checkpoint())]
    for before, after in itertools.pairwise(towers):
        still = {name for name in before if torch.equal(before[name], after[name])}
        assert {name for name in before if name.startswith(BEHIND)} <= still
        # what a norm's weights, which are about 1, move in so few steps is lost in bf16
        matrices = {name for name, weight in before.items() if weight.dim() > 1 and not name.startswith(BEHIND)}
        assert not matrices & still
    for stage_dir in (reconstruct, finetune):
        losses = [row["loss"] for row in harness.metrics(stage_dir)]
        assert sum(losses[-5:]) < sum(losses[:5])
        assert {"vision_tower", "projector", "llm"} <= harness.metrics(stage_dir)[-1]["learning_rate"].keys()
    last = finetune.latest_checkpoint()
    assert last is not None
    opened = load_for_inference(last, dtype=torch.bfloat16, device="cpu")
    served = opened.llava.model.vision_tower.state_dict()
    assert all(torch.equal(served[name], towers[-1][name].to(torch.bfloat16)) for name in served)
