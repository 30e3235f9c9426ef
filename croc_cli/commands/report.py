"""`croc report`: the page of one run or of several, and where answers look."""

from pathlib import Path
from typing import Annotated, Any

import typer

from croc_cli.commands.console import CrocGroup

_DEFAULT = "runs"


class ReportGroup(CrocGroup):
    """Takes `croc report RUN_DIR…` for a command of its own, beside the named ones."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put the hidden command's name before arguments that name no command."""
        if args and args[0] not in self.commands and args[0] not in ("-h", "--help"):
            args = [_DEFAULT, *args]
        return super().parse_args(ctx, args)


report_app = typer.Typer(
    cls=ReportGroup,
    help="Show what happened in runs, on one HTML page: croc report RUN_DIR... [--open].",
    epilog="Example: croc report runs/nano --open",
    no_args_is_help=True,
)

OpenOption = Annotated[bool, typer.Option("--open", help="Open the page in a browser")]
OutOption = Annotated[
    Path | None, typer.Option("--out", metavar="DIR", help="Folder of the page; left out: report/ in or beside the run")
]


@report_app.command(_DEFAULT, hidden=True)
def report_runs(
    run_dirs: Annotated[list[Path], typer.Argument(metavar="RUN_DIR...", help="Run folders, side by side")],
    out: OutOption = None,
    open_page: OpenOption = False,
) -> None:
    """Write the page of one run, or of several side by side, and name it."""
    from croc_cli.commands.console import result
    from croc_cli.report.run_page import write_report

    page = write_report(run_dirs, out=out)
    result(str(page))
    if open_page:
        show_page(page)


def show_page(page: Path) -> None:
    """Open a page in a browser; where there is no display, say so and leave it at its name."""
    import os
    import sys
    import webbrowser

    from croc_cli.commands.console import say

    has_display = sys.platform in ("darwin", "win32") or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    if not has_display or not webbrowser.open(page.resolve().as_uri()):
        say(f"no browser could be opened here; copy {page} to a machine with one, it needs nothing else")
