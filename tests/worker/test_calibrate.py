"""What ranks hold before the engine is there: the device that weights are read to, and what calibration makes whole."""

from pathlib import Path
from typing import Any

import pytest
import torch

from croc_cli.train import weights
from croc_cli.worker.build import StageParts, build_stage
from croc_cli.worker.calibrate import calibration_tokens
from tests.worker import harness


def parts_of(home: Path, **options: Any) -> StageParts:
    recipe, start = harness.make_recipe(home), home / "start"
    return build_stage(
        recipe, "reconstruct", start=start, weights=start, rank=0, num_ranks=1, chat_template=None, **options
    )


def test_weights_are_read_to_the_device_of_the_rank(home: Path) -> None:
    assert {parameter.device.type for parameter in parts_of(home, device="meta").module.model.llava.parameters()} == {
        "meta"
    }


def test_calibration_makes_tower_and_projector_whole_and_leaves_the_llm(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = parts_of(home)
    made_whole: list[torch.nn.Parameter] = []
    gathered = weights.gathered

    def noted(parameters: list[torch.nn.Parameter]) -> Any:
        made_whole.extend(parameters)
        return gathered(parameters)

    monkeypatch.setattr(weights, "gathered", noted)
    tokens = calibration_tokens(parts, pool_size=24, device="cpu", generator=torch.Generator().manual_seed(0))
    assert len(tokens) >= 24
    model = parts.module.model.llava.model
    visual = [*model.vision_tower.parameters(), *model.multi_modal_projector.parameters()]
    assert [id(parameter) for parameter in made_whole] == [id(parameter) for parameter in visual]
