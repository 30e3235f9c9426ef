"""How often the held-out loss is measured."""

import pytest

from croc_cli.errors import RecipeError
from croc_cli.recipe.held_out import steps_between_measurements
from croc_cli.recipe.load import load_recipe
from croc_cli.recipe.schema import Recipe


def recipe(**settings: object) -> Recipe:
    overrides = {key.replace("__", "."): (value, "a test") for key, value in settings.items()}
    return load_recipe("nano", overrides=overrides, environ={}).recipe


def test_two_passes_of_half_a_sample_each_take_two_percent_of_the_time() -> None:
    section = recipe(align__batch__global_size=64, align__batch__micro_size=64).align
    steps = steps_between_measurements(section, 128)
    assert steps == 100
    assert 128 / (steps * section.batch.global_size) == 0.02
    assert steps_between_measurements(recipe(align__validate_every=7).align, 128) == 7


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("data__align__held_out", "many", "must be a number of samples such as 512, or a file"),
        ("data__align__held_out", 0, "data.align.held_out.count: must be a whole number above 0"),
        ("data__align__held_out", {}, "data.align.held_out: has neither a count nor a path"),
        ("data__align__held_out", {"count": 3, "path": "a"}, "data.align.held_out: has both a count and a path"),
        ("data__align__held_out", {"path": "a"}, "data.align.held_out.image_folder: is missing"),
        ("align__validate_every", 0, "align.validate_every: must be a whole number above 0"),
    ],
)
def test_what_is_no_held_out_set_is_refused_with_its_key(key: str, value: object, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        recipe(**{key: value})
