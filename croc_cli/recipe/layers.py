"""Puts a recipe's values together: the chain of files, then the CROC_ environment, then flags; each with its origin."""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from croc_cli.errors import RecipeError
from croc_cli.names import NO_RECIPE_KEYS
from croc_cli.recipe.explain import key_paths
from croc_cli.recipe.find import find_recipe, shown_path
from croc_cli.recipe.issues import Issue, KeyPath, did_you_mean, dotted, nearest
from croc_cli.recipe.schema import Recipe
from croc_cli.recipe.values import plain_value
from croc_cli.recipe.yaml_file import YamlFile, read_yaml

MAX_CHAIN = 20
MAX_KEY_PARTS = 10
MAX_TEXT = 100_000
"""Files that extend one another, parts of a key, and characters of a value that is given as text."""
ENVIRONMENT_PREFIX = "CROC_"
NESTING = "__"
_OWN_KEYS = ("name", "description")
"""Keys that tell one recipe from another, so `extends` does not hand them down."""


class Origin(NamedTuple):
    """Where a value was set.

    Args:
        text: What users are shown: "recipes/nano.yaml:12", "CROC_RECONSTRUCT__POOL__SIZE" or "--pool-size".
        rank: Place among the layers; a higher one wins.
    """

    text: str
    rank: int


@dataclass
class Layers:
    """Values as far as they are put together, unchecked.

    Args:
        values: Nested mappings, keyed as the recipe is.
        origins: Origin of every key that was set, of mappings too.
        issues: What is wrong already: keys given twice, variables that match no key of a section.
        warnings: What changes nothing and was perhaps meant to: variables that name no section.
        rank: That of the newest layer.
    """

    values: dict[str, Any] = field(default_factory=dict)
    origins: dict[KeyPath, Origin] = field(default_factory=dict)
    issues: list[Issue] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    rank: int = 0

    def put(self, values: Mapping[str, Any], texts: Mapping[KeyPath, str]) -> None:
        """Lay values over the present ones: mappings merge, anything else replaces.

        A data source that says its `kind` is complete in itself, and replaces what was there as a whole.
        """
        self.rank += 1
        self._merge(self.values, values, (), texts)

    def _merge(
        self, into: dict[str, Any], values: Mapping[str, Any], path: KeyPath, texts: Mapping[KeyPath, str]
    ) -> None:
        for key, value in values.items():
            here = (*path, key)
            present = into.get(key)
            if isinstance(value, Mapping) and not (isinstance(present, dict) and "kind" not in value):
                if isinstance(present, dict):
                    self._forget(here)
                present = into[key] = {}
            self.origins[here] = Origin(texts.get(here, ""), self.rank)
            if isinstance(value, Mapping):
                self._merge(into[key], value, here, texts)
            else:
                if isinstance(present, dict):
                    self._forget(here)
                    self.origins[here] = Origin(texts.get(here, ""), self.rank)
                into[key] = value

    def _forget(self, path: KeyPath) -> None:
        for known in [known for known in self.origins if known[: len(path)] == path]:
            del self.origins[known]


def read_files(path: Path) -> Layers:
    """Read a recipe file and all that it extends, the farthest first.

    Raises:
        RecipeError: A file cannot be read, or `extends` leads nowhere or in a circle.
    """
    chain: list[YamlFile] = []
    seen: list[Path] = []
    following: Path | None = path
    while following is not None:
        seen.append(following.resolve())
        chain.append(read_yaml(following, label=shown_path(following)))
        following = _extended(chain[-1], following)
        if len(seen) > MAX_CHAIN:
            raise RecipeError(f"{_place(chain[-1])}: extends: a chain of more than {MAX_CHAIN} files")
        if following is not None and following.resolve() in seen:
            circle = " → ".join(shown_path(step) for step in [*seen[seen.index(following.resolve()) :], following])
            raise RecipeError(f"{_place(chain[-1])}: extends goes in a circle: {circle}")
    layers = Layers()
    for file in reversed(chain):
        values = {key: value for key, value in file.values.items() if file is chain[0] or key not in _OWN_KEYS}
        values.pop("extends", None)
        layers.put(values, {key: f"{file.label}:{line}" for key, line in file.lines.items()})
        layers.issues.extend(file.issues)
    return layers


def put_environment(layers: Layers, environ: Mapping[str, str]) -> None:
    """Lay the CROC_ variables over the files, each by pydantic-settings' own reading of nested names.

    A variable whose first word is a section, but which names none of its keys, is an issue, as a misspelt key in a file
    is one. Any other may belong to another program, so it is a warning.
    """
    own = {name for name in environ if name.upper().startswith(ENVIRONMENT_PREFIX)}
    for variable in sorted(own - NO_RECIPE_KEYS):
        path = tuple(variable[len(ENVIRONMENT_PREFIX) :].lower().split(NESTING))
        if path[0] in Recipe.model_fields:
            put_text(layers, path, environ[variable], origin=variable)
        else:
            nearby = _nearest_variable(variable)
            layers.warnings.append(f"{variable} is not a key of a recipe and changes nothing; {nearby}")


def _nearest_variable(variable: str) -> str:
    """Return the variable of a recipe key that a name most likely means, or how such a name is built."""
    known = {"_".join(path): path for path in key_paths()}
    near = nearest(variable[len(ENVIRONMENT_PREFIX) :].replace(NESTING, "_"), known)
    if near is not None:
        return f"did you mean {variable_of(known[near])}?"
    return f"keys are written like {variable_of(('align', 'batch', 'micro_size'))}"


def variable_of(path: KeyPath) -> str:
    """Return the environment variable of a recipe key: `CROC_RECONSTRUCT__POOL__SIZE`."""
    return ENVIRONMENT_PREFIX + NESTING.join(path).upper()


def put_text(layers: Layers, path: KeyPath, text: str, *, origin: str) -> None:
    """Lay one value given as text (a variable, or `--set key=value`) over the present ones.

    Args:
        layers: Changed in place.
        path: Key.
        text: A plain value, `null`, or JSON where the key takes a list or a mapping.
        origin: Shown as where the value came from.
    """
    if len(path) > MAX_KEY_PARTS or len(text) > MAX_TEXT:
        wrong = f"{len(path)} parts" if len(path) > MAX_KEY_PARTS else f"a value of {len(text):,} characters"
        layers.issues.append(Issue(path[:2], f"no key of a recipe has {wrong}", origin))
        return
    if path[0] not in Recipe.model_fields:
        message = f"unknown key; {did_you_mean(path[0], Recipe.model_fields)}"
        layers.issues.append(Issue(path, message, origin))
        return
    if path[0] == "monitor" and len(path) > 1:  # a key of earlier versions, see `croc_cli.recipe.renamed`
        put_value(layers, path, plain_value(text), origin=origin)
        return
    # pydantic-settings takes a tenth of a second to import, which most runs, without any such value, need not pay.
    from croc_cli.recipe.text_source import UnreadableText, read_text_value

    try:
        values = read_text_value(path, text)
    except UnreadableText as error:
        layers.issues.append(Issue(path, str(error), origin))
        return
    if path not in _paths(values):
        layers.issues.append(Issue(path, f"unknown key; {dotted(path[:-1])} holds one value, no keys", origin))
        return
    layers.put(values, dict.fromkeys(_paths(values), origin))


def put_value(layers: Layers, path: KeyPath, value: object, *, origin: str) -> None:
    """Lay one value that is already of its type (a flag's) over the present ones."""
    values: Any = value
    for key in reversed(path):
        values = {key: values}
    layers.put(values, dict.fromkeys(_paths(values), origin))


def own_environment() -> Mapping[str, str]:
    """Return the process environment."""
    return os.environ


def _extended(file: YamlFile, path: Path) -> Path | None:
    parent = file.values.get("extends")
    if parent is None:
        return None
    if not isinstance(parent, str):
        raise RecipeError(f"{_place(file)}: extends: must be the name or the file of one recipe, not {parent!r}")
    try:
        return find_recipe(parent, beside=path.parent)
    except RecipeError as error:
        raise RecipeError(f"{_place(file)}: extends: {error.message}", hint=error.hint) from error


def _place(file: YamlFile) -> str:
    return f"{file.label}:{file.lines[('extends',)]}"


def _paths(values: Mapping[str, Any], path: KeyPath = ()) -> Iterator[KeyPath]:
    for key, value in values.items():
        yield (*path, key)
        if isinstance(value, Mapping):
            yield from _paths(value, (*path, key))
