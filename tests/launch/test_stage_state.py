from pathlib import Path
from typing import Any

import pytest
import yaml

from croc_cli.errors import UsageError
from croc_cli.launch.stage_state import (
    differing_keys,
    find_start,
    fingerprint,
    move_aside,
    predecessor,
    stage_facts,
    stage_state,
)
from croc_cli.recipe.load import dump_recipe
from croc_cli.recipe.schema import Recipe
from croc_cli.run_dir import RunDir, StageDir, write_json
from tests.launch.make import recipe


def made(stage: StageDir, by: Recipe, *, finished: bool = True, step: int = 3, **metadata: Any) -> Path:
    """Write what a stage leaves behind."""
    checkpoint = stage.checkpoint(step)
    checkpoint.mkdir(parents=True)
    (checkpoint / "config.json").write_text("{}")
    write_json(checkpoint / "croc.json", {"weights_sha256": stage.name, **metadata})
    stage.recipe_file.write_text(dump_recipe(by))
    write_json(stage.summary_file, {"finished": finished})
    return checkpoint


def test_the_fingerprint_follows_what_decides_the_outcome_and_nothing_else() -> None:
    stock = fingerprint(recipe(), "align")
    assert fingerprint(recipe(align__max_steps=7), "align") != stock
    assert fingerprint(recipe(data__align__num_samples=7), "align") != stock
    assert fingerprint(recipe(model__vision_feature_layer=-1), "align") != stock
    assert fingerprint(recipe(finetune__max_steps=7), "align") == stock
    assert fingerprint(recipe(align__batch__micro_size=8), "align") == stock
    assert fingerprint(recipe(launch__threads_per_rank=1), "align") == stock


def test_a_stage_is_new_then_unfinished_then_finished(tmp_path: Path) -> None:
    stage = StageDir(tmp_path / "align")
    assert stage_state(recipe(), stage, None) == "new"
    made(stage, recipe(), finished=False)
    assert stage_state(recipe(), stage, None) == "unfinished"
    write_json(stage.summary_file, {"finished": True})
    assert stage_state(recipe(), stage, None) == "finished"


def test_a_folder_made_with_other_settings_is_refused_with_the_keys(tmp_path: Path) -> None:
    stage = StageDir(tmp_path / "reconstruct")
    made(stage, recipe())
    changed = recipe(reconstruct__pool__size=64, reconstruct__mask__ratio=0.5)
    assert differing_keys(changed, stage) == ["reconstruct.mask.ratio", "reconstruct.pool.size"]
    with pytest.raises(
        UsageError, match=r"other settings: reconstruct\.mask\.ratio, reconstruct\.pool\.size"
    ) as caught:
        stage_state(changed, stage, None)
    assert "--fresh" in (caught.value.hint or "")


def test_a_run_resumes_with_its_tower_trained_or_frozen_as_it_began(tmp_path: Path) -> None:
    frozen, trained = (recipe(finetune__learning_rate__vision_tower=rate) for rate in (None, 2e-6))
    for began, now in ((frozen, trained), (trained, frozen)):
        stage = StageDir(tmp_path / str(began.finetune.learning_rate.vision_tower) / "finetune")
        made(stage, began, finished=False)
        assert stage_state(began, stage, None) == "unfinished"
        with pytest.raises(UsageError, match=r"other settings: finetune\.learning_rate\.vision_tower"):
            stage_state(now, stage, None)
    nothing = recipe(finetune__learning_rate__vision_tower=0)
    assert stage_state(nothing, StageDir(tmp_path / "None" / "finetune"), None) == "unfinished"


def test_a_folder_of_an_older_croc_goes_on_where_new_keys_have_their_defaults(tmp_path: Path) -> None:
    stage = StageDir(tmp_path / "reconstruct")
    made(stage, recipe(), finished=False)
    old = yaml.safe_load(stage.recipe_file.read_text())
    del old["reconstruct"]["objectives"]["reconstruction_weight"], old["model"]["visual_norm"]
    old |= {"monitor": {"tensorboard": False, "wandb": None}}
    del old["tracking"], old["eval"]["during"]
    stage.recipe_file.write_text(yaml.safe_dump(old))
    assert stage_state(recipe(), stage, None) == "unfinished"
    other = recipe(reconstruct__objectives__reconstruction_weight=3)
    assert differing_keys(other, stage) == ["reconstruct.objectives.reconstruction_weight"]
    old["reconstruct"]["a_key_that_is_no_more"] = 1
    stage.recipe_file.write_text(yaml.safe_dump(old))
    assert "reconstruct.a_key_that_is_no_more" in differing_keys(recipe(), stage)


def test_a_folder_in_which_nothing_was_trained_is_no_obstacle(tmp_path: Path) -> None:
    stage = StageDir(tmp_path / "align")
    stage.root.mkdir()
    stage.recipe_file.write_text(dump_recipe(recipe()))
    assert stage_state(recipe(align__max_steps=7), stage, None) == "new"


def test_a_stage_that_started_from_other_weights_is_refused(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    start = made(run.stage("align"), recipe())
    made(run.stage("reconstruct"), recipe(), start={"weights_sha256": "align"})
    assert stage_state(recipe(), run.stage("reconstruct"), start) == "finished"
    write_json(start / "croc.json", {"weights_sha256": "other"})
    with pytest.raises(UsageError, match="started from other weights"):
        stage_state(recipe(), run.stage("reconstruct"), start)


def test_a_stage_starts_from_the_last_enabled_stage_before_it() -> None:
    assert predecessor(recipe(), "align") is None
    assert predecessor(recipe(), "finetune") == "reconstruct"
    assert predecessor(recipe(reconstruct__enabled=False), "finetune") == "align"
    assert predecessor(recipe(align__enabled=False), "reconstruct") is None
    assert predecessor(recipe(), "eval") == "finetune"


def test_a_missing_start_names_the_command_that_makes_it(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    with pytest.raises(
        UsageError, match="reconstruct starts from the checkpoint of align, which has not run"
    ) as caught:
        find_start(recipe(), run, "reconstruct", given=None, recipe_argument="mine.yaml")
    assert caught.value.hint == "`croc align mine.yaml` makes it; --from DIR starts from another checkpoint"
    made(run.stage("align"), recipe(), finished=False)
    with pytest.raises(UsageError, match="which is not finished"):
        find_start(recipe(), run, "reconstruct", given=None, recipe_argument="nano")
    write_json(run.stage("align").summary_file, {"finished": True})
    start = find_start(recipe(), run, "reconstruct", given=None, recipe_argument="nano")
    assert start == run.stage("align").checkpoint(3)


def test_a_start_given_by_hand_must_be_a_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--from .*nowhere: does not exist"):
        find_start(recipe(), RunDir(tmp_path), "align", given=tmp_path / "nowhere", recipe_argument="nano")
    with pytest.raises(UsageError, match="holds no config.json"):
        find_start(recipe(), RunDir(tmp_path), "align", given=tmp_path, recipe_argument="nano")


def test_an_old_folder_is_renamed_and_never_in_the_way_of_another(tmp_path: Path) -> None:
    stage = StageDir(tmp_path / "align")
    assert move_aside(stage) is None
    names = set()
    for _ in range(3):
        stage.root.mkdir()
        (stage.root / "metrics.jsonl").write_text("kept")
        aside = move_aside(stage)
        assert aside is not None
        assert (aside / "metrics.jsonl").read_text() == "kept"
        names.add(aside)
    assert len(names) == 3
    assert not stage.root.exists()


def test_a_damaged_recipe_of_an_earlier_start_has_no_facts_in_its_damaged_sections() -> None:
    damaged = {"data": "rows.json", "align": [1], "model": {"llm": "x"}}
    assert stage_facts(damaged, "align") == {"model.llm": "x"}
    assert stage_facts({"data": {"align": 7}}, "align") == {}
    assert stage_facts({"eval": "x"}, "eval") == {}
