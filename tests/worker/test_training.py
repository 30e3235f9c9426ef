"""Whole stages of the worker on a tiny model, in one process."""

import errno
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoProcessor, LlavaForConditionalGeneration

from croc_cli.checkpoint import save
from croc_cli.checkpoint.metadata import TOWER_TRAINED_KEY, read_metadata
from croc_cli.data.processor_template import with_pictures
from croc_cli.errors import Interrupted, RunError
from croc_cli.train.trainer import Trainer
from tests.tiny import make_tiny_parts
from tests.worker import harness


def stop_after(monkeypatch: pytest.MonkeyPatch, steps: int) -> None:
    monkeypatch.setattr(Trainer, "_asked_to_stop", lambda trainer: trainer.state.step == steps)


def test_the_three_stages_run_one_after_another_and_each_names_its_start(home: Path, tmp_path: Path) -> None:
    rates = {"vision_tower": 1e-3, "projector": 1e-3, "llm": 1e-3, "token_pool": 1e-3}
    recipe = harness.make_recipe(home, reconstruct={"learning_rate": rates})
    align = harness.train(harness.make_recipe(home), "align", tmp_path, start=None)
    reconstruct = harness.train(recipe, "reconstruct", tmp_path, start=align.latest_checkpoint())
    finetune = harness.train(recipe, "finetune", tmp_path, start=reconstruct.latest_checkpoint())

    before, after = read_metadata(reconstruct.latest_checkpoint()), read_metadata(finetune.latest_checkpoint())
    assert after.start is not None
    assert after.start.weights_sha256 == before.weights_sha256
    assert (after.stage, after.step, after.template) == ("finetune", 4, "vicuna_v1")
    assert TOWER_TRAINED_KEY not in read_metadata(align.latest_checkpoint()).extra
    assert before.extra[TOWER_TRAINED_KEY] is after.extra[TOWER_TRAINED_KEY] is True
    assert json.loads(finetune.summary_file.read_text())["finished"] is True
    start = harness.load_file(tmp_path / "init" / "model.safetensors")
    aligned = harness.weights(align)
    changed = {name for name in start if not torch.equal(start[name], aligned[name])}
    assert changed == {name for name in start if "multi_modal_projector" in name}
    reconstructed, finetuned = harness.weights(reconstruct), harness.weights(finetune)
    tower = {name for name in start if "vision_tower" in name}
    assert not all(torch.equal(start[name], reconstructed[name]) for name in tower)
    assert all(torch.equal(reconstructed[name], finetuned[name]) for name in tower), "the next stage starts from it"


def test_reconstruct_reports_both_losses_and_the_health_of_the_pool(home: Path, tmp_path: Path) -> None:
    recipe = harness.make_recipe(home, reconstruct={"log_gradient_shares_every": 2})
    stage_dir = harness.train(recipe, "reconstruct", tmp_path, start=home / "start")
    rows = harness.metrics(stage_dir)
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    noted = [json.loads(line) for line in stage_dir.samples_file(0).read_text().splitlines()]
    assert [(line["step"], len(line["ids"])) for line in noted] == [(1, 4), (2, 4), (3, 4), (4, 4)]
    for line, row in zip(noted, rows, strict=True):
        total = sum(tokens * loss for tokens, loss in zip(line["tokens"], line["losses"], strict=True))
        assert total / sum(line["tokens"]) == pytest.approx(row["caption_loss"], abs=1e-4)
    for row in rows:
        assert row["loss"] == pytest.approx(10 * row["reconstruction_loss"] + row["caption_loss"])
        assert 0 < row["pool_window_share"] <= row["pool_used_share"] <= 1
        assert 0 <= row["assignment_wait_share"] < 1
        assert 0 < row["assignment_solver_share"] < 1
        assert row["assignment_solver_seconds"] < row["step_seconds"]
        assert 0 <= row["rank_wait_seconds"] <= row["data_seconds"] <= row["step_seconds"]
        assert row["assignment_cost"] > 0
        assert row["explained_share"] is not None
        assert set(row["learning_rate"]) == {"projector", "llm", "token_pool"}
        [(source, all_samples)] = row["source"].items()
        assert (source, all_samples["samples"]) == ("data.json", row["samples"])
        assert all_samples["loss"] == pytest.approx(row["caption_loss"])
        parts = row["modality"].values()
        assert sum(part["tokens"] for part in parts) == all_samples["tokens"]
        assert sum(part["tokens"] * part["loss"] for part in parts) / all_samples["tokens"] == pytest.approx(
            row["caption_loss"]
        )
    assert [row["gradient_shares"] is not None for row in rows] == [True, False, True, False]
    assert rows[0]["gradient_shares"]["reconstruction"] > 0


def test_gradient_shares_and_explained_share_are_those_of_the_step_whatever_the_micro_batch(
    home: Path, tmp_path: Path
) -> None:
    found = []
    for micro_size, zero_stage in ((8, 0), (4, 3), (1, 0)):
        batch = {"global_size": 8, "micro_size": micro_size}
        changes = {"batch": batch, "zero_stage": zero_stage, "max_steps": 1, "log_gradient_shares_every": 1, "seed": 1}
        recipe = harness.make_recipe(home, reconstruct=changes)
        stage_dir = harness.train(recipe, "reconstruct", tmp_path / str(micro_size), start=home / "start")
        [row] = harness.metrics(stage_dir)
        found.append([row["explained_share"], *row["gradient_shares"].values()])
    assert found[0][2] > found[0][1] > 0
    assert found[1] == pytest.approx(found[0], rel=1e-3)
    assert found[2] == pytest.approx(found[0], rel=1e-3)


def test_gradient_shares_add_up_to_the_gradient_of_the_step(home: Path, tmp_path: Path) -> None:
    changes = {"max_steps": 1, "log_gradient_shares_every": 1, "learning_rate": {"llm": 1e-3}}
    alone = []
    for weights in ({"reconstruction_weight": 0.0}, {"caption_weight": 0.0}, {}):
        recipe = harness.make_recipe(home, reconstruct=changes | {"objectives": weights})
        root = tmp_path / "-".join(weights or ["both"])
        [row] = harness.metrics(harness.train(recipe, "reconstruct", root, start=home / "start"))
        alone.append(row)
    caption, reconstruction, both = alone
    assert both["gradient_shares"]["caption"] == pytest.approx(caption["gradient_norm"], rel=1e-2)
    assert both["gradient_shares"]["reconstruction"] == pytest.approx(reconstruction["gradient_norm"], rel=1e-2)


def test_a_stopped_run_says_where_it_resumes_and_how_long_ranks_waited_for_saves(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = harness.make_recipe(home, finetune={"save_every": 1})
    with monkeypatch.context() as patch:
        stop_after(patch, 2)
        with pytest.raises(Interrupted):
            harness.train(recipe, "finetune", tmp_path, start=home / "start")
    stage_dir = harness.train(recipe, "finetune", tmp_path, start=home / "start")
    assert "resuming at step 3 of 4" in harness.events(stage_dir)
    rows = harness.metrics(stage_dir)
    assert [row["save_seconds"] > 0 for row in rows] == [False, True, False, True]
    summary = json.loads(stage_dir.summary_file.read_text())
    assert summary["save_seconds"] > rows[-1]["save_seconds"]


@pytest.mark.parametrize(
    ("stage", "zero_stage", "steps", "precision"),
    [
        ("reconstruct", 0, 1, "fp32"),
        ("reconstruct", 2, 3, "fp32"),
        ("finetune", 0, 2, "fp32"),
        ("finetune", 1, 2, "bf16"),
        ("finetune", 2, 2, "bf16"),
        ("reconstruct", 3, 2, "bf16"),
    ],
)
def test_a_stopped_and_resumed_run_ends_with_the_very_same_weights(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str, zero_stage: int, steps: int, precision: str
) -> None:
    changes: dict[str, Any] = {"zero_stage": zero_stage, "precision": precision}
    if zero_stage in (1, 3):
        changes["learning_rate"] = {"vision_tower": 1e-3, "projector": 1e-3, "llm": 1e-3}
    recipe = harness.make_recipe(home, **{stage: changes})
    unbroken = harness.train(recipe, stage, tmp_path / "unbroken", start=home / "start")
    with monkeypatch.context() as patch:
        stop_after(patch, steps)
        with pytest.raises(Interrupted, match=f"stopped after step {steps} of 4; saved in"):
            harness.train(recipe, stage, tmp_path / "broken", start=home / "start")
    resumed = harness.train(recipe, stage, tmp_path / "broken", start=home / "start")

    expected, found = harness.weights(unbroken), harness.weights(resumed)
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    rows = harness.metrics(resumed)
    assert [row["loss"] for row in harness.metrics(unbroken)] == [row["loss"] for row in rows]
    for row in rows:
        assert row["gradient_norms"].keys() == row["learning_rate"].keys()
        assert math.hypot(*row["gradient_norms"].values()) == pytest.approx(row["gradient_norm"], rel=1e-3)


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


def test_a_step_of_blanks_alone_stops_the_run_which_saves_nothing(home: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    harness.make_data(data, num_text=0)
    recipe = harness.make_recipe(data, data={**harness.make_recipe(data).data.model_dump(), "max_bad_images": 1000})
    (data / "images").rename(data / "elsewhere")
    with pytest.raises(RunError, match="none of the 4 images so far opened; the last one was .*png") as caught:
        harness.train(recipe, "finetune", tmp_path, start=home / "start")
    assert "nothing was trained, so no checkpoint was saved" in (caught.value.hint or "")
    assert not list((tmp_path / "finetune").rglob("step-*"))


def test_bad_pictures_are_limited_by_share_too_and_the_mended_run_counts_each_once(home: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    harness.make_data(data, num_text=0)
    whole = {index: (data / "images" / f"{index}.png").read_bytes() for index in range(4)}
    for index in whole:
        (data / "images" / f"{index}.png").write_bytes(b"")
    section = harness.make_recipe(data).data.model_dump() | {"max_bad_images": "20%"}
    recipe = harness.make_recipe(data, data=section, finetune={"batch": {"global_size": 6, "micro_size": 6}})
    with pytest.raises(RunError, match=r"of \d+ images failed to open, more than data.max_bad_images = 20%"):
        harness.train(recipe, "finetune", tmp_path, start=home / "start")
    for index in whole:
        (data / "images" / f"{index}.png").write_bytes(whole[index])
    stage_dir = harness.train(recipe, "finetune", tmp_path, start=home / "start")
    assert harness.metrics(stage_dir)[-1]["bad_images"] <= 1


def test_a_stage_of_which_every_sample_is_dropped_is_an_error_without_a_checkpoint(home: Path, tmp_path: Path) -> None:
    recipe = harness.make_recipe(home, finetune={"max_length": 70, "save_every": 1})
    with pytest.raises(RunError, match="no token was trained in 4 steps: 16 samples had nothing left to train"):
        harness.train(recipe, "finetune", tmp_path, start=home / "start")
    assert not list((tmp_path / "finetune").rglob("step-*"))


def test_a_save_that_cannot_be_completed_ends_the_run_within_a_step_and_the_last_one_stays(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = save.commit

    def full_at_the_second(unfinished: Path, destination: Path) -> None:
        if destination.name.endswith("2"):
            raise OSError(errno.ENOSPC, "No space left on device")
        commit(unfinished, destination)

    recipe = harness.make_recipe(home, finetune={"save_every": 1})
    with monkeypatch.context() as patch:
        patch.setattr(save, "commit", full_at_the_second)
        with pytest.raises(RunError, match=r"saving .*step-00000002 failed: disk full .*stays: .*step-00000001"):
            harness.train(recipe, "finetune", tmp_path, start=home / "start")
    stage_dir = harness.train(recipe, "finetune", tmp_path, start=home / "start")
    assert "resuming at step 2 of 4" in harness.events(stage_dir)
    assert [row["step"] for row in harness.metrics(stage_dir)] == [1, 2, 3, 4]


def poison(monkeypatch: pytest.MonkeyPatch, steps: set[int]) -> None:
    """Make the pictures of some steps not a number."""
    original = Trainer._step

    def step(self, number, micro_batches, counts, *, clock):  # type: ignore[no-untyped-def]
        if number in steps:
            micro_batches[0].pixel_values.fill_(float("nan"))
        return original(self, number, micro_batches, counts, clock=clock)

    monkeypatch.setattr(Trainer, "_step", step)


@pytest.mark.parametrize(("zero_stage", "precision"), [(0, "fp32"), (2, "fp32"), (2, "bf16")])
def test_a_step_that_is_not_finite_changes_nothing_and_names_its_samples(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, zero_stage: int, precision: str
) -> None:
    recipe = harness.make_recipe(home, finetune={"max_steps": 1, "zero_stage": zero_stage, "precision": precision})
    poison(monkeypatch, {0})
    stage_dir = harness.train(recipe, "finetune", tmp_path, start=home / "start")
    folders = (home / "start", stage_dir.latest_checkpoint())
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    before, after = (LlavaForConditionalGeneration.from_pretrained(f, dtype=dtype).state_dict() for f in folders)
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
    recipe = harness.make_recipe(home, finetune={"max_length": 101})
    last = harness.metrics(harness.train(recipe, "finetune", tmp_path, start=home / "start"))[-1]
    assert last["truncated_samples"] > 0
    assert last["dropped_samples"] > 0


def test_tensorboard_gets_the_losses_through_deepspeeds_monitor(home: Path, tmp_path: Path) -> None:
    recipe = harness.make_recipe(home, finetune={"max_steps": 1}).model_copy(update={"monitor": ("tensorboard",)})
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
