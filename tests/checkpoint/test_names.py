"""What training saves under every ZeRO stage: the weight names, and the disk that it asks for beforehand."""

from pathlib import Path

import pytest
from safetensors import safe_open

from croc_cli.checkpoint import save
from croc_cli.names import STAGES
from tests.tiny import make_tiny_parts
from tests.worker import harness


def names_in(checkpoint: Path) -> set[str]:
    """Return the names of the weights in a checkpoint's file."""
    with safe_open(checkpoint / "model.safetensors", "pt") as file:
        return set(file.keys())


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("names")
    harness.make_data(folder)
    make_tiny_parts(folder)
    return folder


@pytest.mark.parametrize("zero_stage", [0, 2, 3])
def test_every_stage_saves_the_names_of_its_start_and_knows_the_disk_that_it_needs(
    zero_stage: int, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    begin = save.begin

    def noted(destination: Path, *, needed_bytes: int = 0) -> Path:
        asked.append(needed_bytes)
        return begin(destination, needed_bytes=needed_bytes)

    monkeypatch.setattr(save, "begin", noted)
    recipe = harness.make_recipe(home, **{stage: {"zero_stage": zero_stage, "max_steps": 1} for stage in STAGES})
    start = None
    for stage in STAGES:
        start = harness.train(recipe, stage, tmp_path, start=start).latest_checkpoint()
        assert start is not None
        assert names_in(start) == names_in(tmp_path / "init"), stage
        weights = sum(file.stat().st_size for file in start.rglob("*") if file.suffix in (".safetensors", ".pt"))
        assert 0.8 * weights < asked[-1] < 2 * weights, stage
