"""Which fused kernels a stage runs, by recipe and device, and what it says of them."""

from types import SimpleNamespace
from typing import Any

import pytest

from croc_cli.model import liger
from croc_cli.worker.layers import compiles, fuse_layers, uses_liger
from tests.launch.make import recipe


@pytest.mark.parametrize(
    ("settings", "device", "zero_stage", "expected"),
    [
        ({}, "cuda", 3, True),
        ({}, "cuda", 2, False),  # its layers are compiled
        ({"launch__compile": False}, "cuda", 2, True),
        ({"launch__compile": False}, "cpu", 2, False),
        ({"launch__kernels": "liger"}, "cuda", 2, True),
        ({"launch__kernels": "none"}, "cuda", 3, False),
    ],
)
def test_auto_takes_liger_on_gpus_where_layers_are_not_compiled(
    monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any], device: str, zero_stage: int, expected: bool
) -> None:
    monkeypatch.setattr(liger, "takes_liger", lambda model_type: model_type == "llama")
    chosen = recipe("nano", finetune__zero_stage=zero_stage, **settings)
    assert uses_liger(chosen, "finetune", device=device, model_type="llama") is expected
    if expected:
        assert not compiles(chosen, "finetune", device=device)
    if "launch__kernels" not in settings:
        assert not uses_liger(chosen, "finetune", device=device, model_type="other")


def test_a_stage_says_which_kernels_it_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Any] = []
    monkeypatch.setattr(liger, "apply_liger", given.append)
    said: list[str] = []
    llm: Any = SimpleNamespace(config=SimpleNamespace(model_type="llama"), layers=[])
    fuse_layers(recipe("nano", launch__kernels="liger"), "finetune", llm, device="cuda", say=said.append)
    assert given == [llm]
    assert said == ["the LLM's layers run Liger's kernels (launch.kernels: liger)"]
    fuse_layers(recipe("nano"), "finetune", llm, device="cpu", say=said.append)
    assert len(said) == len(given) == 1
