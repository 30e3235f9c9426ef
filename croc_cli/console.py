"""What a command prints, and where: results on stdout, everything else on stderr, errors as one line and a hint."""

import os
import shutil
import sys
import tempfile
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

from croc_cli.redact import redact
from croc_cli.words import shown, wrapped

if TYPE_CHECKING:
    from croc_cli.recipe.load import LoadedRecipe


def say(message: str) -> None:
    """Write a message to stderr; on a terminal, its lines break between words."""
    _say(shown(message))


def _say(message: str) -> None:
    message = redact(message)
    if sys.stderr.isatty():
        message = wrapped(message, width=shutil.get_terminal_size().columns)
    print(message, file=sys.stderr, flush=True)


def with_warnings(loaded: "LoadedRecipe") -> "LoadedRecipe":
    """Write a recipe's warnings to stderr, and return the recipe."""
    for warning in loaded.warnings:
        say(f"warning: {warning}")
    return loaded


def say_notes(loaded: "LoadedRecipe") -> None:
    """Write to stderr what a user should know of a recipe that passed every check, before it is run."""
    for note in with_warnings(loaded).notes:
        say(f"note: {note}")


def say_next(*commands: str) -> None:
    """Write the commands that follow a command that went well."""
    for command in commands:
        say(f"next: `{command}`")


def result(text: str, *, is_styled: bool = False) -> None:
    """Write a result to stdout.

    Args:
        text: One line or several.
        is_styled: It has colours of croc's own, and its parts went through `shown`.
    """
    text = redact(text)
    print(text if is_styled else shown(text), flush=True)


def show_error(message: str, hint: str | None = None, *, label: str = "error") -> None:
    """Write an error and its hint to stderr, with coloured labels where stderr is a terminal that wants colour."""
    colour = sys.stderr.isatty() and not os.environ.get("NO_COLOR")
    red, cyan, plain = ("\033[1;31m", "\033[1;36m", "\033[0m") if colour else ("", "", "")
    _say(f"{red}{shown(label)}:{plain} {shown(message)}")
    if hint:
        _say(f"{cyan}hint:{plain} {shown(hint)}")


def write_traceback(error: BaseException) -> Path:
    """Write the traceback of an unexpected error to a file of its own and return the file."""
    descriptor, name = tempfile.mkstemp(prefix="croc-traceback-", suffix=".txt")
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(redact("\n".join([" ".join(sys.argv), *traceback.format_exception(error)])))
    return Path(name)
