"""The mixes that ship with croc: recipes/mixes/, one YAML file each, which may extend others."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from croc_cli.errors import RecipeError
from croc_cli.files import own_path
from croc_cli.recipe.find import MIXES_FOLDER, SUFFIXES, recipe_folder, shown_path
from croc_cli.recipe.issues import nearest
from croc_cli.recipe.layers import MAX_CHAIN
from croc_cli.recipe.schema import SourceRecipe
from croc_cli.recipe.values import Section
from croc_cli.recipe.yaml_file import read_yaml


class PresetFile(Section):
    """The content of one file of recipes/mixes/."""

    description: str = ""
    extends: tuple[str, ...] = ()
    sources: dict[str, SourceRecipe] = Field(default_factory=dict)


def preset_names() -> list[str]:
    """Return the names of the shipped mixes."""
    return sorted(path.stem for path in (recipe_folder() / MIXES_FOLDER).glob("*.yaml"))


def read_preset(name_or_file: str) -> tuple[str, dict[str, dict[str, Any]]]:
    """Return a preset's description and its sources' keys by name, those that it extends first.

    Raises:
        RecipeError: There is no such preset, or its file says what no preset may.
    """
    return _read(_find(name_or_file), (), {})


def lay_over(
    sources: Mapping[str, Mapping[str, Any]], over: Mapping[str, Mapping[str, Any]]
) -> dict[str, dict[str, Any]]:
    """Return sources with the keys of others laid over those of the same name."""
    merged = {name: dict(keys) for name, keys in sources.items()}
    for name, keys in over.items():
        below = merged.get(name, {})
        if "count" in keys or "fraction" in keys:  # one replaces the other
            below = {key: value for key, value in below.items() if key not in ("count", "fraction")}
        merged[name] = {**below, **keys}
    return merged


def _read(
    file: Path, above: tuple[Path, ...], known: dict[Path, tuple[str, dict[str, dict[str, Any]]]]
) -> tuple[str, dict[str, dict[str, Any]]]:
    label = shown_path(file)
    if file in above:
        circle = " → ".join(shown_path(step) for step in [*above, file])
        raise RecipeError(f"{label}: extends goes in a circle: {circle}")
    if file in known:  # read once, however many presets extend it
        return known[file]
    if len(above) >= MAX_CHAIN:
        raise RecipeError(f"{label}: extends: a chain of more than {MAX_CHAIN} files")
    content = read_yaml(file, label=label)
    try:
        preset = PresetFile.model_validate(content.values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = tuple(str(part) for part in first["loc"])
        line = content.lines.get(where)
        raise RecipeError(f"{label}{f':{line}' if line else ''}: {'.'.join(where)}: {first['msg']}") from error
    sources: dict[str, dict[str, Any]] = {}
    for name in preset.extends:
        sources = lay_over(sources, _read(_find(name), (*above, file), known)[1])
    own = {name: source.model_dump(exclude_defaults=True) for name, source in preset.sources.items()}
    known[file] = preset.description, lay_over(sources, own)
    return known[file]


def _find(name_or_file: str) -> Path:
    shipped = recipe_folder() / MIXES_FOLDER / f"{name_or_file}.yaml"
    if "/" not in name_or_file and shipped.is_file():
        return shipped
    path = own_path(name_or_file)
    if path.suffix in SUFFIXES and path.is_file():
        return path
    match = nearest(name_or_file, preset_names())
    raise RecipeError(
        f"unknown preset {name_or_file!r}",
        hint=f"did you mean {match}?" if match else f"one of {', '.join(preset_names())}, or a YAML file",
    )
