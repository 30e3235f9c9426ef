"""Reads one YAML file into plain values and remembers the line of every key."""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from croc_cli.errors import RecipeError
from croc_cli.recipe.issues import InvalidRecipe, Issue, KeyPath


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]  # libyaml is not everywhere
    """YAML 1.2's reading of plain values: `1e-3` is a number, `no` is a word, and `12:00:00` is not 43200."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012  (PyYAML's own protocol)


class _Dumper(yaml.SafeDumper):
    """Quotes whatever the loader would take for something else than text."""


_PLAIN_TAGS = ("tag:yaml.org,2002:map", "tag:yaml.org,2002:seq")
_NUMBER_STARTS = list("-+0123456789.")
_FLOAT = re.compile(
    r"^([-+]?([0-9][0-9_]*\.[0-9_]*|\.[0-9]+|[0-9][0-9_]*(?=[eE]))([eE][-+]?[0-9]+)?"
    r"|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN))$"
)
for _tag, _pattern, _starts in (
    ("bool", re.compile(r"^(true|True|TRUE|false|False|FALSE)$"), list("tTfF")),
    ("null", re.compile(r"^(~|null|Null|NULL|)$"), ["~", "n", "N", ""]),
    ("int", re.compile(r"^[-+]?(0|[1-9][0-9_]*)$"), _NUMBER_STARTS),
    ("float", _FLOAT, _NUMBER_STARTS),
):
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", _pattern, _starts)
    _Dumper.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", _pattern, _starts)


@dataclass
class YamlFile:
    """The content of one file.

    Args:
        label: The file as messages name it.
        values: The mapping at its top.
        lines: Line of each key, counted from 1.
        issues: Keys that are given twice.
    """

    label: str
    values: dict[str, Any] = field(default_factory=dict)
    lines: dict[KeyPath, int] = field(default_factory=dict)
    issues: list[Issue] = field(default_factory=list)


def read_yaml(path: Path, *, label: str) -> YamlFile:
    """Read a file whose top is a mapping.

    Raises:
        RecipeError: The file cannot be read, is no YAML, or is no mapping; one line, with position.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise RecipeError(f"{label} cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise RecipeError(f"{label} is not UTF-8 text (byte {error.start})") from error
    file = YamlFile(label)
    try:
        loader = _Loader(text)
        try:
            _fill(file, loader, loader.get_single_node())
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        position = f":{mark.line + 1}:{mark.column + 1}" if mark else ""
        raise RecipeError(f"{label}{position}: not valid YAML: {error.problem or error.context}") from error
    except yaml.YAMLError as error:
        raise RecipeError(f"{label}: not valid YAML: {' '.join(str(error).split())}") from error
    return file


def write_yaml(value: Any, *, inline: bool = False) -> str:
    """Return a value as YAML that `read_yaml` reads back as it was.

    Args:
        value: Mappings, lists and plain values.
        inline: On one line, without a line end.
    """
    width = 10**6 if inline else 120
    text: str = yaml.dump(
        value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=width, default_flow_style=inline
    )
    return text.removesuffix("\n").removesuffix("\n...") if inline else text


def _fill(file: YamlFile, loader: Any, node: Any) -> None:
    if node is None:
        raise RecipeError(f"{file.label} is empty", hint="`croc recipes show nano` prints a recipe to start from")
    if not isinstance(node, yaml.MappingNode):
        raise RecipeError(f"{file.label} holds no keys: a recipe is a mapping of `key: value` lines")
    file.values = _value(file, loader, node, (), ())


def _value(file: YamlFile, loader: Any, node: Any, path: KeyPath, above: tuple[int, ...]) -> Any:
    if id(node) in above:
        raise InvalidRecipe(file.label, [Issue(path, "refers to itself", f"{file.label}:{node.start_mark.line + 1}")])
    if not isinstance(node, yaml.ScalarNode) and node.tag not in _PLAIN_TAGS:
        raise yaml.MarkedYAMLError(problem=f"the tag {node.tag} has no place in a recipe", problem_mark=node.start_mark)
    inside = (*above, id(node))
    if isinstance(node, yaml.SequenceNode):
        return [_value(file, loader, item, path, inside) for item in node.value]
    if not isinstance(node, yaml.MappingNode):
        return loader.construct_object(node)
    values: dict[str, Any] = {}
    for key_node, value_node in node.value:
        line = key_node.start_mark.line + 1
        key = str(key_node.value) if isinstance(key_node, yaml.ScalarNode) else "?"
        here = (*path, key)
        if key in values:
            message = f"given twice, first in line {file.lines[here]}"
            file.issues.append(Issue(here, message, f"{file.label}:{line}"))
            continue
        file.lines[here] = line
        values[key] = _value(file, loader, value_node, here, inside)
    return values
