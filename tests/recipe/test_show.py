from pathlib import Path

import yaml

from croc_cli.recipe.find import recipe_names
from croc_cli.recipe.load import load_recipe
from croc_cli.recipe.schema import Recipe
from croc_cli.recipe.show import render, shipped_recipes
from croc_cli.recipe.yaml_file import read_yaml


def test_what_is_shown_is_the_recipe_in_yaml(tmp_path: Path) -> None:
    for name in recipe_names():
        recipe = load_recipe(name, environ={})
        path = tmp_path / "shown.yaml"
        path.write_text(render(recipe), encoding="utf-8")
        read = Recipe.model_validate(read_yaml(path, label=name).values)
        assert read.model_dump() == recipe.recipe.model_dump()  # only how it was named differs


def test_any_yaml_reader_reads_it() -> None:
    values = yaml.safe_load(render(load_recipe("nano", environ={})))
    assert values["reconstruct"]["pool"]["size"] == 128


def test_each_value_is_followed_by_its_origin() -> None:
    overrides = {"reconstruct.pool.size": (64, "--pool-size")}
    lines = render(load_recipe("nano-nearest", overrides=overrides, environ={})).splitlines()
    [size] = [line for line in lines if line.strip().startswith("size:")]
    [matching] = [line for line in lines if line.strip().startswith("matching:")]
    assert size.split() == ["size:", "64", "#", "--pool-size"]
    assert matching.split() == ["matching:", "nearest", "#", "recipes/nano-nearest.yaml:7"]


def test_comments_are_dimmed_by_the_given_function() -> None:
    lines = render(load_recipe("nano", environ={}), dim=lambda text: f"<{text}>").splitlines()
    assert lines[0].split(maxsplit=2) == ["name:", "nano", "<# recipes/nano.yaml:3>"]


def test_every_shipped_recipe_is_listed_with_its_description() -> None:
    recipes = shipped_recipes()
    assert [recipe.name for recipe in recipes] == recipe_names()
    assert all(recipe.description for recipe in recipes)
    are_rows = ["/" in recipe.name for recipe in recipes]
    assert are_rows == sorted(are_rows), "ablations come last"
