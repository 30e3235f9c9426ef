"""Loads a recipe: files < CROC_ environment < flags, checked as a whole before anything heavy is imported."""

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from croc_cli.errors import UsageError
from croc_cli.names import DEFAULT_RECIPE
from croc_cli.recipe.checks import cross_check, notes
from croc_cli.recipe.explain import boolean_issues, issues_of
from croc_cli.recipe.find import find_recipe, shown_path
from croc_cli.recipe.issues import InvalidRecipe, Issue, KeyPath, dotted
from croc_cli.recipe.layers import Layers, Origin, own_environment, put_environment, put_text, put_value, read_files
from croc_cli.recipe.renamed import renamed
from croc_cli.recipe.repair import repaired
from croc_cli.recipe.schema import Recipe
from croc_cli.recipe.yaml_file import read_yaml, write_yaml

DEFAULT_ORIGIN = "default"
SETTING_FLAG = "--set"


@dataclass(frozen=True)
class LoadedRecipe:
    """A recipe that passed every check, and where its values came from.

    Args:
        recipe: Checked and frozen.
        origins: For each key that holds a value, such as "reconstruct.pool.size": "recipes/nano.yaml:12",
            "CROC_RECONSTRUCT__POOL__SIZE", "--pool-size" or "default".
        file: The recipe's own file, the last of its chain.
        notes: What is allowed, yet perhaps not meant; one line each.
        warnings: What changes nothing, though it looks as if it should; one line each.
    """

    recipe: Recipe
    origins: dict[str, str]
    file: Path
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def load_recipe(
    name_or_file: str | None = None,
    *,
    overrides: Mapping[str, tuple[object, str]] | None = None,
    environ: Mapping[str, str] | None = None,
) -> LoadedRecipe:
    """Load and check a recipe.

    Args:
        name_or_file: A shipped recipe's name ("nano", "ablations/pool-size-1") or a file; None is the default recipe.
        overrides: Values from flags, as `with_overrides` makes them: {"reconstruct.pool.size": (2048, "--pool-size")}.
        environ: Taken for the process environment where given.

    Raises:
        RecipeError: There is no such recipe, or its file is not YAML.
        InvalidRecipe: All that is wrong with it, each with key, file and line.
    """
    file = find_recipe(name_or_file or DEFAULT_RECIPE)
    layers = read_files(file)
    put_environment(layers, own_environment() if environ is None else environ)
    for key, (value, flag) in (overrides or {}).items():
        path = tuple(key.split("."))
        if flag == SETTING_FLAG:
            put_text(layers, path, str(value), origin=SETTING_FLAG)
        else:
            put_value(layers, path, value, origin=flag)
    if "name" not in layers.values:
        stem = "".join(letter if letter.isalnum() or letter in "._-" else "-" for letter in file.stem)
        layers.values["name"] = stem
        layers.origins[("name",)] = Origin(f"{shown_path(file)}'s own name", 0)
    _rename(layers)
    recipe = _checked(layers, shown_path(file))
    recipe._argument = name_or_file or DEFAULT_RECIPE
    return LoadedRecipe(recipe, _origins(recipe, layers), file, notes(recipe), tuple(layers.warnings))


def with_overrides(
    flags: Mapping[str, tuple[object | None, str]], settings: Sequence[str] = ()
) -> dict[str, tuple[object, str]]:
    """Return `load_recipe`'s overrides from a command's flags, leaving out those that were not given.

    Args:
        flags: Value and flag for each key: {"reconstruct.pool.size": (pool_size, "--pool-size")}; None = not given.
        settings: What `--set` was given: "reconstruct.pool.size=2048" each.

    Raises:
        UsageError: A setting has no "=".
    """
    given: dict[str, tuple[object, str]] = {}
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals or not key.strip():
            raise UsageError(f"--set {setting}: must be key=value", hint="for example --set reconstruct.pool.size=2048")
        given[key.strip()] = (text.strip(), SETTING_FLAG)
    given.update({key: (value, flag) for key, (value, flag) in flags.items() if value is not None})
    return given


def load_resolved(file: Path) -> Recipe:
    """Load a recipe that `dump_recipe` wrote into a run folder; nothing is laid over it.

    Raises:
        RecipeError: The file cannot be read, is not YAML, or does not hold a whole recipe.
    """
    content = read_yaml(file, label=str(file))
    try:
        recipe = Recipe.model_validate(renamed(content.values)[0])
    except ValidationError as error:
        found = [_with_line(issue, content.lines, content.label) for issue in issues_of(error, content.values)]
        raise InvalidRecipe(content.label, [*content.issues, *found]) from error
    recipe._argument = str(file)
    return recipe


def argument_of(recipe: Recipe) -> str:
    """Return what a command is given to load a recipe again: its file or its name, as it was typed, for a shell."""
    return shlex.quote(recipe._argument or recipe.name)


def dump_recipe(recipe: Recipe) -> str:
    """Return the recipe as YAML, every key written out."""
    return write_yaml(recipe.model_dump(mode="json"))


def _rename(layers: Layers) -> None:
    """Put keys of today in the place of those of earlier versions, and say so."""
    layers.values, moved = renamed(layers.values)
    origins = {earlier: layers.origins.pop(earlier) for earlier in moved if earlier in layers.origins}
    for earlier, origin in sorted(origins.items(), key=lambda one: one[1].rank):
        layers.origins[moved[earlier]] = origin
    if moved:
        first = min(origins.values(), key=lambda origin: origin.rank, default=Origin("", 0))
        names = " and ".join(dotted(earlier) for earlier in moved if len(earlier) == 2)
        new = {key[0]: layers.values[key[0]] for key in moved.values()}
        write = " and ".join(f"`{name}: {json.dumps(value)}`".replace('"', "") for name, value in new.items())
        layers.warnings.append(f"{first.text}: earlier versions had {names}; write {write}")


def _checked(layers: Layers, source: str) -> Recipe:
    """Return the recipe, or raise all that is wrong: single values, and what the rest of them says together."""
    wrong = boolean_issues(layers.values)
    recipe: Recipe | None = None
    try:
        recipe = Recipe.model_validate(layers.values)
    except ValidationError as error:
        known = {issue.path for issue in wrong}
        wrong += [issue for issue in issues_of(error, layers.values) if issue.path not in known]
    if wrong:
        recipe = repaired(layers.values, [issue.path for issue in wrong])
    paths = [issue.path for issue in wrong]
    together = [issue for issue in cross_check(recipe) if not _rests_on(issue, paths)] if recipe is not None else []
    found = [*layers.issues, *(_blamed(issue, layers) for issue in (*wrong, *together))]
    if found or recipe is None:
        raise InvalidRecipe(source, sorted(found, key=_place))
    return recipe


def _blamed(issue: Issue, layers: Layers) -> Issue:
    """Return the issue with the origin of what was set last among the values that it rests on."""
    origins = [origin for path in (issue.path, *issue.related) if (origin := layers.origins.get(path)) is not None]
    above = issue.path
    while not origins and above:  # a key that is missing: the line of the mapping that lacks it
        above = above[:-1]
        origins = [origin] if (origin := layers.origins.get(above)) is not None else []
    return issue.at(max(origins, key=lambda origin: origin.rank).text) if origins else issue


def _rests_on(issue: Issue, wrong: Sequence[KeyPath]) -> bool:
    involved = (issue.path, *issue.related)
    return any(path[: len(bad)] == bad or bad[: len(path)] == path for bad in wrong for path in involved)


def _place(issue: Issue) -> tuple[str, int]:
    file, _, line = issue.origin.rpartition(":")
    return (file, int(line)) if line.isdigit() else (issue.origin, 0)


def _with_line(issue: Issue, lines: Mapping[KeyPath, int], label: str) -> Issue:
    line = lines.get(issue.path)
    return issue.at(f"{label}:{line}" if line else label)


def _origins(recipe: Recipe, layers: Layers) -> dict[str, str]:
    found: dict[str, str] = {}

    def walk(values: Mapping[str, Any], path: KeyPath) -> None:
        for key, value in values.items():
            here = (*path, key)
            if isinstance(value, dict) and value:
                walk(value, here)
            else:
                origin = layers.origins.get(here)
                found[dotted(here)] = origin.text if origin is not None else DEFAULT_ORIGIN

    walk(recipe.model_dump(mode="json"), ())
    return found
