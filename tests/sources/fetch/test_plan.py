from pathlib import Path

import pytest

from croc_cli.errors import UsageError
from croc_cli.progress import size_text
from croc_cli.recipe.load import load_recipe
from croc_cli.recipe.schema import Recipe
from croc_cli.sources.fetch.plan import make_plan, sources_by_name, sources_of_recipe
from croc_cli.sources.known.catalog import find_source


def test_images_come_before_the_rows_that_name_them() -> None:
    names = [source.name for source in sources_by_name(["sharegpt4v-pt", "eval:pope"])]
    assert names == ["coco-train2017", "lcs558k-images", "sam-images", "sharegpt4v-pt", "coco-val2014", "eval:pope"]


def test_a_source_can_be_left_out_and_a_wrong_name_is_refused() -> None:
    names = [source.name for source in sources_by_name(["sharegpt4v-pt"], without=["sam-images"])]
    assert "sam-images" not in names
    with pytest.raises(UsageError, match="--without gqa-images: it is not part of this fetch"):
        sources_by_name(["sharegpt4v-pt"], without=["gqa-images"])
    with pytest.raises(UsageError, match="unknown source 'sam-image'"):
        sources_by_name(["sharegpt4v-pt"], without=["sam-image"])


def test_a_plan_adds_up_and_says_what_a_person_has_to_do(tmp_path: Path) -> None:
    plan = make_plan(sources_by_name(["sharegpt4v-pt"]), tmp_path / "not" / "there" / "yet")
    assert plan.download_bytes == sum(
        find_source(name).expected_bytes for name in ("coco-train2017", "lcs558k-images", "sam-images", "sharegpt4v-pt")
    )
    assert plan.disk_bytes < plan.download_bytes  # SA-1B's masks are thrown away
    assert plan.peak_bytes == plan.disk_bytes + 27_400_000_000
    assert plan.asks
    [note] = [note for planned in plan.sources for note in planned.notes]
    assert note.startswith("wants a form at https://ai.meta.com/datasets/segment-anything-downloads/: --sam-links")


def test_small_things_of_known_size_are_fetched_without_asking(tmp_path: Path) -> None:
    assert not make_plan([find_source("alpaca")], tmp_path).asks
    assert make_plan([find_source("firefly")], tmp_path).asks
    assert make_plan([find_source("eval:pope")], tmp_path).asks  # nobody knows its size


def mixed(**reconstruct: object) -> Recipe:
    recipe = load_recipe("nano").recipe.model_dump()
    recipe["data"] |= {
        "align": {"kind": "mix", "sources": {"captions": {"source": "lcs558k"}}},
        "reconstruct": {"kind": "mix", "sources": {"sharegpt4v-pt": reconstruct, "alpaca": {}, "mine": {"path": "m"}}},
    }
    return Recipe.model_validate(recipe)


def test_a_recipes_sources_are_those_of_its_mixes_with_the_images_that_filters_leave() -> None:
    recipe = mixed(filters={"not_image_prefixes": ["sam/"]})
    names = [source.name for source in sources_of_recipe(recipe)]
    assert names == ["lcs558k-images", "lcs558k", "coco-train2017", "sharegpt4v-pt", "alpaca"]


def test_the_sources_of_a_stage_that_is_off_are_not_wanted() -> None:
    recipe = mixed()
    off = recipe.model_copy(update={"reconstruct": recipe.reconstruct.model_copy(update={"enabled": False})})
    assert [source.name for source in sources_of_recipe(off)] == ["lcs558k-images", "lcs558k"]


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 B"), (999, "999 B"), (8_060_000, "8.06 MB"), (27_400_000_000, "27.4 GB"), (1_500_000_000_000, "1.5 TB")],
)
def test_sizes_are_written_in_powers_of_ten(size: int, text: str) -> None:
    assert size_text(size) == text
