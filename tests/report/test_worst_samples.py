"""The samples with the highest loss, from run folders that no worker wrote."""

import json
from pathlib import Path
from typing import Any

import pytest

from croc_cli.errors import UsageError
from croc_cli.recipe.load import dump_recipe
from croc_cli.recipe.schema import Recipe
from croc_cli.report.worst_samples import format_worst, worst_samples
from croc_cli.run_dir import RunDir, StageDir
from croc_cli.sources.mix.mix import build_mix
from croc_cli.sources.mix.recipe_mix import mix_spec
from tests.launch.make import recipe as make_recipe


def write_rows(file: Path, count: int) -> None:
    file.write_text(
        json.dumps(
            [
                {
                    "id": f"r{number}",
                    "image": f"{number}.png",
                    "conversations": [
                        {"from": "human", "value": f"<image>\nquestion {number}"},
                        {"from": "gpt", "value": f"answer {number}"},
                    ],
                }
                for number in range(count)
            ]
        )
    )


def recipe_over(folder: Path, source: dict[str, Any]) -> Recipe:
    values = make_recipe().model_dump(mode="json")
    values["data"]["finetune"] = source
    values["data"]["root"] = str(folder)
    return Recipe.model_validate(values)


def stage_of(run: Path, recipe: Recipe, *ranks: list[tuple[int, dict[str, float]]]) -> StageDir:
    """Write a finetune stage whose ranks noted (step, id → loss)."""
    stage = RunDir(run).stage("finetune")
    (stage.root / "samples").mkdir(parents=True)
    stage.recipe_file.write_text(dump_recipe(recipe))
    for number, steps in enumerate(ranks):
        lines = [
            json.dumps(
                {"step": step, "ids": list(losses), "tokens": [7] * len(losses), "losses": list(losses.values())}
            )
            for step, losses in steps
        ]
        stage.samples_file(number).write_text("\n".join(lines) + '\n{"step": 9, "id')
    return stage


def test_the_worst_samples_of_all_ranks_are_shown_with_images_and_text(tmp_path: Path) -> None:
    write_rows(tmp_path / "data.json", 8)
    (tmp_path / "images").mkdir()
    source = {"kind": "llava_json", "path": str(tmp_path / "data.json"), "image_folder": str(tmp_path / "images")}
    recipe = recipe_over(tmp_path, source)
    first, second = [(1, {"r0#0": 9.0, "r1#1": 1.0}), (2, {"r0#0": 0.5})], [(1, {"r5#5": 3.25, "r6#6": 2.0})]
    stage_of(tmp_path / "run", recipe, first, second)
    found = worst_samples(tmp_path / "run", count=2)
    assert (found.stage, found.first_step, found.last_step, found.num_samples, found.note) == (
        "finetune",
        1,
        2,
        4,
        None,
    )
    assert [(one.id, one.step, one.loss) for one in found.samples] == [("r5#5", 1, 3.25), ("r6#6", 1, 2.0)]
    assert found.samples[0].images == (f"{tmp_path}/images/5.png",)
    text = format_worst(found, width=60)
    assert "finetune, steps 1 to 2: the worst 2 of 4 samples" in text
    assert " 3.250       7       1  r5#5" in text
    assert "human  <image> question 5" in text
    assert max(map(len, text.splitlines())) <= 60


def test_rows_of_a_mix_are_found_by_source_and_row(tmp_path: Path) -> None:
    write_rows(tmp_path / "a.json", 6)
    write_rows(tmp_path / "b.json", 6)
    (tmp_path / "images").mkdir()
    sources = {name: {"path": str(tmp_path / f"{name}.json"), "image_root": str(tmp_path / "images")} for name in "ab"}
    recipe = recipe_over(tmp_path, {"kind": "mix", "sources": sources, "path": str(tmp_path / "mix")})
    build_mix(mix_spec(recipe, "finetune"), tmp_path / "mix")
    stage_of(tmp_path / "run", recipe, [(1, {"b#4": 2.0, "a#4": 1.0, "gone#1": 3.0})])
    found = worst_samples(tmp_path / "run", count=3)
    assert [one.id for one in found.samples] == ["gone#1", "b#4", "a#4"]
    assert found.samples[0].turns == ()
    assert found.samples[1].turns[1] == ("gpt", "answer 4")


def test_only_the_last_steps_count_as_early_losses_are_high_whatever_the_sample(tmp_path: Path) -> None:
    steps = [(step, {f"scene-{step}": 10.0 - step / 100}) for step in range(1, 501)]
    stage_of(tmp_path / "run", make_recipe(), steps)
    found = worst_samples(tmp_path / "run", count=1)
    assert (found.first_step, found.samples[0].id) == (401, "scene-401")
    assert found.note is not None
    assert "drawn while training ran" in found.note
    assert worst_samples(tmp_path / "run", count=1, steps=1000).samples[0].id == "scene-1"


def test_data_that_has_gone_is_said_and_the_losses_are_shown_all_the_same(tmp_path: Path) -> None:
    source = {"kind": "llava_json", "path": str(tmp_path / "gone.json"), "image_folder": str(tmp_path)}
    stage_of(tmp_path / "run", recipe_over(tmp_path, source), [(1, {"r0#0": 9.0})])
    found = worst_samples(tmp_path / "run", count=1)
    assert found.samples[0].loss == 9.0
    assert found.note is not None
    assert "gone.json" in found.note


def test_a_run_without_losses_of_samples_is_an_error_that_says_which_stages_have_them(tmp_path: Path) -> None:
    stage_of(tmp_path / "run", make_recipe(), [(1, {"a": 1.0})])
    with pytest.raises(UsageError, match="align of .*run has no losses of samples") as found:
        worst_samples(tmp_path / "run", count=1, stage="align")
    assert found.value.hint == "it has those of finetune"
    with pytest.raises(UsageError, match="is not a folder"):
        worst_samples(tmp_path / "nothing", count=1)


def test_records_of_other_types_are_left_out(tmp_path: Path) -> None:
    stage = stage_of(tmp_path / "run", make_recipe(), [(3, {"scene-1": 1.5})])
    good = {"step": 4, "ids": ["a"], "tokens": [7], "losses": [2.0]}
    odd: list[Any] = [{"step": True}, {"step": "4"}, {"ids": [7]}, {"tokens": ["7"]}, {"losses": ["x"]}, {"ids": "a"}]
    odd += [{"losses": [float("nan")]}, {"losses": []}]
    with stage.samples_file(0).open("a") as file:
        file.write("\n" + "".join(json.dumps(good | one) + "\n" for one in odd) + "[" * 100_000 + "\n")
    stage.samples_file(1).mkdir()
    found = worst_samples(tmp_path / "run", count=9)
    assert [(one.id, one.loss) for one in found.samples] == [("scene-1", 1.5)]
    assert "scene-1" in format_worst(found, width=80)
