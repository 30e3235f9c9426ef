"""What is said of arguments that do not fit: whose flag it is, which flag is near, which value was likely meant."""

from difflib import get_close_matches
from typing import Any

from typer.exceptions import TyperException


def command_path(ctx: Any) -> str:
    """Return the command of a context as users type it."""
    return " ".join(ctx.command_path.split())


def flag_hint(flag: str, where: Any) -> str:
    """Return the hint for an unknown flag: whose it is, or the flags of the command that look most like it."""
    if owners := _owners(where.find_root().command, flag, "croc"):
        shown = " and ".join([", ".join(owners[:-1]), owners[-1]] if len(owners) > 1 else owners)
        return f"`{flag}` belongs to {shown}; `{command_path(where)} --help` lists its own"
    known = [name for parameter in where.command.get_params(where) for name in parameter.opts]
    near = get_close_matches(flag, known, n=2, cutoff=0.5)
    if near:
        return f"did you mean {' or '.join(near)}?"
    return f"`{command_path(where)} --help` lists the flags"


def _owners(command: Any, flag: str, path: str) -> list[str]:
    """Return the commands below one that have a flag, in the order of the help page and without the program's name."""
    found = []
    for name, inner in getattr(command, "commands", {}).items():
        inside = path if inner.hidden else f"{path} {name}"
        if any(flag in parameter.opts for parameter in inner.params):
            found.append(inside.removeprefix("croc "))
        found += _owners(inner, flag, inside)
    return list(dict.fromkeys(found))


def value_message(error: TyperException) -> str | None:
    """Return what is wrong with a flag's value, with the value and what was likely meant; None for other errors."""
    parameter, cause = getattr(error, "param", None), error.__cause__
    errors = getattr(cause, "errors", None)  # pydantic, which typer reads values with
    if parameter is None or errors is None:
        return None
    from croc_cli.recipe.issues import number_meant

    details = errors(include_url=False)[0]
    kind, value, bounds = details["type"], details["input"], details.get("ctx") or {}
    wanted = {
        "int_parsing": "must be a whole number",
        "int_from_float": "must be a whole number",
        "float_parsing": "must be a number",
        "less_than_equal": f"must be at most {_bound(bounds.get('le', 0))}",
        "greater_than_equal": f"must be at least {_bound(bounds.get('ge', 0))}",
    }.get(kind)
    if wanted is None:
        return None
    meant = number_meant(value, is_share=bounds.get("le") == 1, is_whole=kind.startswith("int"))
    flag = parameter.opts[0] if parameter.param_type_name == "option" else parameter.display_name_raw
    return f"{flag} {value}: {wanted}" + (f"; did you mean {meant}?" if meant is not None else "")


def _bound(value: float) -> str:
    """Return a bound as it is typed: whole numbers with all of their digits."""
    return str(int(value)) if value == int(value) else f"{value:g}"
