"""When a stage compiles the LLM's layers, and that it then trains as before."""

import functools
from pathlib import Path

import pytest

from croc_cli.model import compile_layers
from croc_cli.worker.layers import compiles
from tests.launch.make import recipe
from tests.worker import harness


@pytest.mark.parametrize(
    ("setting", "device", "zero_stage", "expected"),
    [
        ("auto", "cpu", 2, False),
        ("auto", "cuda", 2, True),
        ("auto", "cuda", 3, False),
        (True, "cpu", 3, True),
        (False, "cuda", 2, False),
    ],
)
def test_auto_compiles_on_gpus_where_no_hooks_are_inside_layers(
    setting: object, device: str, zero_stage: int, expected: bool
) -> None:
    chosen = recipe("nano", launch__compile=setting, finetune__zero_stage=zero_stage)
    assert compiles(chosen, "finetune", device=device) is expected


@pytest.mark.slow
@pytest.mark.parametrize("zero_stage", [2, 3])
def test_a_stage_with_compiled_layers_trains_as_one_without(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, zero_stage: int
) -> None:
    traced = functools.partial(compile_layers.compile_layers, backend="aot_eager")  # no C++ compiler, so seconds
    monkeypatch.setattr(compile_layers, "compile_layers", traced)
    losses = []
    for compiled in (False, True):
        settings = {"reconstruct": {"zero_stage": zero_stage, "max_steps": 2, "gradient_checkpointing": True}}
        chosen = harness.make_recipe(home, **settings, launch={"compile": compiled})
        run = harness.train(chosen, "reconstruct", tmp_path / str(compiled), start=home / "start")
        losses.append([row["loss"] for row in harness.metrics(run)])
        assert ("the LLM's layers are compiled as they first run" in harness.events(run)) is compiled
        assert "torch.compile failed" not in harness.events(run)
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
