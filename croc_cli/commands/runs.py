"""`croc runs`: all runs at a glance, and what may go from them."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from croc_cli.commands import complete
from croc_cli.commands.groups import DEFAULT_COMMAND, DefaultGroup

runs_app = typer.Typer(
    cls=DefaultGroup,
    help="List runs: stage and step, state, loss, speed, age, size, and the command that resumes each.",
    epilog="Example: croc runs runs --format json",
)

FoldersArgument = Annotated[
    list[Path] | None,
    typer.Argument(metavar="DIR", autocompletion=complete.runs, help="Run folders, or folders of them; default: runs"),
]


@runs_app.command(DEFAULT_COMMAND, hidden=True)
def list_command(
    folders: FoldersArgument = None,
    form: Annotated[str, typer.Option("--format", metavar="FORM", help="text or json")] = "text",
) -> None:
    """List runs and how to go on with them."""
    from json import dumps
    from shutil import get_terminal_size

    from croc_cli.console import result, say
    from croc_cli.errors import UsageError
    from croc_cli.report.run_list import as_json, list_runs, runs_table

    if form not in ("text", "json"):
        raise UsageError(f"--format {form}: unknown format", hint="text or json")
    runs = list_runs(folders or ())
    if form == "json":
        result(dumps(as_json(runs), indent=2, ensure_ascii=False))
        return
    if not runs:
        say("no runs yet; `croc demo` makes one in minutes")
        return
    result(runs_table(runs, width=get_terminal_size().columns if sys.stdout.isatty() else None))
    for run in runs:
        if run.command is not None:
            say(f"resume {run.folder}: `{run.command}`")


@runs_app.command(epilog="Example: croc runs prune runs/nano")
def prune(
    folders: FoldersArgument = None,
    yes: Annotated[bool, typer.Option("--yes", help="Remove without asking")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List what may go; remove nothing")] = False,
) -> None:
    """List what may go, with sizes, and ask: older checkpoints, resume state of finished stages, what was set aside."""
    from croc_cli.console import result, say
    from croc_cli.errors import RunError, UsageError
    from croc_cli.report.prune import prunable, remove
    from croc_cli.report.run_list import list_runs, size
    from croc_cli.report.terminal import format_table
    from croc_cli.words import counted

    runs = list_runs(folders or ())
    for run in runs:
        if run.state == "running":
            say(f"note: {run.folder} is running ({run.where}); nothing of it may go")
    found = prunable(runs)
    if not found:
        say("nothing may go")
        return
    total = f"{counted(len(found), 'folder')}, {size(sum(one.size_bytes for one in found))}"
    result(
        format_table(
            [["folder", "size", "what it is"], *([str(one.path), size(one.size_bytes), one.why] for one in found)]
        )
    )
    if dry_run:
        say(total)
        return
    if not yes:
        if not sys.stdin.isatty():
            raise UsageError(f"{total}: nothing was removed without a yes", hint="--yes removes without asking")
        sys.stderr.write(f"Remove {total}? [y/N] ")
        sys.stderr.flush()
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            say("nothing was removed")
            return
        now = {one.path for one in prunable(list_runs(folders or ()))}  # a run may have started before the answer came
        found = [one for one in found if one.path in now]
        total = f"{counted(len(found), 'folder')}, {size(sum(one.size_bytes for one in found))}"
    if problems := remove(found):
        raise RunError(f"not removed: {'; '.join(problems)}")
    say(f"removed {total}")
