"""ZeRO-3 with layers as leaves and small parts whole, against ZeRO-2, on two ranks."""

from pathlib import Path
from typing import Any

import deepspeed
import pytest
import torch

from croc_cli.worker import training
from tests.worker import harness
from tests.worker.ranks import run_ranks

RATES = {"projector": 1e-3, "llm": 1e-3, "token_pool": 1e-3}
SETTINGS: dict[str, Any] = {
    "batch": {"global_size": 8, "micro_size": 2},
    "max_steps": 3,
    "log_gradient_shares_every": 2,
    "optimizer": {"warmup_ratio": 0},
}


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [{}, {"gradient_checkpointing": True}, {"learning_rate": RATES | {"vision_tower": 1e-3}}],
    ids=["plain", "recomputed", "trained tower"],
)
def test_two_ranks_train_as_under_zero_2_and_save_the_same_names(
    home: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    runs = []
    for zero_stage in (2, 3):
        settings = SETTINGS | {"learning_rate": RATES} | changes | {"zero_stage": zero_stage}
        recipe = harness.make_recipe(home, reconstruct=settings, launch={"num_ranks": 2})
        root = tmp_path / str(zero_stage)
        stage_dir, ended = run_ranks(recipe, "reconstruct", root, start=home / "start", num_ranks=2)
        assert ended.codes == [0, 0], ended.logs
        runs.append(stage_dir)
    two, three = (harness.metrics(run) for run in runs)
    for key in ("loss", "gradient_norm", "assignment_cost", "pool_entropy"):
        assert [row[key] for row in three] == pytest.approx([row[key] for row in two], rel=1e-4), key
    assert three[0]["gradient_shares"] == pytest.approx(two[0]["gradient_shares"], rel=1e-3)
    before, after = (harness.weights(run) for run in runs)
    assert before.keys() == after.keys()
    for name, weight in before.items():
        torch.testing.assert_close(after[name], weight, atol=1e-4, rtol=1e-4, msg=name)


def test_layers_and_a_frozen_tower_are_gathered_as_one_and_small_parts_stay_whole(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engines, initialise = [], deepspeed.initialize

    def noted(*args: Any, **named: Any) -> Any:
        made = initialise(*args, **named)
        engines.append(made[0])
        return made

    monkeypatch.setattr(training.deepspeed, "initialize", noted)
    recipe = harness.make_recipe(home, reconstruct=SETTINGS | {"zero_stage": 3, "max_steps": 1})
    harness.train(recipe, "reconstruct", tmp_path, start=home / "start")
    [engine] = engines
    model = engine.module.model
    tower, projector = model.llava.model.vision_tower, model.llava.model.multi_modal_projector
    assert all(getattr(layer, "_z3_leaf", False) for layer in model.llava.model.language_model.layers)
    assert getattr(tower, "_z3_leaf", False)
    assert not getattr(projector, "_z3_leaf", False)
    offload = engine.optimizer.parameter_offload
    hooked = {id(hook.hooks_dict_ref()) for hook in offload.forward_hooks if hook.hooks_dict_ref() is not None}
    inside = [part for layer in model.llava.model.language_model.layers for part in list(layer.modules())[1:]]
    assert not any(id(part._forward_pre_hooks) in hooked for part in (*inside, *list(tower.modules())[1:]))
    persistent = {id(parameter) for parameter in engine.optimizer.persistent_parameters}
    for part in (tower, projector, model.pool):
        assert all(id(parameter) in persistent for parameter in part.parameters())
