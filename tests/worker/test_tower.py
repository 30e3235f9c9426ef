"""A trained vision tower: what moves, what does not, and where its gradients come from."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlavaForConditionalGeneration

from croc_cli.model.vision_tower import unused_weights
from croc_cli.worker.build import StageParts, build_stage
from tests.tiny import NUM_VISUAL_TOKENS
from tests.worker import harness

RATES = {"vision_tower": 1e-3, "projector": 1e-3, "llm": 1e-3, "token_pool": 1e-3}
ONE = torch.tensor(1.0)


def build(home: Path, **changes: Any) -> StageParts:
    recipe = harness.make_recipe(home, reconstruct={"learning_rate": RATES} | changes)
    start = home / "start"
    return build_stage(recipe, "reconstruct", start=start, weights=start, rank=0, num_ranks=1, chat_template=None)


def tower_of(checkpoint: Path | None) -> dict[str, torch.Tensor]:
    """Return the tower's weights as stock transformers reads them."""
    assert checkpoint is not None
    stock = LlavaForConditionalGeneration.from_pretrained(checkpoint)
    return dict(stock.model.vision_tower.state_dict())


def is_behind(name: str) -> bool:
    """Tell whether a weight of the tiny tower, of three layers, lies behind the output of the second."""
    return "layers.2." in name or "post_layernorm" in name


def test_layers_up_to_the_projected_one_move_and_the_others_stay_bit_for_bit(home: Path, tmp_path: Path) -> None:
    changes = {"gradient_checkpointing": True, "learning_rate": RATES, "max_steps": 2}
    recipe = harness.make_recipe(home, reconstruct=changes | {"optimizer": {"weight_decay": 0.5, "warmup_ratio": 0}})
    stage_dir = harness.train(recipe, "reconstruct", tmp_path, start=home / "start")

    before, after = tower_of(home / "start"), tower_of(stage_dir.latest_checkpoint())
    still = {name for name in before if torch.equal(before[name], after[name])}
    assert still == {name for name in before if is_behind(name)}
    assert set(harness.metrics(stage_dir)[-1]["learning_rate"]) == set(RATES)


def test_tower_gradients_come_through_the_unmasked_quarter_and_not_through_the_targets(home: Path) -> None:
    norms = {}
    for stop_gradient in (True, False):
        torch.manual_seed(0)
        parts = build(home, reconstruction={"stop_gradient": stop_gradient})
        model = parts.module.model
        torch.nn.init.normal_(model.pool.weight)
        batch = next(batch for batch in parts.loader[0] if bool(batch.image_is_real.any()))
        seen: list[torch.Tensor] = []

        def keep(_module: Any, _inputs: Any, output: torch.Tensor, seen: list[torch.Tensor] = seen) -> None:
            output.register_hook(seen.append)

        model.llava.model.multi_modal_projector.register_forward_hook(keep)
        loss, _ = parts.module(batch, token_weight=ONE, image_weight=ONE)
        loss.backward()
        [gradient] = seen
        real, masked = batch.image_is_real, batch.masked
        assert int(masked[real].sum()) == int(real.sum()) * 3 * NUM_VISUAL_TOKENS // 4
        norms[stop_gradient] = [float(gradient[real][places[real]].norm()) for places in (masked, ~masked)]
        first = model.llava.model.vision_tower.encoder.layers[0].mlp.fc1.weight.grad
        assert float(first.norm()) > 0
    assert norms[True][0] == 0 < norms[True][1]
    assert norms[False][0] > 0


@pytest.mark.parametrize("rate", [None, 0, "left out"])
def test_a_tower_without_a_rate_is_frozen_as_ever(rate: object, home: Path) -> None:
    rates = {**RATES, "vision_tower": rate}
    if rate == "left out":
        del rates["vision_tower"]
    parts = build(home, learning_rate=rates)
    assert not parts.module.model.llava.model.vision_tower.training
    assert set(parts.settings.learning_rates) == {"projector", "llm", "token_pool"}
    tokens = parts.module.model.llava.get_image_features(parts.loader[0][0].pixel_values).pooler_output
    assert tokens[0].grad_fn is not None  # the projector's


@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_trained_tower_is_computed_again_where_the_recipe_says_so(checkpointing: bool, home: Path) -> None:
    gradients = []
    for again in (False, checkpointing):
        parts = build(home, gradient_checkpointing=again)
        tower, calls = parts.module.model.llava.model.vision_tower, []
        assert tower.training
        tower.encoder.layers[0].mlp.register_forward_pre_hook(lambda *_, calls=calls: calls.append(1))
        torch.manual_seed(0)
        loss, _ = parts.module(parts.loader[0][0], token_weight=ONE, image_weight=ONE)
        loss.backward()
        assert len(calls) == (2 if again else 1)
        gradients.append({name: p.grad for name, p in tower.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, atol=1e-6, rtol=1e-4)


def test_what_has_no_gradient_is_in_no_group_of_the_optimizer(home: Path) -> None:
    parts = build(home)
    tower = parts.module.model.llava.model.vision_tower
    loss, _ = parts.module(parts.loader[0][0], token_weight=ONE, image_weight=ONE)
    loss.backward()
    without = {name for name, p in tower.named_parameters() if p.grad is None}
    assert without == unused_weights(tower, -2)
    assert without == {name for name, _ in tower.named_parameters() if is_behind(name)}
    assert unused_weights(tower, -1) == unused_weights(tower, 3) == {"post_layernorm.weight", "post_layernorm.bias"}
    assert unused_weights(tower, [1, -2]) == without
    assert unused_weights(tower, 0) == {n for n, _ in tower.named_parameters() if "layers." in n or "post_lay" in n}
