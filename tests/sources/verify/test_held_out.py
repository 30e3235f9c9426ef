"""The draw of held-out rows."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from croc_cli.errors import UsageError
from croc_cli.recipe.schema import Recipe
from croc_cli.sources.mix.mix import build_mix
from croc_cli.sources.mix.recipe_mix import mix_folder, mix_spec
from croc_cli.sources.read.index import MixFolder
from croc_cli.sources.verify import held_out
from croc_cli.sources.verify.held_out import check_held_out, draw_rows, held_out_rows
from tests.launch.make import recipe as make_recipe


def write(folder: Path, name: str, images: list[str | None]) -> Path:
    rows: list[dict[str, Any]] = []
    for number, image in enumerate(images):
        question = "<image>\nWhat?" if image else "What?"
        turns = [{"from": "human", "value": question}, {"from": "gpt", "value": f"answer {number} of {name}"}]
        rows.append({"id": f"r{number}", "conversations": turns} | ({"image": image} if image else {}))
    (folder / "images").mkdir(exist_ok=True)
    (folder / name).write_text(json.dumps(rows))
    return folder / name


def recipe_over(folder: Path, source: dict[str, Any]) -> Recipe:
    values = make_recipe().model_dump(mode="json")
    values["data"] |= {"finetune": source, "root": str(folder)}
    return Recipe.model_validate(values)


def json_source(file: Path, held: Any) -> dict[str, Any]:
    images = str(file.parent / "images")
    return {"kind": "llava_json", "path": str(file), "image_folder": images, "held_out": held}


def test_rows_that_share_a_picture_are_held_out_together(tmp_path: Path) -> None:
    images = [f"{number // 3}.png" for number in range(30)] + [None] * 10
    recipe = recipe_over(tmp_path, json_source(write(tmp_path, "data.json", images), 8))
    rows = held_out_rows(recipe, "finetune")
    assert rows is not None
    assert len(rows.measured) == 8
    assert set(rows.measured) <= set(rows.kept_out)
    kept = {images[row] for row in rows.kept_out if images[row]}
    assert not kept & {images[row] for row in range(40) if row not in rows.kept_out}
    assert len(rows.kept_out) <= 16


def test_pictures_link_rows_through_others_and_the_order_of_rows_changes_nothing() -> None:
    linked = [(0, [10, 20]), (1, [20, 30]), (2, [30]), (3, [5]), (4, [40]), (5, [50])]
    rows = draw_rows(linked, 4, key="held_out")
    assert rows.kept_out.tolist() == [0, 1, 2, 3]  # by their least hashes: 5, then 10
    assert rows.measured.tolist() == [3, 0, 1, 2]
    again = draw_rows(linked[::-1], 4, key="held_out")
    assert again.kept_out.tolist() == rows.kept_out.tolist()


def test_a_picture_of_most_rows_is_trained_on_and_smaller_groups_are_drawn() -> None:
    rows = draw_rows([(row, [1]) for row in range(90)] + [(row, [row + 1]) for row in range(90, 100)], 4, key="k")
    assert rows.kept_out.tolist() == [90, 91, 92, 93]


@pytest.mark.parametrize(
    ("count", "pictures", "message"),
    [
        (10, 10, "data.finetune.held_out: 10 of 10 rows leave nothing to train on"),
        (512, 10, "data.finetune.held_out: 512 of 10 rows leave nothing to train on"),
        (4, 1, "data.finetune.held_out: 4 rows cannot be held out of 10: too many rows show the same pictures"),
    ],
)
def test_too_many_held_out_rows_are_refused_before_a_launch(
    tmp_path: Path, count: int, pictures: int, message: str
) -> None:
    file = write(tmp_path, "data.json", [f"{number % pictures}.png" for number in range(10)])
    with pytest.raises(UsageError, match=re.escape(message)) as found:
        check_held_out(recipe_over(tmp_path, json_source(file, count)), "finetune")
    assert found.value.hint is not None
    assert "held_out: {path: FILE" in found.value.hint


def test_the_rows_of_a_mix_are_given_by_their_place_in_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(held_out, "CACHED_BYTES", 1)
    images = str(tmp_path / "images")
    paths = {name: write(tmp_path, f"{name}.json", [f"{n}.png" for n in range(6)] + [None] * 6) for name in "ab"}
    sources = {name: {"path": str(path), "image_root": images} for name, path in paths.items()}
    recipe = recipe_over(tmp_path, {"kind": "mix", "sources": sources, "path": str(tmp_path / "mix"), "held_out": 6})
    build_mix(mix_spec(recipe, "finetune"), mix_folder(recipe, "finetune"))
    rows = held_out_rows(recipe, "finetune")
    assert rows is not None
    mix = MixFolder(mix_folder(recipe, "finetune"))
    shown = [mix.row(position).get("image") for position in rows.kept_out.tolist()]
    trained = {mix.row(place).get("image") for place in range(24) if place not in rows.kept_out} - {None}
    assert not trained & set(shown)  # both sources show the same pictures
    monkeypatch.setattr(held_out, "draw_rows", lambda *_, **__: pytest.fail("drawn twice"))
    again = held_out_rows(recipe, "finetune")
    assert again is not None
    assert np.array_equal(again.measured, rows.measured)


def test_a_file_of_its_own_must_share_nothing_with_the_training_data(tmp_path: Path) -> None:
    file = write(tmp_path, "data.json", ["a.png", "b.png", None])
    images = str(tmp_path / "images")
    apart = write(tmp_path, "apart.json", ["c.png", None])
    check_held_out(recipe_over(tmp_path, json_source(file, {"path": str(apart), "image_folder": images})), "finetune")
    other = write(tmp_path, "other.json", ["c.png", "b.png"])
    shared = json_source(file, {"path": str(other), "image_folder": f"{images}/../images"})
    with pytest.raises(UsageError, match=r"1 rows of .*other.json are in the training data too, such as its row 1"):
        check_held_out(recipe_over(tmp_path, shared), "finetune")
    same_text = json_source(file, {"path": str(file), "image_folder": str(tmp_path)})
    with pytest.raises(UsageError, match="row 2"):
        check_held_out(recipe_over(tmp_path, same_text), "finetune")


def test_a_file_that_is_not_there_or_not_sound_is_named(tmp_path: Path) -> None:
    file = write(tmp_path, "data.json", ["a.png", "b.png"])
    gone = json_source(file, {"path": str(tmp_path / "gone.json"), "image_folder": str(tmp_path)})
    with pytest.raises(UsageError, match=r"data.finetune.held_out.path: .*gone.json is not there"):
        check_held_out(recipe_over(tmp_path, gone), "finetune")
    (tmp_path / "bad.json").write_text('[{"id": "x"}]')
    bad = json_source(file, {"path": str(tmp_path / "bad.json"), "image_folder": str(tmp_path)})
    with pytest.raises(UsageError, match=r"bad.json, row 0"):
        check_held_out(recipe_over(tmp_path, bad), "finetune")
