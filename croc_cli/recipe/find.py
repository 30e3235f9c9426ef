"""Finds recipe files: by name among those that ship with croc, or by path."""

from pathlib import Path

import croc_cli
from croc_cli.errors import RecipeError
from croc_cli.files import own_path
from croc_cli.names import looks_like_path
from croc_cli.recipe.issues import nearest
from croc_cli.recipe.values import check_path, check_text

SUFFIXES = (".yaml", ".yml")
MIXES_FOLDER = "mixes"
"""Part of the shipped recipes' folder that holds presets of data, which are no recipes."""


def recipe_folder() -> Path:
    """Return the folder of the shipped recipes: inside the installed package, or beside it in a clone.

    Raises:
        RecipeError: The installation holds no recipes.
    """
    package = Path(croc_cli.__file__).resolve().parent
    for folder in (package / "recipes", package.parent / "recipes"):
        if folder.is_dir():
            return folder
    raise RecipeError(
        f"no recipes were found in {package / 'recipes'}", hint="install croc-cli again, or pass a recipe file"
    )


def recipe_names() -> list[str]:
    """Return the names of the shipped recipes, such as "nano" and "ablations/pool-size-1", ablations last."""
    folder = recipe_folder()
    files = (path.relative_to(folder) for path in folder.rglob("*.yaml"))
    names = [path.with_suffix("").as_posix() for path in files if path.parts[0] != MIXES_FOLDER]
    return sorted(names, key=lambda name: (name.count("/"), name))


def find_recipe(name_or_file: str, *, beside: Path | None = None) -> Path:
    """Return the file of a recipe.

    Args:
        name_or_file: A shipped recipe's name, or a path (anything that ends in .yaml or .yml, or is a file).
        beside: Folder that relative paths start from; default: the current one.

    Raises:
        RecipeError: There is no such recipe; the hint gives the nearest names.
    """
    try:
        check_path(check_text(name_or_file))
    except ValueError as error:
        shown = repr(name_or_file) if len(name_or_file) <= 80 else f"{name_or_file[:80]!r}…"
        raise RecipeError(f"recipe {shown} {error}") from error
    path = (beside or Path()) / own_path(name_or_file)
    if path.is_file():
        return path
    if path.suffix in SUFFIXES:
        raise RecipeError(f"recipe file {path} does not exist", hint=_hint(path.stem))
    shipped = recipe_folder() / f"{name_or_file}.yaml"
    if path.is_dir() and not shipped.is_file():
        raise RecipeError(f"{name_or_file} is a folder, not a recipe", hint="pass one of the recipe files in it")
    if looks_like_path(name_or_file):
        raise RecipeError(f"{path} does not exist", hint="a recipe is a YAML file, or a name of `croc recipes list`")
    if ".." not in shipped.parts and shipped.is_file():
        return shipped
    for suffix in SUFFIXES:
        if path.with_name(path.name + suffix).is_file():
            raise RecipeError(
                f"no recipe named {name_or_file!r}", hint=f"did you mean the file {name_or_file}{suffix}?"
            )
    raise RecipeError(f"no recipe named {name_or_file!r}", hint=_hint(name_or_file))


def shown_path(path: Path) -> str:
    """Return a recipe file as messages name it: `recipes/nano.yaml` for shipped ones, else from the current folder."""
    resolved = path.resolve()
    for root, prefix in ((recipe_folder().resolve(), "recipes/"), (Path.cwd().resolve(), "")):
        if resolved.is_relative_to(root):
            return prefix + resolved.relative_to(root).as_posix()
    return str(resolved)


def _hint(name: str) -> str:
    names = recipe_names()
    by_last_part = {known.rsplit("/", 1)[-1]: known for known in reversed(names)}
    match = nearest(name, names) or by_last_part.get(nearest(name.rsplit("/", 1)[-1], by_last_part) or "")
    return f"did you mean {match}?" if match else "`croc recipes list` names them all"
