"""Turns pydantic's errors into issues in the recipe's own words: what is wrong, the value, what would fit."""

import types
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from croc_cli.recipe.issues import Issue, KeyPath, did_you_mean, nearest, number_meant
from croc_cli.recipe.schema import Recipe
from croc_cli.recipe.values import Section

MAX_ISSUES = 100
MAX_SHOWN = 80
"""Things that one message names at most, and characters or digits of a value in it."""


def issues_of(error: ValidationError, values: Any) -> list[Issue]:
    """Return one issue for each wrong key, without origins.

    Args:
        error: From validating `values` as a Recipe.
        values: What was validated.
    """
    found: dict[KeyPath, Issue] = {}
    for details in error.errors(include_url=False, include_context=True):
        if len(found) == MAX_ISSUES:  # a suggestion for each of ten thousand keys takes seconds
            break
        path, section, field = _locate(details["loc"], values)
        if path not in found:  # a union gives one error for each of its members, and one message says it all
            found[path] = _issue(path, section, field, details)
    return list(found.values())


def boolean_issues(values: dict[str, Any], section: type[Section] = Recipe, path: KeyPath = ()) -> list[Issue]:
    """Return an issue for each `true` or `false` given for a number, which pydantic would read as 1 or 0."""
    found: list[Issue] = []
    for key, value in values.items():
        field = section.model_fields.get(key)
        if field is None:
            continue
        here = (*path, key)
        inner = _section(field, value)
        if isinstance(value, dict) and inner is not None and _is_named(field):
            for name, named in value.items():
                found += boolean_issues(named, inner, (*here, name)) if isinstance(named, dict) else []
        elif isinstance(value, dict) and inner is not None:
            found += boolean_issues(value, inner, here)
        elif isinstance(value, bool) and {int, float} & set(_leaves(field.annotation)):
            found.append(Issue(here, f"must be {expected(field.annotation, field.metadata)}, not {shown(value)}"))
    return found


def key_paths(section: type[Section] = Recipe, path: KeyPath = ()) -> Iterator[KeyPath]:
    """Yield every key of a recipe that holds a value, as a path; keys of freely named entries are left out."""
    for name, field in section.model_fields.items():
        inner = [] if _is_named(field) else list(_sections(field.annotation))
        if not inner:
            yield (*path, name)
        for one in inner:
            yield from key_paths(one, (*path, name))


def expected(annotation: Any, metadata: Sequence[Any] = ()) -> str:
    """Return in words what a key takes: "a whole number above 0 or auto"."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return expected(arguments[0], [*_flat(arguments[1:]), *metadata])
    if origin in (Union, types.UnionType):
        if sections := list(_sections(annotation)):
            return expected(sections[0])
        return " or ".join("null" if member is type(None) else expected(member, metadata) for member in arguments)
    if origin is Literal:
        listed = ", ".join(str(choice) for choice in arguments)
        return f"one of {listed}" if len(arguments) > 1 else listed
    if annotation == dict[str, Any]:
        return "a mapping of keys"
    if origin is dict:
        return f"a mapping of names, each {expected(arguments[1])}"
    if origin is tuple:
        if arguments[-1] is Ellipsis:
            return f"a list, each item {expected(arguments[0])}"
        return f"a list of {len(arguments)}, each {expected(arguments[0])}"
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return "a mapping of keys"
    words = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
    return words[annotation] + _bounds(_flat(metadata))


def shown(value: Any) -> str:
    """Return a value as a message shows it, cut where it is long."""
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, int) and abs(value) > 10**MAX_SHOWN:  # of more digits than Python turns into text
        return f"a number of more than {MAX_SHOWN} digits"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    text = repr(value) if isinstance(value, str) else str(value)
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}…"


def _issue(path: KeyPath, section: type[Section] | None, field: FieldInfo | None, details: ErrorDetails) -> Issue:
    kind, value = details["type"], details["input"]
    if kind == "extra_forbidden":
        known = list(section.model_fields) if section is not None else []
        return Issue(path, f"unknown key; {did_you_mean(path[-1], known)}")
    if kind.startswith("union_tag"):
        kinds = details.get("ctx", {}).get("expected_tags", "llava_json, scenes, mix").replace("'", "")
        tag = value.get("kind") if isinstance(value, dict) else None
        wrong = "is missing" if tag is None else f"must be one of {kinds}, not {shown(tag)}"
        return Issue((*path, "kind"), wrong if tag is not None else f"{wrong}: one of {kinds}")
    if kind == "value_error":
        return Issue(path, f"{details['ctx']['error']}, not {shown(value)}")
    if field is None:
        return Issue(path, details["msg"])
    if kind == "missing" and isinstance(details["loc"][-1], str):
        told = f"; {field.description}" if field.description else ""
        return Issue(path, f"is missing: {expected(field.annotation, field.metadata)}{told}")
    if kind == "string_pattern_mismatch":
        return Issue(
            path, f"must be letters, digits, dots, dashes and underscores, as it names a folder, not {value!r}"
        )
    if kind == "value_error":
        return Issue(path, str(details.get("ctx", {}).get("error", details["msg"])))
    if kind == "string_too_long":
        return Issue(
            path, f"must have {details.get('ctx', {}).get('max_length')} characters at most, as it names a folder"
        )
    if kind == "finite_number":
        return Issue(path, f"must be finite, not {shown(value)}")
    wanted = expected(field.annotation, field.metadata)
    if kind == "less_than_equal" and (most := details.get("ctx", {}).get("le", 1)) > 1:
        wanted += f", at most {_number(most)}"
    message = f"must be {wanted}, not {shown(value)}"
    meant = _meant(field, value)
    return Issue(path, message + (f"; did you mean {meant}?" if meant is not None else ""))


def _meant(field: FieldInfo, value: Any) -> str | None:
    """Return the value that a wrong one most likely stands for, or None."""
    if isinstance(value, str):
        choices = [str(choice) for choice in _choices(field.annotation)]
        if choices and (match := nearest(value, choices)) is not None:
            return match
    leaves = set(_leaves(field.annotation))
    if not leaves & {int, float}:
        return None
    is_share = "from 0 to 1" in expected(field.annotation, field.metadata)
    return number_meant(value, is_share=is_share, is_whole=float not in leaves)


def _locate(loc: Sequence[int | str], values: Any) -> tuple[KeyPath, type[Section] | None, FieldInfo | None]:
    """Return key path, section that holds the key, and field, leaving out the tags that pydantic puts into `loc`."""
    path: KeyPath = ()
    section: type[Section] | None = Recipe
    field: FieldInfo | None = None
    is_named = False  # inside a mapping of names, a name follows before the next key
    inside = values
    for index, part in enumerate(loc):
        holder = section if field is None else _section(field, inside)
        if holder is None or not isinstance(part, str):
            break
        is_tag = isinstance(inside, dict) and part == inside.get("kind") and index < len(loc) - 1
        if field is not None and is_tag and len(list(_sections(field.annotation))) > 1:
            continue
        path = (*path, part)
        if field is not None and _is_named(field) and not is_named:
            inside, is_named = inside.get(part) if isinstance(inside, dict) else None, True
            continue
        section, field, is_named = holder, holder.model_fields.get(part), False
        inside = inside.get(part) if isinstance(inside, dict) else None
        if field is None:
            break
    return path, section, field


def _is_named(field: FieldInfo) -> bool:
    return get_origin(field.annotation) is dict


def _section(field: FieldInfo, inside: Any) -> type[Section] | None:
    sections = list(_sections(field.annotation))
    if len(sections) <= 1:
        return sections[0] if sections else None
    kind = inside.get("kind") if isinstance(inside, dict) else None
    fitting = [section for section in sections if kind in get_args(section.model_fields["kind"].annotation)]
    return fitting[0] if fitting else None


def _sections(annotation: Any) -> Iterator[type[Section]]:
    if isinstance(annotation, type) and issubclass(annotation, Section):
        yield annotation
    elif get_origin(annotation) is not Literal:
        for argument in get_args(annotation):
            yield from _sections(argument)


def _leaves(annotation: Any) -> Iterator[Any]:
    if get_origin(annotation) is Literal:
        yield from {type(choice) for choice in get_args(annotation)}
    elif get_args(annotation):
        for argument in get_args(annotation):
            yield from _leaves(argument)
    elif isinstance(annotation, type):
        yield annotation


def _choices(annotation: Any) -> Iterator[Any]:
    if get_origin(annotation) is Literal:
        yield from get_args(annotation)
    else:
        for argument in get_args(annotation):
            yield from _choices(argument)


def _flat(metadata: Sequence[Any]) -> list[Any]:
    return [part for item in metadata for part in (item.metadata if isinstance(item, FieldInfo) else [item])]


def _bounds(metadata: Sequence[Any]) -> str:
    above = [item.gt for item in metadata if getattr(item, "gt", None) is not None]
    least = [item.ge for item in metadata if getattr(item, "ge", None) is not None]
    most = [item.le for item in metadata if getattr(item, "le", None) is not None]
    if above:
        return f" above {_number(above[0])}"
    if least and most and most[0] <= 1:  # larger ones are bounds of reason, named where a value is above them
        return f" from {_number(least[0])} to {_number(most[0])}"
    return f" of {_number(least[0])} or more" if least else ""


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else f"{value:g}"
