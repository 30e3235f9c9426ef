"""The held-out loss of whole stages on a tiny model: what it measures, and that training does not notice it."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from croc_cli.errors import Interrupted
from croc_cli.run_dir import StageDir
from croc_cli.train.trainer import Trainer
from croc_cli.worker.build import build_masking
from croc_cli.worker.held_out import held_out_measure
from tests.worker import harness
from tests.worker.ranks import run_ranks

CLOCKS = ("seconds", "time_share")


def own_file(home: Path) -> dict[str, str]:
    """Write held-out rows with pictures of their own, and return what a recipe says of them."""
    folder = home / "held"
    if not folder.exists():
        harness.make_data(folder)
    return {"path": str(folder / "data.json"), "image_folder": str(folder / "images")}


def with_held_out(home: Path, held_out: Any, *, num_workers: int = 0, **stage: Any) -> Any:
    shared = {key: value for key, value in stage.items() if key not in ("reconstruction", "mask")}
    recipe = harness.make_recipe(home, reconstruct=stage, finetune=shared)
    values = recipe.model_dump(mode="json")
    for name in ("reconstruct", "finetune"):
        values["data"][name]["held_out"] = held_out
    values["data"]["num_workers"] = num_workers
    return type(recipe).model_validate(values)


def measured(stage_dir: StageDir) -> dict[int, dict[str, Any]]:
    return {
        row["step"]: {key: value for key, value in row["held_out"].items() if key not in CLOCKS}
        for row in harness.metrics(stage_dir)
        if "held_out" in row
    }


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_run_that_measures_has_the_very_weights_of_one_that_does_not(
    home: Path, tmp_path: Path, num_workers: int
) -> None:
    head = {"reconstruction": {"head": "bert"}, "validate_every": 2, "max_steps": 3}  # its dropout draws numbers
    without = with_held_out(home, None, num_workers=num_workers, **(head | {"validate_every": None}))
    torch.manual_seed(0)  # of the head's weights: each run is a process of its own elsewhere
    plain = harness.train(without, "reconstruct", tmp_path / "plain", start=home / "start")
    recipe = with_held_out(home, own_file(home), num_workers=num_workers, **head)
    torch.manual_seed(0)
    watched = harness.train(recipe, "reconstruct", tmp_path / "watched", start=home / "start")
    before, after = harness.weights(plain), harness.weights(watched)
    assert before.keys() == after.keys()
    assert [name for name in before if not torch.equal(before[name], after[name])] == []
    rows = measured(watched)
    assert list(rows) == [2, 3]
    for row in rows.values():
        assert (row["samples"], row["images"], row["bad_images"]) == (16, 12, 0)
        assert row["caption_loss"] > 0
        assert row["reconstruction_loss"] > 0
        assert row["explained_share"] < 1
        assert row["picture_gain"] != 0
    assert rows[2] != rows[3]
    summary = json.loads(watched.summary_file.read_text())
    assert summary["held_out"]["caption_loss"] == rows[3]["caption_loss"]
    last = harness.metrics(watched)[-1]["held_out"]
    assert 0 < last["time_share"] < 1
    assert measured(plain) == {}


def test_drawn_samples_are_never_trained_on_and_a_resumed_run_measures_the_same(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = with_held_out(home, 5, validate_every=1, max_steps=4)
    whole = harness.train(recipe, "finetune", tmp_path / "whole", start=home / "start")
    lines = [json.loads(line) for line in whole.samples_file(0).read_text().splitlines()]
    trained = {name for line in lines for name in line["ids"]}
    assert len(trained) == 11  # of 16, in 16 draws of two epochs
    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "_asked_to_stop", lambda trainer: trainer.state.step == 2)
        with pytest.raises(Interrupted):
            harness.train(recipe, "finetune", tmp_path / "cut", start=home / "start")
    cut = harness.train(recipe, "finetune", tmp_path / "cut", start=home / "start")
    assert measured(cut) == measured(whole)
    assert {row["samples"] for row in measured(whole).values()} == {5}


@pytest.mark.slow
def test_the_numbers_are_the_same_on_any_number_of_ranks(home: Path, tmp_path: Path) -> None:
    rates = {"projector": 1e-30, "llm": 1e-30}  # too small to change a weight
    recipe = with_held_out(home, 5, max_steps=1, learning_rate=rates, batch={"global_size": 4, "micro_size": 2})
    found = []
    for num_ranks in (1, 2):
        stage_dir, ended = run_ranks(
            recipe, "reconstruct", tmp_path / str(num_ranks), start=home / "start", num_ranks=num_ranks
        )
        assert ended.codes == [0] * num_ranks, ended.logs
        found.append(measured(stage_dir))
    assert found[0] == found[1]
    assert list(found[0]) == [1]


def test_held_out_losses_are_measured_with_the_masks_of_the_stages_end(home: Path) -> None:
    recipe = with_held_out(home, own_file(home), mask={"schedule": "cosine", "ratio": 0.5})
    masking = build_masking(recipe, "reconstruct", num_steps=9)
    collator: Any = SimpleNamespace(masking=masking, features=None, num_visual_tokens=16, encoder=None)
    assert masking is not None
    measure = held_out_measure(recipe, "reconstruct", cast("Any", None), collator, device=torch.device("cpu"))
    assert measure is not None
    used = cast("Any", measure).loader.collator.masking
    assert [used.num_masked(16, seed=0, step=step, sample_id="a") for step in (0, 8)] == [8, 8]
    assert masking.num_masked(16, seed=0, step=0, sample_id="a") == 1
