"""The data under a stopped stage: what counts as changed, and what a command does about it."""

import json
from pathlib import Path

import pytest

from croc_cli.errors import UsageError
from croc_cli.launch.data_record import data_changes, data_record, keep_data_record
from croc_cli.launch.stage_state import stage_state
from croc_cli.recipe.schema import Recipe
from croc_cli.run_dir import StageDir, write_json
from croc_cli.sources.read.manifest import FORM_VERSION
from tests.launch.make import recipe
from tests.launch.test_stage_state import made

ORDER = {"old": "6b3b2fdb61d0" + "0" * 52, "new": "0ffd7cb6e1d5" + "0" * 52}


def write_rows(file: Path, count: int, *, word: str = "a") -> None:
    turns = [{"from": "human", "value": "Say a word."}, {"from": "gpt", "value": word}]
    file.write_text(json.dumps([{"id": str(index), "conversations": turns} for index in range(count)]))


def recipe_of(folder: Path, *, epochs: int = 1, **changes: int) -> Recipe:
    source = {"kind": "llava_json", "path": str(folder / "data.json"), "image_folder": str(folder)}
    batch = {"finetune__batch__global_size": 4, "finetune__batch__micro_size": 4, "finetune__epochs": epochs}
    return recipe(data__finetune=source, **{"finetune__max_steps": None, **batch, **changes})


def stopped(folder: Path, by: Recipe, *, step: int = 3, finished: bool = False) -> StageDir:
    """Return a stage's folder that stopped after a step on 20 rows."""
    write_rows(folder / "data.json", 20)
    stage_dir = StageDir(folder / "finetune")
    (made(stage_dir, by, finished=finished, step=step) / "resume").mkdir()
    keep_data_record(by, "finetune", stage_dir, resumes=False)
    return stage_dir


def test_rows_that_were_added_are_refused_with_both_numbers(tmp_path: Path) -> None:
    stage_dir = stopped(tmp_path, recipe_of(tmp_path))
    assert stage_state(recipe_of(tmp_path), stage_dir, None) == "unfinished"
    write_rows(tmp_path / "data.json", 32)
    with pytest.raises(UsageError, match=r"has changed: .*data\.json has 32 rows now, it had 20") as caught:
        stage_state(recipe_of(tmp_path), stage_dir, None)
    assert "--accept-changed-data trains the rest of the schedule" in (caught.value.hint or "")
    assert stage_state(recipe_of(tmp_path), stage_dir, None, accept_changed_data=True) == "unfinished"


def test_other_rows_of_the_same_number_are_refused_and_a_copy_of_the_file_is_not(tmp_path: Path) -> None:
    stage_dir = stopped(tmp_path, recipe_of(tmp_path))
    write_rows(tmp_path / "data.json", 20)  # another time of change
    assert data_changes(recipe_of(tmp_path), "finetune", stage_dir) is None
    write_rows(tmp_path / "data.json", 20, word="b")
    with pytest.raises(UsageError, match=r"data\.json has other rows now, 20 as before"):
        stage_state(recipe_of(tmp_path), stage_dir, None)


def test_accepted_data_that_leaves_nothing_to_train_is_refused(tmp_path: Path) -> None:
    stage_dir = stopped(tmp_path, recipe_of(tmp_path))
    write_rows(tmp_path / "data.json", 12)
    with pytest.raises(UsageError, match=r"nothing is left to train: .* which is 3 steps, and .* has done 3"):
        stage_state(recipe_of(tmp_path), stage_dir, None, accept_changed_data=True)


def test_a_mix_that_was_made_again_is_refused_with_both_orders(tmp_path: Path) -> None:
    mix = tmp_path / "mix"
    mix.mkdir()

    def write_mix(order: str, *, source_sha: str = "aa") -> None:
        source = {"name": "mine", "path": "a.json", "rows_in": 20, "rows_out": 20, "sha256": source_sha, "files": []}
        write_json(
            mix / "manifest.json",
            {
                "form": FORM_VERSION,
                "name": "mix",
                "sources": [source],
                "rows": 20,
                "image_rows": 0,
                "text_rows": 20,
                "bytes": 1000,
                "duplicates": 0,
                "seed": 0,
                "order_sha256": order,
                "fingerprint": "",
                "data_root": "..",
                "made_with": "0.1",
                "notes": [],
            },
        )

    own = recipe(data__finetune={"kind": "mix", "path": str(mix)})
    write_mix(ORDER["old"])
    stage_dir = StageDir(tmp_path / "finetune")
    made(stage_dir, own, finished=False)
    keep_data_record(own, "finetune", stage_dir, resumes=False)
    assert data_changes(own, "finetune", stage_dir) is None
    write_mix(ORDER["new"])
    with pytest.raises(UsageError, match="order_sha256 is 0ffd7cb6e1d5 now, it was 6b3b2fdb61d0"):
        stage_state(own, stage_dir, None)
    write_mix(ORDER["old"], source_sha="bb")
    with pytest.raises(UsageError, match="was made again from other files of mine"):
        stage_state(own, stage_dir, None)


def test_drawn_data_and_stages_of_an_older_croc_have_nothing_to_compare(tmp_path: Path) -> None:
    assert data_record(recipe(), "finetune") == {}
    stage_dir = stopped(tmp_path, recipe_of(tmp_path))
    stage_dir.data_file.unlink()
    write_rows(tmp_path / "data.json", 32)
    assert stage_state(recipe_of(tmp_path), stage_dir, None) == "unfinished"


def test_a_finished_stage_resumes_where_more_steps_are_wanted(tmp_path: Path) -> None:
    stage_dir = stopped(tmp_path, recipe_of(tmp_path), step=5, finished=True)
    assert stage_state(recipe_of(tmp_path), stage_dir, None) == "finished"
    assert stage_state(recipe_of(tmp_path, finetune__max_steps=80), stage_dir, None) == "unfinished"
    assert stage_state(recipe_of(tmp_path, epochs=2), stage_dir, None) == "unfinished"
    for other in (recipe_of(tmp_path, finetune__max_steps=4), recipe_of(tmp_path, epochs=2, finetune__seed=1)):
        with pytest.raises(UsageError, match="was made with other settings: finetune"):
            stage_state(other, stage_dir, None)
    write_rows(tmp_path / "data.json", 32)
    with pytest.raises(UsageError, match="has 32 rows now, it had 20"):
        stage_state(recipe_of(tmp_path, epochs=2), stage_dir, None)


def test_a_stopped_stage_refuses_another_number_of_steps(tmp_path: Path) -> None:
    stage_dir = stopped(tmp_path, recipe_of(tmp_path))
    with pytest.raises(UsageError, match=r"other settings: finetune\.epochs"):
        stage_state(recipe_of(tmp_path, epochs=4), stage_dir, None)
