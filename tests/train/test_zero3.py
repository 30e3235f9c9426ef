"""Which modules are leaves of ZeRO-3, and hooks that are out of the way for a while; the engine's own part is in
tests/worker/test_zero3.py."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from croc_cli.model.lmm import MultimodalModel
from croc_cli.model.token_pool import TokenPool
from croc_cli.train.zero3 import gradients_stay, outside_forward, set_leaves
from tests.tiny import LLM_WIDTH, NUM_VISUAL_TOKENS, make_tiny_model


def make_model() -> MultimodalModel:
    model = MultimodalModel(make_tiny_model(), num_visual_tokens=NUM_VISUAL_TOKENS, pool=TokenPool(24, LLM_WIDTH))
    model.llava.model.vision_tower.requires_grad_(False)
    return model


def is_leaf(module: nn.Module) -> bool:
    return getattr(module, "_z3_leaf", False)


def test_layers_and_a_frozen_tower_are_leaves_and_what_has_no_gradient_before_it_is_none() -> None:
    model = make_model()
    set_leaves(model)
    assert all(is_leaf(layer) for layer in model.llava.model.language_model.layers)
    assert is_leaf(model.llava.model.vision_tower)
    assert not is_leaf(model.llava.model.multi_modal_projector)

    trained = make_model()
    trained.llava.model.vision_tower.requires_grad_(True)
    set_leaves(trained)
    assert not is_leaf(trained.llava.model.vision_tower)


def test_trained_layers_behind_frozen_parts_are_no_leaves() -> None:
    model = make_model()
    for part in (model.llava.model.multi_modal_projector, model.pool, model.llava.get_input_embeddings()):
        part.requires_grad_(False)  # type: ignore[union-attr]
    set_leaves(model)
    assert not any(is_leaf(layer) for layer in model.llava.model.language_model.layers)


def test_only_the_engines_hooks_are_taken_out_and_come_back_in_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model()
    asked: list[int] = []
    monkeypatch.setattr(nn.Parameter, "all_gather", lambda _, found: asked.append(len(found)), raising=False)
    projector = model.llava.model.multi_modal_projector
    calls: list[str] = []
    first = projector.register_forward_pre_hook(lambda *_: calls.append("engine"))
    projector.register_forward_pre_hook(lambda *_: calls.append("other"))
    last = projector.register_forward_hook(lambda *_: calls.append("engine after"))
    engine = SimpleNamespace(
        optimizer=SimpleNamespace(parameter_offload=SimpleNamespace(forward_hooks=[first], backward_hooks=[last]))
    )
    features = torch.zeros(1, 2, model.llava.config.vision_config.hidden_size)
    with outside_forward(engine, model):
        projector.register_forward_hook(lambda *_: calls.append("made inside"))
        projector(features)
    assert calls == ["other", "made inside"]
    assert asked == [len([*model.llava.model.vision_tower.parameters(), *projector.parameters()]) + 1]
    calls.clear()
    projector(features)
    assert calls == ["engine", "other", "engine after", "made inside"]


def test_leaves_keep_their_gradients_for_a_while() -> None:
    leaf, seen = nn.Linear(2, 2), []
    leaf._z3_leaf = True  # type: ignore[assignment]  # DeepSpeed's mark
    leaf.register_full_backward_hook(lambda *_: seen.append(1))
    for expected, context in ((0, gradients_stay(leaf)), (1, None)):
        if context is not None:
            with context:
                leaf(torch.ones(1, 2, requires_grad=True)).sum().backward()
        else:
            leaf(torch.ones(1, 2, requires_grad=True)).sum().backward()
        assert len(seen) == expected
