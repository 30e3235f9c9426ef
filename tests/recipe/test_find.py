from pathlib import Path

import pytest

import croc_cli
from croc_cli.errors import RecipeError
from croc_cli.recipe.find import find_recipe, recipe_folder, recipe_names, shown_path
from croc_cli.recipe.load import load_recipe


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make the package look as if installed from a wheel: recipes inside it, no clone around it."""
    package = tmp_path / "site-packages" / "croc_cli"
    (package / "recipes" / "ablations").mkdir(parents=True)
    monkeypatch.setattr(croc_cli, "__file__", str(package / "__init__.py"))
    return package


def test_a_clone_finds_the_recipes_beside_the_package() -> None:
    assert recipe_folder() == Path(__file__).parents[2] / "recipes"
    assert find_recipe("nano") == recipe_folder() / "nano.yaml"
    assert find_recipe("ablations/pool-size-1") == recipe_folder() / "ablations" / "pool-size-1.yaml"


def test_an_installed_croc_finds_the_recipes_inside_the_package(wheel: Path) -> None:
    clone = Path(__file__).parents[2] / "recipes"
    for name in ("croc-7b", "ablations/pool-size-1"):
        (wheel / "recipes" / f"{name}.yaml").write_bytes((clone / f"{name}.yaml").read_bytes())
    loaded = load_recipe("ablations/pool-size-1", environ={})
    assert loaded.file == wheel / "recipes" / "ablations" / "pool-size-1.yaml"
    assert loaded.origins["model.llm"].startswith("recipes/croc-7b.yaml:")
    assert recipe_names() == ["croc-7b", "ablations/pool-size-1"]


def test_an_installation_without_recipes_says_so(wheel: Path) -> None:
    for folder in (wheel / "recipes" / "ablations", wheel / "recipes"):
        folder.rmdir()
    with pytest.raises(RecipeError, match="no recipes were found in"):
        find_recipe("nano")


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("croc7b", "did you mean croc-7b?"),
        ("nanno", "did you mean nano?"),
        ("pool-size-1", "did you mean ablations/pool-size-1?"),
        ("Smol", "did you mean smol?"),
        ("zzz", "`croc recipes list` names them all"),
    ],
)
def test_an_unknown_name_is_answered_with_the_nearest(name: str, hint: str) -> None:
    with pytest.raises(RecipeError) as caught:
        find_recipe(name)
    assert caught.value.message == f"no recipe named {name!r}"
    assert caught.value.hint == hint


def test_no_name_leads_out_of_the_folder() -> None:
    with pytest.raises(RecipeError, match="no recipe named"):
        find_recipe("ablations/../nano")


def test_a_file_is_taken_as_it_is_and_a_missing_one_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text("extends: nano")
    assert load_recipe("mine.yaml", environ={}).recipe.name == "mine"
    assert shown_path(Path("mine.yaml")) == "mine.yaml"
    with pytest.raises(RecipeError, match=r"recipe file yours\.yml does not exist"):
        find_recipe("yours.yml")


def test_a_folder_is_no_recipe(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="is a folder, not a recipe"):
        find_recipe(str(tmp_path))


def test_a_folder_of_the_same_name_does_not_hide_a_shipped_recipe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "nano").mkdir()
    assert find_recipe("nano") == recipe_folder() / "nano.yaml"
