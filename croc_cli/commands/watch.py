"""`croc watch`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from croc_cli.commands import complete

if TYPE_CHECKING:
    from croc_cli.report.live_page import LivePage

EPILOG = "Example: croc watch runs/nano --page"
LIVE_SECONDS, PLAIN_SECONDS = 1.0, 10.0


def watch(
    run_dirs: Annotated[
        list[Path],
        typer.Argument(metavar="RUN_DIR", autocompletion=complete.runs, help="Run folders, or folders of them"),
    ],
    once: Annotated[bool, typer.Option("--once", help="Show the runs once and exit")] = False,
    page: Annotated[
        bool, typer.Option("--page", help="Also update the report and serve it on this machine only")
    ] = False,
    port: Annotated[
        int, typer.Option("--port", min=0, max=65535, metavar="N", help="Port of the page; 0 picks a free one")
    ] = 0,
) -> None:
    """Watch runs from their files: losses, speed, pool, ranks, warnings, disk; Ctrl-C ends it, not the runs."""
    import sys
    from contextlib import suppress

    from croc_cli.console import result
    from croc_cli.report.run_list import list_runs
    from croc_cli.report.watch import plain_line

    folders = [Path(run.folder) for run in list_runs(run_dirs)] or list(run_dirs)
    live = sys.stdout.isatty()
    if once and not page:
        result("\n".join(map(plain_line, folders)) if not live else _frame(folders))
        return
    server = _start_page(folders, port) if page else None
    try:
        with suppress(KeyboardInterrupt):
            _watch_live(run_dirs, folders) if live else _watch_plain(run_dirs, folders, endless=page)
    finally:
        if server is not None:
            server.close()


def _frame(folders: list[Path]) -> str:
    from shutil import get_terminal_size

    from croc_cli.report.watch import frame

    return frame(folders, width=get_terminal_size().columns)


def _start_page(folders: list[Path], port: int) -> "LivePage":
    from croc_cli.console import say
    from croc_cli.report.live_page import LivePage
    from croc_cli.report.run_page import REPORT_FOLDER

    out = folders[0] / REPORT_FOLDER if len(folders) == 1 else folders[0].resolve().parent / REPORT_FOLDER
    server = LivePage(folders, out, port=port)
    server.follow()
    say(f"page: {server.address}")
    return server


def _add_new_runs(run_dirs: list[Path], folders: list[Path]) -> None:
    """Add the runs that have appeared in the given folders; the page's server holds the same list."""
    from croc_cli.report.run_data import find_runs

    found = [run for folder in run_dirs for run in find_runs(folder)]
    if found:
        folders[:] = list(dict.fromkeys([*(folder for folder in folders if folder not in run_dirs), *found]))


def _watch_live(run_dirs: list[Path], folders: list[Path]) -> None:
    """Draw the runs over themselves until Ctrl-C."""
    import time

    from rich.live import Live
    from rich.text import Text

    with Live(auto_refresh=False) as live:
        while True:
            _add_new_runs(run_dirs, folders)
            live.update(Text(_frame(folders), no_wrap=True), refresh=True)
            time.sleep(LIVE_SECONDS)


def _watch_plain(run_dirs: list[Path], folders: list[Path], *, endless: bool) -> None:
    """Print a line for each run that changed, until none runs any more; endless: until Ctrl-C."""
    import time

    from croc_cli.console import result
    from croc_cli.report.run_list import run_state
    from croc_cli.report.watch import plain_line

    before: dict[Path, str] = {}
    while True:
        _add_new_runs(run_dirs, folders)
        for folder in folders:
            line = plain_line(folder)
            if before.get(folder) != line:
                result(line)
                before[folder] = line
        if not endless and all(run_state(folder, measure=False).state != "running" for folder in folders):
            return
        time.sleep(PLAIN_SECONDS)
