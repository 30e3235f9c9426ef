"""Reads one YAML file into plain values and remembers the line of every key.

A file is bounded in size, depth and number of values before anything is made of it: a few lines of aliases can stand
for gigabytes, and the parser takes a stack frame for each level.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from croc_cli.errors import RecipeError
from croc_cli.files import open_file
from croc_cli.recipe.issues import InvalidRecipe, Issue, KeyPath


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]  # libyaml is not everywhere
    """YAML 1.2's reading of plain values: `1e-3` is a number, `no` is a word, and `12:00:00` is not 43200."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012  (PyYAML's own protocol)


class _Dumper(yaml.SafeDumper):
    """Quotes whatever the loader would take for something else than text."""


MAX_BYTES = 1 << 20
MAX_DEPTH = 40
MAX_VALUES = 10_000
"""Values of a file, those counted again that an alias stands for; the largest file that ships has 400."""
_SCALAR_TAGS = tuple(f"tag:yaml.org,2002:{name}" for name in ("str", "int", "float", "bool", "null"))
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
        num_values: How many there are.
    """

    label: str
    values: dict[str, Any] = field(default_factory=dict)
    lines: dict[KeyPath, int] = field(default_factory=dict)
    issues: list[Issue] = field(default_factory=list)
    num_values: int = 0


def read_yaml(path: Path, *, label: str) -> YamlFile:
    """Read a file whose top is a mapping.

    Raises:
        RecipeError: The file cannot be read, is not YAML, is not a mapping, or is larger or deeper than any recipe; one
            line, with position.
    """
    try:
        with open_file(path) as stream:
            content = stream.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise RecipeError(f"{label} has more than {MAX_BYTES:,} bytes, the most that a recipe may have")
        text = content.decode("utf-8-sig")
    except OSError as error:
        raise RecipeError(f"{label} cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise RecipeError(f"{label} is not UTF-8 text (byte {error.start})") from error
    except ValueError as error:  # a null character in the path
        raise RecipeError(f"{label} cannot be read: {error}") from error
    file = YamlFile(label)
    try:
        _check_bounds(text, label)
        loader = _Loader(text)
        try:
            _fill(file, loader, loader.get_single_node())
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        position = f":{mark.line + 1}:{mark.column + 1}" if mark else ""
        raise RecipeError(
            f"{label}{position}: not valid YAML: {error.problem or error.context}",
            hint=_tab_hint(text, mark.line) if mark else None,
        ) from error
    except yaml.YAMLError as error:
        raise RecipeError(f"{label}: not valid YAML: {' '.join(str(error).split())}") from error
    return file


def _tab_hint(text: str, near: int) -> str | None:
    """Return what to do about a tab that indents the line of an error or one beside it; None where there is none."""
    lines = re.split(r"\r\n|[\n\r\x85\u2028\u2029]", text)  # as YAML counts them
    for number in (near, near - 1, near + 1):
        if 0 <= number < len(lines) and "\t" in lines[number][: len(lines[number]) - len(lines[number].lstrip())]:
            return f"line {number + 1} is indented with a tab; YAML takes spaces"
    return None


def _check_bounds(text: str, label: str) -> None:
    """Go through a file without making anything of it, and raise RecipeError where it is too deep or too long."""
    loader = _Loader(text)
    depth = count = 0
    try:
        while loader.check_event():
            event = loader.get_event()
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            count += isinstance(event, yaml.NodeEvent)
            if depth > MAX_DEPTH or count > MAX_VALUES:
                what = f"{MAX_DEPTH} levels" if depth > MAX_DEPTH else f"{MAX_VALUES:,} values"
                line = event.start_mark.line + 1
                raise RecipeError(f"{label}:{line}: has more than {what}, the most that a recipe may have")
    finally:
        loader.dispose()


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
    file.num_values += 1
    if file.num_values > MAX_VALUES or len(above) > MAX_DEPTH:
        raise RecipeError(f"{file.label}: its aliases stand for more than {MAX_VALUES:,} values or {MAX_DEPTH} levels")
    if node.tag not in (_SCALAR_TAGS if isinstance(node, yaml.ScalarNode) else _PLAIN_TAGS):
        raise yaml.MarkedYAMLError(problem=f"the tag {node.tag} has no place in a recipe", problem_mark=node.start_mark)
    inside = (*above, id(node))
    if isinstance(node, yaml.SequenceNode):
        return [_value(file, loader, item, path, inside) for item in node.value]
    if not isinstance(node, yaml.MappingNode):
        return _scalar(loader, node)
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


def _scalar(loader: Any, node: Any) -> Any:
    try:
        return loader.construct_object(node)
    except yaml.YAMLError:
        raise
    except Exception as error:  # of int, float or a dictionary: a tag that the text does not fit, or 5,000 digits
        kind = node.tag.rpartition(":")[2]
        shown = node.value if len(node.value) <= 40 else f"{node.value[:40]}…"
        raise yaml.MarkedYAMLError(
            problem=f"{shown!r} cannot be read as {kind}", problem_mark=node.start_mark
        ) from error
