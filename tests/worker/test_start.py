"""Where align starts: assembled from the parts, its projector fitted to the data where the recipe asks for it."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from croc_cli.errors import RunError, UsageError
from croc_cli.model.projector import projector_inputs
from croc_cli.run_dir import RunDir
from croc_cli.worker import start
from croc_cli.worker.calibrate import drawn_samples, pixel_batches
from croc_cli.worker.start import ensure_assembled
from tests.tiny import make_tiny_parts
from tests.worker import harness

FITTED = {"projector_initialisation": "captions"}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("start")
    harness.make_data(folder)
    make_tiny_parts(folder)
    return folder


@torch.no_grad()
def test_a_fitted_projector_takes_out_what_the_stages_pictures_share(home: Path, tmp_path: Path) -> None:
    from transformers import AutoImageProcessor

    from croc_cli.model.build import load_llava
    from croc_cli.worker.build import build_dataset

    recipe = harness.make_recipe(home, model=FITTED)
    said: list[str] = []
    ensure_assembled(recipe, "align", tmp_path / "init", say=said.append)
    assert said == ["the projector's first weights are fitted to up to 1,280 pictures of data.align and their captions"]

    llava: Any = load_llava(tmp_path / "init", dtype=torch.float32, attention="sdpa")
    samples = drawn_samples(build_dataset(recipe, "align"), seed=0)
    batches = pixel_batches(samples, AutoImageProcessor.from_pretrained(tmp_path / "init"), harness.NUM_IMAGES)
    features = torch.cat([projector_inputs(llava, pixels) for pixels in batches])
    inner = llava.model.multi_modal_projector.linear_1(features).flatten(0, 1)
    assert inner.mean(dim=0).abs().max() < 1e-3
    assert inner.std(dim=0).mean().item() == pytest.approx(1.0, abs=0.2)


def test_other_pictures_make_another_start_and_the_same_ones_keep_it(home: Path, tmp_path: Path) -> None:
    recipe = harness.make_recipe(home, model=FITTED)
    ensure_assembled(recipe, "align", tmp_path / "init")
    kept = (tmp_path / "init" / "model.safetensors").stat().st_mtime_ns
    ensure_assembled(recipe, "align", tmp_path / "init")
    assert (tmp_path / "init" / "model.safetensors").stat().st_mtime_ns == kept

    rows = json.loads((home / "data.json").read_text())
    fewer = home / "fewer.json"
    fewer.write_text(json.dumps(rows[:4]))
    source = {"kind": "llava_json", "path": str(fewer), "image_folder": str(home / "images")}
    ensure_assembled(harness.make_recipe(home, model=FITTED, data={"align": source}), "align", tmp_path / "init")
    assert (tmp_path / "init" / "model.safetensors").stat().st_mtime_ns != kept
    assert len(list(tmp_path.glob("init-*"))) == 1


def test_a_fit_without_pictures_is_refused(home: Path, tmp_path: Path) -> None:
    texts = home / "texts.json"
    texts.write_text(json.dumps([harness.row("one", [("human", "Say a number."), ("gpt", "1")])]))
    source = {"kind": "llava_json", "path": str(texts), "image_folder": str(home / "images")}
    recipe = harness.make_recipe(home, model=FITTED, data={"align": source})
    with pytest.raises(
        RunError, match=r"no picture of data.align opens, and model.projector_initialisation is captions"
    ):
        ensure_assembled(recipe, "align", tmp_path / "init")
    assert not (tmp_path / "init").exists()


def test_what_is_wrong_with_the_parts_is_said_without_the_names_of_classes(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise UsageError("the LLM is cut short")

    monkeypatch.setattr(start, "ensure_assembled", fail)
    monkeypatch.setattr(start.dist, "get_rank", lambda: 0)
    monkeypatch.setattr(start, "gather_from_ranks", lambda value: [value])
    stage_dir = RunDir(tmp_path).stage("align")
    with pytest.raises(RunError, match="assembled from tower and LLM: the LLM is cut short$"):
        start.find_start(harness.make_recipe(home), stage_dir, "align", start=None, say=lambda _: None)
