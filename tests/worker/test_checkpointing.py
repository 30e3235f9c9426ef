"""Layers that are computed again really are, and come to the same gradients."""

from pathlib import Path

import torch

from croc_cli.worker.build import StageParts, build_stage
from tests.worker import harness


def build(home: Path, *, checkpointing: bool) -> StageParts:
    recipe = harness.make_recipe(home, finetune={"gradient_checkpointing": checkpointing})
    start = home / "start"
    return build_stage(recipe, "finetune", start=start, weights=start, rank=0, num_ranks=1, chat_template=None)


def calls_and_gradient(parts: StageParts) -> tuple[int, torch.Tensor]:
    """Return how often the first layer's MLP runs in a step, and a gradient of it."""
    calls = 0

    def count(*_: object) -> None:
        nonlocal calls
        calls += 1

    mlp = parts.module.model.llava.model.language_model.layers[0].mlp
    mlp.register_forward_pre_hook(count)  # computing again stops before the end: what is kept is all there
    one = torch.tensor(1.0)
    loss, _ = parts.module(parts.loader[0][0], token_weight=one, image_weight=one)
    loss.backward()
    return calls, mlp.gate_proj.weight.grad.clone()


def test_a_layer_runs_twice_where_it_is_computed_again_and_once_elsewhere(home: Path) -> None:
    kept, again = (calls_and_gradient(build(home, checkpointing=checkpointing)) for checkpointing in (False, True))
    assert (kept[0], again[0]) == (1, 2)
    assert torch.allclose(kept[1], again[1], atol=1e-6)


def test_the_llm_is_in_training_mode_and_the_frozen_tower_is_not(home: Path) -> None:
    llava = build(home, checkpointing=True).module.model.llava
    assert llava.model.language_model.training
    assert llava.model.multi_modal_projector.training
    assert not llava.model.vision_tower.training
