"""The weight names of what training saves, under every ZeRO stage."""

from pathlib import Path

import pytest
from safetensors import safe_open

from croc_cli.names import STAGES
from tests.tiny import make_tiny_parts
from tests.worker import harness


def names_in(checkpoint: Path | None) -> set[str]:
    """Return the names of the weights in a checkpoint's file."""
    assert checkpoint is not None
    with safe_open(checkpoint / "model.safetensors", "pt") as file:
        return set(file.keys())


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("names")
    harness.make_data(folder)
    make_tiny_parts(folder)
    return folder


@pytest.mark.parametrize("zero_stage", [0, 2, 3])
def test_every_stage_saves_the_names_that_its_start_has(zero_stage: int, home: Path, tmp_path: Path) -> None:
    recipe = harness.make_recipe(home, **{stage: {"zero_stage": zero_stage, "max_steps": 1} for stage in STAGES})
    start = None
    for stage in STAGES:
        start = harness.train(recipe, stage, tmp_path, start=start).latest_checkpoint()
        assert names_in(start) == names_in(tmp_path / "init"), stage
