"""Layers that are computed again really are, and come to the same gradients."""

from pathlib import Path

import torch

from croc_cli.worker.build import StageParts, build_stage
from tests.worker import harness


def build(home: Path, *, checkpointing: str) -> StageParts:
    recipe = harness.make_recipe(home, finetune={"gradient_checkpointing": checkpointing})
    start = home / "start"
    return build_stage(recipe, "finetune", start=start, weights=start, rank=0, num_ranks=1, chat_template=None)


def calls_and_gradient(parts: StageParts) -> tuple[list[int], torch.Tensor]:
    """Return how often each layer's MLP runs in a step, and a gradient of the first."""
    layers = parts.module.model.llava.model.language_model.layers
    calls = [0] * len(layers)

    def count(number: int) -> None:
        calls[number] += 1

    for number, layer in enumerate(layers):  # computing again stops before the end: what is kept is all there
        layer.mlp.register_forward_pre_hook(lambda *_, number=number: count(number))
    mlp = layers[0].mlp
    one = torch.tensor(1.0)
    loss, _ = parts.module(parts.loader[0][0], token_weight=one, image_weight=one)
    loss.backward()
    return calls, mlp.gate_proj.weight.grad.clone()


def test_a_layer_runs_twice_where_it_is_computed_again_and_once_elsewhere(home: Path) -> None:
    none, alternate, full = (
        calls_and_gradient(build(home, checkpointing=way)) for way in ("none", "alternate", "full")
    )
    assert set(none[0]) == {1}
    assert alternate[0] == [1 + number % 2 for number in range(len(none[0]))]
    assert set(full[0]) == {2}
    assert torch.allclose(none[1], full[1], atol=1e-6)
    assert torch.allclose(none[1], alternate[1], atol=1e-6)


def test_the_llm_is_in_training_mode_and_the_frozen_tower_is_not(home: Path) -> None:
    llava = build(home, checkpointing="full").module.model.llava
    assert llava.model.language_model.training
    assert llava.model.multi_modal_projector.training
    assert not llava.model.vision_tower.training
