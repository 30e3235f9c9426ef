"""Training on kept features is training on pictures, and what would make them wrong is refused."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from croc_cli.errors import RunError, UsageError
from croc_cli.recipe.checks import cross_check
from croc_cli.worker import features
from tests.worker import harness


def recipe_with(home: Path, cache: Path | None, **changes: Any) -> Any:
    recipe = harness.make_recipe(home, **changes)
    update = {"cache_features": str(cache) if cache else None}
    return recipe.model_copy(update={"data": recipe.data.model_copy(update=update)})


def count_tower_passes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Count pictures that go through a vision tower."""
    from transformers import CLIPVisionModel

    passes: list[int] = []
    forward = CLIPVisionModel.forward

    def counted(self: Any, pixel_values: torch.Tensor, *more: Any, **options: Any) -> Any:
        passes.append(len(pixel_values))
        return forward(self, pixel_values, *more, **options)

    monkeypatch.setattr(CLIPVisionModel, "forward", counted)
    return passes


@pytest.mark.parametrize("stage", ["align", "reconstruct"])
def test_training_on_kept_features_gives_the_same_losses_and_weights(
    stage: str, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = harness.train(recipe_with(home, None), stage, tmp_path / "plain", start=home / "start")
    kept = harness.train(recipe_with(home, tmp_path / "cache"), stage, tmp_path / "kept", start=home / "start")

    losses = [[row["loss"] for row in harness.metrics(run)] for run in (plain, kept)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    expected, found = harness.weights(plain), harness.weights(kept)
    assert expected.keys() == found.keys()
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-3, atol=1e-4, msg=name)

    passes = count_tower_passes(monkeypatch)
    harness.train(recipe_with(home, tmp_path / "cache"), "finetune", tmp_path / "next", start=home / "start")
    assert sum(passes) == 1, "the blank alone goes through the tower again"


def test_the_disk_is_told_before_and_a_second_run_needs_none(home: Path, tmp_path: Path) -> None:
    recipe = recipe_with(home, tmp_path / "cache")
    first = harness.events(harness.train(recipe, "finetune", tmp_path / "first", start=home / "start"))
    second = harness.events(harness.train(recipe, "finetune", tmp_path / "second", start=home / "start"))
    assert "they take 0.0 MiB" in first
    assert "are free" in first
    assert "pictures are not in" not in second
    pictures = list((tmp_path / "cache").rglob("*.safetensors"))
    assert harness.NUM_IMAGES >= len(pictures) - 1 > 0


def test_another_tower_or_preparation_gets_a_folder_of_its_own(home: Path, tmp_path: Path) -> None:
    for aspect in ("pad", "square"):
        recipe = recipe_with(home, tmp_path / "cache", finetune={"image_aspect": aspect, "max_steps": 1})
        harness.train(recipe, "finetune", tmp_path / aspect, start=home / "start")
    assert len(list((tmp_path / "cache").iterdir())) == 2


def test_a_picture_that_does_not_open_is_counted_as_without_the_cache(home: Path, tmp_path: Path) -> None:
    harness.make_data(tmp_path / "data")
    (tmp_path / "data" / "images" / "3.png").write_bytes(b"no picture")
    recipe = recipe_with(tmp_path / "data", tmp_path / "cache")
    stage_dir = harness.train(recipe, "finetune", tmp_path, start=home / "start")
    assert "3.png of sample image-3#3 does not open" in harness.events(stage_dir)
    assert harness.metrics(stage_dir)[-1]["bad_images"] == 1


def test_a_disk_that_is_too_small_stops_before_anything_is_computed(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(features, "free_disk", lambda _folder: 10)
    with pytest.raises(RunError, match=r"data\.cache_features needs 0\.0 MiB in .*, and 0\.0 MiB are free"):
        harness.train(recipe_with(home, tmp_path / "cache"), "finetune", tmp_path, start=home / "start")
    assert not (tmp_path / "cache").exists()


def test_a_stage_that_trains_the_tower_is_refused() -> None:
    parts: Any = SimpleNamespace(settings=SimpleNamespace(learning_rates={"vision_tower": 1e-5}))
    with pytest.raises(UsageError, match="this stage trains the tower"):
        features.check_tower_is_frozen(parts)


def test_pictures_that_are_drawn_on_the_fly_are_refused_by_the_recipe(home: Path) -> None:
    scenes = {"kind": "scenes", "task": "questions", "num_samples": 4}
    recipe = harness.make_recipe(home, data={"finetune": scenes, "cache_features": "kept"})
    [issue] = [issue for issue in cross_check(recipe) if issue.path == ("data", "cache_features")]
    assert "data.finetune draws its pictures on the fly" in issue.message
