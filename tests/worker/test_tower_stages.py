"""All stages as ViCToR has them, at tiny size: SigLIP trained too, two ranks under ZeRO-3, killed and resumed."""

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoTokenizer,
    Qwen2Config,
    Qwen2ForCausalLM,
    SiglipImageProcessorPil,
    SiglipVisionConfig,
    SiglipVisionModel,
)

from croc_cli.checkpoint.convert import ConvertRequest, convert
from croc_cli.checkpoint.load import load_for_inference
from croc_cli.names import STAGES, StageName
from croc_cli.recipe.load import load_recipe
from croc_cli.recipe.schema import Recipe
from croc_cli.run_dir import StageDir
from tests.worker import harness
from tests.worker.faults import Fault
from tests.worker.ranks import run_ranks
from tests.worker.test_tower import tower_of

TOKENIZER = Path(__file__).parents[1] / "data" / "golden" / "victor"
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


def make_qwen(folder: Path) -> Path:
    """Write a Qwen2 with a byte-level tokenizer that has Qwen's control tokens."""
    tokenizer = AutoTokenizer.from_pretrained(TOKENIZER)
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = Qwen2Config(
        **sizes,
        num_key_value_heads=2,
        vocab_size=len(tokenizer) + 8,
        max_position_embeddings=512,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
    )
    Qwen2ForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def tiny(name: str, home: Path) -> Recipe:
    """Return a recipe of ViCToR for a tiny model, with larger rates: it has 20 steps to move."""
    source = {"kind": "llava_json", "path": str(home / "data.json"), "image_folder": str(home / "images")}
    changes: dict[str, Any] = {
        "model.vision_tower": str(make_siglip(home / "siglip")),
        "model.llm": str(make_qwen(home / "qwen")),
        "data.num_workers": 0,
        "launch.device": "cpu",
        "launch.num_ranks": 2,
        "reconstruct.pool.size": 24,
        "reconstruct.learning_rate.token_pool": 1e-2,
        "reconstruct.learning_rate.head": 1e-3,
    }
    for stage in STAGES:
        batch = {"global_size": 4, "micro_size": 1}
        steps = {"max_steps": NUM_STEPS, "save_every": 5, "max_length": 256, "zero_stage": 3}
        changes |= {f"data.{stage}": source, f"{stage}.batch": batch}
        changes |= {f"{stage}.{key}": value for key, value in steps.items()}
        changes[f"{stage}.learning_rate.projector"] = 1e-3
    for stage in ("reconstruct", "finetune"):
        changes |= {f"{stage}.learning_rate.vision_tower": 2e-4, f"{stage}.learning_rate.llm": 1e-3}
    overrides = {key: (value, "a test") for key, value in changes.items()}
    return load_recipe(name, overrides=overrides, environ={}).recipe


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
@pytest.mark.parametrize("name", ["victor-code-7b", "victor-7b"])
def test_the_tower_trains_through_the_stages_killed_and_resumed(name: str, home: Path, tmp_path: Path) -> None:
    recipe = tiny(name, home)
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
        rows = harness.metrics(stage_dir)
        assert sum(row["loss"] for row in rows[-5:]) < sum(row["loss"] for row in rows[:5])
        assert all(row["gradient_norms"]["vision_tower"] > 0 for row in rows)
    last = finetune.latest_checkpoint()
    assert last is not None
    opened = load_for_inference(last, dtype=torch.bfloat16, device="cpu")
    served = opened.llava.model.vision_tower.state_dict()
    trained = {name: weight.to(torch.bfloat16) for name, weight in towers[-1].items()}
    assert all(torch.equal(served[name], trained[name]) for name in served)

    # and in the layout of ViCToR's code, which leaves out what no visual token depends on, and back
    convert(ConvertRequest(str(last), tmp_path / "victor", to="llava"), say=print)
    assert json.loads((tmp_path / "victor" / "config.json").read_text())["unfreeze_mm_vision_tower"] is True
    convert(ConvertRequest(str(tmp_path / "victor"), tmp_path / "stock", allow_loss=True), say=print)
    again = tower_of(tmp_path / "stock")
    used = {name for name in trained if not name.startswith(BEHIND)}
    assert used <= again.keys()
    assert all(torch.equal(again[name].to(torch.bfloat16), trained[name]) for name in used)
