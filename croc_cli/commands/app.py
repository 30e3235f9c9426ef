"""The `croc` program: its commands in the order in which they are used."""

from typing import Annotated

import typer

from croc_cli import __version__
from croc_cli.commands import ablate as ablate_command
from croc_cli.commands import align as align_command
from croc_cli.commands import chat as chat_command
from croc_cli.commands import compare_answers as compare_answers_command
from croc_cli.commands import convert as convert_command
from croc_cli.commands import demo as demo_command
from croc_cli.commands import doctor as doctor_command
from croc_cli.commands import finetune as finetune_command
from croc_cli.commands import init as init_command
from croc_cli.commands import plan as plan_command
from croc_cli.commands import push as push_command
from croc_cli.commands import reconstruct as reconstruct_command
from croc_cli.commands import run as run_command
from croc_cli.commands import serve as serve_command
from croc_cli.commands import watch as watch_command
from croc_cli.commands.data import data_app
from croc_cli.commands.evaluate import eval_app
from croc_cli.commands.groups import CrocGroup
from croc_cli.commands.recipes import recipes_app
from croc_cli.commands.report import report_app
from croc_cli.commands.runs import runs_app
from croc_cli.console import result
from croc_cli.output import guard_output

app = typer.Typer(
    cls=CrocGroup,
    name="croc",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog="Example: croc demo",
)


@app.callback(invoke_without_command=True)
def croc(
    ctx: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit")] = False,
) -> None:
    """Train multimodal models as the Croc paper does: align, reconstruct, finetune, then talk to them."""
    if version:
        result(f"croc {__version__}")
        raise typer.Exit()
    if ctx.invoked_subcommand is None:
        result(ctx.get_help())
        raise typer.Exit()


app.command(epilog=demo_command.EPILOG)(demo_command.demo)
app.command(epilog=init_command.EPILOG)(init_command.init)
app.command(epilog=run_command.EPILOG)(run_command.run)
app.command(epilog=align_command.EPILOG)(align_command.align)
app.command(epilog=reconstruct_command.EPILOG)(reconstruct_command.reconstruct)
app.command(epilog=finetune_command.EPILOG)(finetune_command.finetune)
app.add_typer(data_app, name="data")
app.add_typer(eval_app, name="eval")
app.command(epilog=ablate_command.EPILOG)(ablate_command.ablate)
app.add_typer(runs_app, name="runs")
app.command(epilog=watch_command.EPILOG)(watch_command.watch)
app.add_typer(report_app, name="report")
app.command(epilog=chat_command.EPILOG)(chat_command.chat)
app.command("compare-answers", epilog=compare_answers_command.EPILOG)(compare_answers_command.compare_answers)
app.command(epilog=serve_command.EPILOG)(serve_command.serve)
app.command(epilog=convert_command.EPILOG)(convert_command.convert)
app.command(epilog=push_command.EPILOG)(push_command.push)
app.add_typer(recipes_app, name="recipes")
app.command(epilog=plan_command.EPILOG)(plan_command.plan)
app.command(epilog=doctor_command.EPILOG)(doctor_command.doctor)


def main() -> None:
    """Run `croc` with the arguments of this process."""
    guard_output()
    app(prog_name="croc")
