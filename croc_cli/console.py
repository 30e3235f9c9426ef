"""What a command prints, and where: results on stdout, everything else on stderr, errors as one line and a hint."""

import os
import sys
import tempfile
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperGroup
from typer.exceptions import TyperException

from croc_cli.errors import EXIT_INTERRUPTED, EXIT_RUN_FAILED, EXIT_USAGE, CrocError
from croc_cli.redact import redact


def say(message: str) -> None:
    """Write one line to stderr."""
    print(redact(message), file=sys.stderr, flush=True)


def result(text: str) -> None:
    """Write a result to stdout."""
    print(redact(text), flush=True)


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
        file.write(redact("\n".join([" ".join(sys.argv), *traceback.format_exception(error)])))
    return Path(name)


def nearest_flags(error: TyperException, ctx: Any) -> str | None:
    """Return the hint for a misspelt flag: the flags of the command that look most like it."""
    flag = getattr(error, "option_name", None)
    where = getattr(error, "ctx", None) or ctx
    if flag is None or where is None:
        return None
    known = [name for parameter in where.command.get_params(where) for name in parameter.opts]
    near = get_close_matches(flag, known, n=2, cutoff=0.5)
    if near:
        return f"did you mean {' or '.join(near)}?"
    return f"`{where.command_path} --help` lists the flags"


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
        show_error(
            error.message if hasattr(error, "option_name") else error.format_message(),
            nearest_flags(error, ctx) or (f"`{where.command_path} --help` shows how it is used" if where else None),
        )
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
