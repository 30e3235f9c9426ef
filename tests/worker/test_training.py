"""Whole stages of the worker on a tiny model, in one process."""

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoProcessor, LlavaForConditionalGeneration

from croc_cli.checkpoint.metadata import read_metadata
from croc_cli.data.processor_template import with_pictures
from croc_cli.errors import Interrupted, RunError
from croc_cli.recipe.schema import MonitorRecipe
from croc_cli.train.trainer import Trainer
from tests.tiny import make_tiny_parts
from tests.worker import harness


def stop_after(monkeypatch: pytest.MonkeyPatch, steps: int) -> None:
    monkeypatch.setattr(Trainer, "_asked_to_stop", lambda trainer: trainer.state.step == steps)


def test_the_three_stages_run_one_after_another_and_each_names_its_start(home: Path, tmp_path: Path) -> None:
    recipe = harness.make_recipe(home)
    align = harness.train(harness.make_recipe(home), "align", tmp_path, start=None)
    reconstruct = harness.train(recipe, "reconstruct", tmp_path, start=align.latest_checkpoint())
    finetune = harness.train(recipe, "finetune", tmp_path, start=reconstruct.latest_checkpoint())

    before, after = read_metadata(reconstruct.latest_checkpoint()), read_metadata(finetune.latest_checkpoint())
    assert after.start is not None
    assert after.start.weights_sha256 == before.weights_sha256
    assert (after.stage, after.step, after.template) == ("finetune", 4, "vicuna_v1")
    assert json.loads(finetune.summary_file.read_text())["finished"] is True
    start = harness.load_file(tmp_path / "init" / "model.safetensors")
    aligned = harness.weights(align)
    changed = {name for name in start if not torch.equal(start[name], aligned[name])}
    assert changed == {name for name in start if "multi_modal_projector" in name}


def test_reconstruct_reports_both_losses_and_the_health_of_the_pool(home: Path, tmp_path: Path) -> None:
    recipe = harness.make_recipe(home, reconstruct={"log_gradient_shares_every": 2})
    rows = harness.metrics(harness.train(recipe, "reconstruct", tmp_path, start=home / "start"))
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    for row in rows:
        assert row["loss"] == pytest.approx(10 * row["reconstruction_loss"] + row["caption_loss"])
        assert 0 < row["pool_window_share"] <= row["pool_used_share"] <= 1
        assert 0 < row["assignment_share"] < 1
        assert row["assignment_cost"] > 0
        assert row["explained_share"] is not None
        assert set(row["learning_rate"]) == {"projector", "llm", "token_pool"}
    assert [row["gradient_shares"] is not None for row in rows] == [True, False, True, False]
    assert rows[0]["gradient_shares"]["reconstruction"] > 0


@pytest.mark.parametrize(
    ("stage", "zero_stage", "steps"), [("reconstruct", 0, 1), ("reconstruct", 2, 3), ("finetune", 0, 2)]
)
def test_a_stopped_and_resumed_run_ends_with_the_very_same_weights(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str, zero_stage: int, steps: int
) -> None:
    recipe = harness.make_recipe(home, **{stage: {"zero_stage": zero_stage}})
    unbroken = harness.train(recipe, stage, tmp_path / "unbroken", start=home / "start")
    with monkeypatch.context() as patch:
        stop_after(patch, steps)
        with pytest.raises(Interrupted, match=f"stopped after step {steps} of 4; saved in"):
            harness.train(recipe, stage, tmp_path / "broken", start=home / "start")
    resumed = harness.train(recipe, stage, tmp_path / "broken", start=home / "start")

    expected, found = harness.weights(unbroken), harness.weights(resumed)
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    losses = [[row["loss"] for row in harness.metrics(run)] for run in (unbroken, resumed)]
    assert losses[0] == losses[1]


def test_a_picture_that_does_not_open_is_named_and_adds_no_loss(home: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    harness.make_data(data)
    (data / "images" / "3.png").write_bytes(b"no picture")
    recipe = harness.make_recipe(data)
    stage_dir = harness.train(recipe, "finetune", tmp_path, start=home / "start")
    assert "3.png of sample image-3#3 does not open" in harness.events(stage_dir)
    assert harness.metrics(stage_dir)[-1]["bad_images"] == 1


def test_too_many_bad_pictures_stop_the_run(home: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    harness.make_data(data)
    for index in range(harness.NUM_IMAGES):
        (data / "images" / f"{index}.png").write_bytes(b"")
    recipe = harness.make_recipe(data)
    recipe = recipe.model_copy(update={"data": recipe.data.model_copy(update={"max_bad_images": 2})})
    with pytest.raises(RunError, match="images failed to open, more than data.max_bad_images = 2"):
        harness.train(recipe, "finetune", tmp_path, start=home / "start")


def poison(monkeypatch: pytest.MonkeyPatch, steps: set[int]) -> None:
    """Make the pictures of some steps not a number."""
    original = Trainer._step

    def step(self, number, micro_batches, counts, *, started):  # type: ignore[no-untyped-def]
        if number in steps:
            micro_batches[0].pixel_values.fill_(float("nan"))
        return original(self, number, micro_batches, counts, started=started)

    monkeypatch.setattr(Trainer, "_step", step)


@pytest.mark.parametrize("zero_stage", [0, 2])
def test_a_step_that_is_not_finite_changes_nothing_and_names_its_samples(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, zero_stage: int
) -> None:
    recipe = harness.make_recipe(home, finetune={"max_steps": 1, "zero_stage": zero_stage})
    poison(monkeypatch, {0})
    stage_dir = harness.train(recipe, "finetune", tmp_path, start=home / "start")
    folders = (home / "start", stage_dir.latest_checkpoint())
    before, after = (LlavaForConditionalGeneration.from_pretrained(folder).state_dict() for folder in folders)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert harness.metrics(stage_dir)[0]["skipped"] is True
    assert "step 1 skipped: its loss is not finite; samples " in harness.events(stage_dir)


def test_three_steps_in_a_row_that_are_not_finite_stop_the_run(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    poison(monkeypatch, {1, 2, 3})
    with pytest.raises(RunError, match="3 steps in a row had a loss that is not finite; the last had samples "):
        harness.train(harness.make_recipe(home), "reconstruct", tmp_path, start=home / "start")


def test_a_sample_cut_before_its_answer_is_dropped_and_counted(home: Path, tmp_path: Path) -> None:
    recipe = harness.make_recipe(home, finetune={"max_length": 70})
    last = harness.metrics(harness.train(recipe, "finetune", tmp_path, start=home / "start"))[-1]
    assert last["truncated_samples"] > 0
    assert last["dropped_samples"] > 0


def test_tensorboard_gets_the_losses_through_deepspeeds_monitor(home: Path, tmp_path: Path) -> None:
    recipe = harness.make_recipe(home, finetune={"max_steps": 1}).model_copy(
        update={"monitor": MonitorRecipe(tensorboard=True)}
    )
    stage_dir = harness.train(recipe, "finetune", tmp_path, start=home / "start")
    [events] = (stage_dir.root / "tensorboard").glob("events.out.tfevents*")
    assert b"croc/caption_loss" in events.read_bytes()


def test_a_stage_in_the_llms_own_template_may_follow_one_in_another(home: Path, tmp_path: Path) -> None:
    template = "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{{ eos_token }}{% endfor %}"
    template += "{% if add_generation_prompt %}<assistant>{% endif %}"
    _, llm = make_tiny_parts(tmp_path)
    (llm / "chat_template.jinja").write_text(template)
    changes = {"model": {"llm": str(llm)}, "align": {"template": "plain"}, "finetune": {"template": "chat_template"}}
    recipe = harness.make_recipe(home, **changes)
    align = harness.train(recipe, "align", tmp_path / "run", start=None)
    finetune = harness.train(recipe, "finetune", tmp_path / "run", start=align.latest_checkpoint())
    saved = AutoProcessor.from_pretrained(finetune.latest_checkpoint())
    assert saved.chat_template == with_pictures(template)
