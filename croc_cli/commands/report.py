"""`croc report`: the page of one run or of several, where answers look, and the samples with the highest loss."""

from pathlib import Path
from typing import Annotated

import typer

from croc_cli.commands import complete
from croc_cli.commands.groups import DEFAULT_COMMAND, DefaultGroup
from croc_cli.commands.options import MOST

report_app = typer.Typer(
    cls=DefaultGroup,
    help="Show what happened in runs, on one HTML page: croc report RUN_DIR... [--open].",
    epilog="Example: croc report runs/nano --open",
    no_args_is_help=True,
)

OpenOption = Annotated[bool, typer.Option("--open", help="Open the page in a browser")]
OutOption = Annotated[
    Path | None, typer.Option("--out", metavar="DIR", help="Folder of the page; default: report/ in or beside the run")
]


@report_app.command(DEFAULT_COMMAND, hidden=True)
def report_runs(
    run_dirs: Annotated[
        list[Path], typer.Argument(metavar="RUN_DIR", autocompletion=complete.runs, help="Run folders, side by side")
    ],
    out: OutOption = None,
    open_page: OpenOption = False,
    with_model: Annotated[
        bool, typer.Option("--model/--no-model", help="Run pictures through stage 1.5 in a worker, once per run")
    ] = True,
    limit: Annotated[
        list[str] | None,
        typer.Option("--limit", metavar="NAME=VALUE", help="Threshold of a finding, such as padding=0.3. Repeatable"),
    ] = None,
) -> None:
    """Write the page of one run, or of several side by side, and name it."""
    from croc_cli.console import result, say
    from croc_cli.pipeline.figures import compute_model_figures
    from croc_cli.report.findings import parse_limits
    from croc_cli.report.run_data import find_runs
    from croc_cli.report.run_page import write_report
    from croc_cli.run_dir import RunDir

    limits = parse_limits(limit or [])
    run_dirs = [run for folder in run_dirs for run in (find_runs(folder) or [folder])]
    if with_model and len(run_dirs) == 1:
        compute_model_figures(RunDir(run_dirs[0]))
    page = write_report(run_dirs, out=out, limits=limits, tell=lambda text: say(f"look at: {text}"))
    result(str(page))
    if open_page:
        show_page(page)


@report_app.command(epilog="Example: croc report attention --model runs/nano/finetune/checkpoints/step-00000230 a.jpg")
def attention(
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE", help="Pictures to ask about")],
    model: Annotated[
        list[str],
        typer.Option(
            "--model",
            "-m",
            metavar="DIR|ID",
            autocompletion=complete.checkpoints,
            help="A LLaVA checkpoint. Repeatable: side by side",
        ),
    ],
    question: Annotated[
        str, typer.Option("--question", "-q", metavar="TEXT", help="Question to ask about every picture")
    ] = "Please describe in detail what is in the picture.",
    num_tokens: Annotated[int, typer.Option("--tokens", min=1, max=MOST, metavar="N", help="Longest answer")] = 64,
    device: Annotated[str, typer.Option("--device", metavar="NAME", help="auto, cpu or cuda")] = "auto",
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder of the page")] = Path("attention-report"),
    open_page: OpenOption = False,
) -> None:
    """Show where answers look: attention to visual and to instruction tokens (the paper's Fig. 8)."""
    from croc_cli.console import result
    from croc_cli.pipeline.figures import compute_attention
    from croc_cli.report.attention_page import write_attention_page

    compute_attention(model, images, question=question, num_tokens=num_tokens, out=out, device=device)
    page = write_attention_page(out)
    result(str(page))
    if open_page:
        show_page(page)


@report_app.command(epilog="Example: croc report samples runs/nano --worst 20")
def samples(
    run_dir: Annotated[Path, typer.Argument(metavar="RUN_DIR", help="Run folder")],
    worst: Annotated[int, typer.Option("--worst", min=1, max=MOST, metavar="N", help="How many samples")] = 50,
    stage: Annotated[
        str | None, typer.Option("--stage", metavar="STAGE", help="Default: the last stage that has run")
    ] = None,
    last: Annotated[
        int | None,
        typer.Option("--last", min=1, max=MOST, metavar="N", help="Only the last N steps; default: the last fifth"),
    ] = None,
    form: Annotated[str, typer.Option("--format", metavar="FORM", help="text or json")] = "text",
) -> None:
    """Show the samples with the highest loss: ids, images, text."""
    import json
    import shutil
    from dataclasses import asdict

    from croc_cli.commands.data_stats import check_stage
    from croc_cli.console import result, say
    from croc_cli.errors import UsageError
    from croc_cli.names import stage_name
    from croc_cli.report.worst_samples import format_worst, worst_samples

    if form not in ("text", "json"):
        raise UsageError(f"--format {form}: unknown format", hint="text or json")
    if stage is not None:
        check_stage(stage)
    found = worst_samples(run_dir, count=worst, stage=None if stage is None else stage_name(stage), steps=last)
    if found.note:
        say(f"note: {found.note}")
    if form == "json":
        result(json.dumps(asdict(found), indent=2, ensure_ascii=False))
    else:
        result(format_worst(found, width=shutil.get_terminal_size().columns))


def show_page(page: Path) -> None:
    """Open a page in a browser; where there is no display, say so and leave it at its name."""
    import os
    import sys
    import webbrowser

    from croc_cli.console import say

    has_display = sys.platform in ("darwin", "win32") or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    if not has_display or not webbrowser.open(page.resolve().as_uri()):
        say(f"no browser could be opened here; copy {page} to a machine with one, it needs nothing else")
