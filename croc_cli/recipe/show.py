"""Shows recipes: a resolved one as YAML with where each value came from, and the list of those that ship."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from croc_cli.recipe.find import find_recipe, recipe_names
from croc_cli.recipe.issues import KeyPath, dotted
from croc_cli.recipe.load import LoadedRecipe
from croc_cli.recipe.yaml_file import read_yaml, write_yaml
from croc_cli.words import shown

_COMMENT_COLUMN = 52
_INDENT = "  "


class ShippedRecipe(NamedTuple):
    """One line of `croc recipes list`."""

    name: str
    description: str


def shipped_recipes() -> list[ShippedRecipe]:
    """Return the recipes that ship with croc, ablations last; reads their descriptions and checks nothing."""
    return [ShippedRecipe(name, _description(find_recipe(name))) for name in recipe_names()]


def render(loaded: LoadedRecipe, *, dim: Callable[[str], str] = str) -> str:
    """Return a resolved recipe as YAML, each value followed by a comment that says where it came from.

    Args:
        loaded: The recipe.
        dim: Applied to the comments, to set them back on a terminal.
    """
    lines = []
    for text, origin in _lines(loaded.recipe.model_dump(mode="json"), loaded.origins, ()):
        comment = f"  {dim(f'# {shown(origin)}')}" if origin else ""
        lines.append(f"{shown(text):<{_COMMENT_COLUMN if origin else 0}}{comment}")
    return "\n".join(lines) + "\n"


def _lines(values: Mapping[str, Any], origins: Mapping[str, str], path: KeyPath) -> Iterator[tuple[str, str]]:
    indent = _INDENT * len(path)
    for key, value in values.items():
        here = (*path, key)
        if isinstance(value, dict) and value:
            if not path:
                yield "", ""
            yield f"{indent}{key}:", ""
            yield from _lines(value, origins, here)
        else:
            yield f"{indent}{key}: {write_yaml(value, inline=True)}", origins[dotted(here)]


def _description(file: Path) -> str:
    description = read_yaml(file, label=str(file)).values.get("description", "")
    return str(description)
