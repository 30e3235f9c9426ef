"""What a command prints, and where: results on stdout, everything else on stderr, errors as one line and a hint."""

import os
import shutil
import sys
import tempfile
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from typer.core import TyperGroup
from typer.exceptions import TyperException

from croc_cli.commands.usage import command_path, flag_hint, value_message
from croc_cli.errors import EXIT_INTERRUPTED, EXIT_RUN_FAILED, EXIT_USAGE, CrocError
from croc_cli.words import wrapped

if TYPE_CHECKING:
    from croc_cli.recipe.load import LoadedRecipe

DEFAULT_COMMAND = " "
"""Name of a group's default command, which nobody can type."""


def say(message: str) -> None:
    """Write a message to stderr; on a terminal, its lines break between words."""
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


def result(text: str) -> None:
    """Write a result to stdout."""
    print(text, flush=True)


def show_error(message: str, hint: str | None = None, *, label: str = "error") -> None:
    """Write an error and its hint to stderr, with coloured labels where stderr is a terminal that wants colour."""
    colour = sys.stderr.isatty() and not os.environ.get("NO_COLOR")
    red, cyan, plain = ("\033[1;31m", "\033[1;36m", "\033[0m") if colour else ("", "", "")
    say(f"{red}{label}:{plain} {message}")
    if hint:
        say(f"{cyan}hint:{plain} {hint}")


def write_traceback(error: BaseException) -> Path:
    """Write the traceback of an unexpected error to a file of its own and return the file."""
    descriptor, name = tempfile.mkstemp(prefix="croc-traceback-", suffix=".txt")
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(" ".join(sys.argv) + "\n")
        file.write("".join(traceback.format_exception(error)))
    return Path(name)


@contextmanager
def error_boundary(ctx: Any) -> Iterator[None]:
    """Turn whatever a command raises into one line, a hint and an exit code.

    Raises:
        typer.Exit: With the code of a `CrocError`, 2 for wrong usage, 130 for Ctrl-C, 1 for anything unexpected.
    """
    try:
        yield
    except (typer.Exit, typer.Abort, BrokenPipeError, EOFError):
        raise
    except CrocError as error:
        show_error(error.message, error.hint)
        raise typer.Exit(error.exit_code) from error
    except TyperException as error:
        where = getattr(error, "ctx", None) or ctx
        if type(error).__name__ == "NoArgsIsHelpError":
            result(where.get_help())
            raise typer.Exit() from error
        flag = getattr(error, "option_name", None)
        hint = f"`{command_path(where)} --help` shows how it is used" if where else None
        if flag is not None and where is not None:
            hint = flag_hint(flag, where)
        show_error(error.message if flag else value_message(error) or error.format_message(), hint)
        raise typer.Exit(EXIT_USAGE) from error
    except KeyboardInterrupt as error:
        say("interrupted")
        raise typer.Exit(EXIT_INTERRUPTED) from error
    except Exception as error:
        file = write_traceback(error)
        show_error(f"{type(error).__name__}: {error}".splitlines()[0], f"not expected; the full traceback is in {file}")
        raise typer.Exit(EXIT_RUN_FAILED) from error


class CrocGroup(TyperGroup):
    """The group of all commands, with the error boundary around parsing and running."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse flags that stand before the command's name."""
        with error_boundary(ctx):
            return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        """Parse and run the command."""
        with error_boundary(ctx):
            return super().invoke(ctx)


class DefaultGroup(CrocGroup):
    """A group that is a command as well: arguments that name none of its commands go to its default command.

    `croc eval nano` and `croc eval list` both work; `croc eval --help` shows the default command's arguments and flags
    beside the names of the others.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put the default command's name before arguments that name no command."""
        is_named = args and (args[0] in self.commands or args[0] in ctx.help_option_names)
        if not is_named and (args or not self.no_args_is_help) and not ctx.resilient_parsing:
            args = [DEFAULT_COMMAND, *args]
        return super().parse_args(ctx, args)

    def format_usage(self, ctx: Any, formatter: Any) -> None:
        """Write both ways to call it."""
        formatter.write_usage(ctx.command_path, " ".join(self.commands[DEFAULT_COMMAND].collect_usage_pieces(ctx)))
        formatter.write_usage(ctx.command_path, " ".join(self.collect_usage_pieces(ctx)))

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the default command's arguments and flags, then the other commands."""
        self.commands[DEFAULT_COMMAND].format_options(ctx, formatter)
        self.format_commands(ctx, formatter)

    def shell_complete(self, ctx: Any, incomplete: str) -> list[Any]:
        """Complete the names of commands, and what the default command takes."""
        found = super().shell_complete(ctx, incomplete)
        inner = self.commands[DEFAULT_COMMAND]
        with inner.make_context(DEFAULT_COMMAND, [], parent=ctx, resilient_parsing=True) as inside:
            found += [one for parameter in inner.params for one in _completed(parameter, inside, incomplete)]
        return found


def _completed(parameter: Any, ctx: Any, incomplete: str) -> list[Any]:
    """Return the completions of an argument; flags complete themselves only where one was begun."""
    if parameter.param_type_name == "argument" and not incomplete.startswith("-"):
        return list(parameter.shell_complete(ctx, incomplete))
    return []
