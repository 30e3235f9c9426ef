"""The groups of commands: errors end as one line and a hint, and a group may be a command as well."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import typer
from typer.core import TyperGroup
from typer.exceptions import TyperException

from croc_cli.commands.usage import command_path, flag_hint, value_message
from croc_cli.console import result, say, show_error, write_traceback
from croc_cli.errors import EXIT_INTERRUPTED, EXIT_RUN_FAILED, EXIT_USAGE, CrocError

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EIO)
_EXPLAINED = (
    *_FULL,
    errno.ENAMETOOLONG,
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.ELOOP,
    errno.EEXIST,
    errno.ENOTEMPTY,
)
"""Errors of the file system that say all there is to say; a file that is missing is for its reader to explain."""

DEFAULT_COMMAND = " "
"""Name of a group's default command, which nobody can type."""


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
    except OSError as error:
        # What no reader foresaw: a name that is too long, a folder in a file's place, a disk that is full.
        if error.filename is None or error.errno not in _EXPLAINED:
            _show_unexpected(error)
            raise typer.Exit(EXIT_RUN_FAILED) from error
        show_error(f"{error.filename}: {error.strerror}")
        raise typer.Exit(EXIT_RUN_FAILED if error.errno in _FULL else EXIT_USAGE) from error
    except Exception as error:
        _show_unexpected(error)
        raise typer.Exit(EXIT_RUN_FAILED) from error


def _show_unexpected(error: Exception) -> None:
    """Write the traceback to a file, and say so."""
    file = write_traceback(error)
    show_error(f"{type(error).__name__}: {error}".splitlines()[0], f"not expected; the full traceback is in {file}")


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
        if not is_named and (args or not (self.no_args_is_help or ctx.resilient_parsing)):
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
