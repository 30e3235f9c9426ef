"""`croc init`."""

from pathlib import Path
from typing import Annotated

import typer

from croc_cli.commands import complete
from croc_cli.commands.options import RanksOption
from croc_cli.names import RECIPE_FILE

EPILOG = "Example: croc init mine.yaml --data my.json --images my-images"


def init(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Recipe to write")] = Path(RECIPE_FILE),
    data: Annotated[
        Path | None,
        typer.Option("--data", metavar="PATH", help="LLaVA JSON or JSONL, table, tars, or a folder of pictures"),
    ] = None,
    images: Annotated[
        Path | None, typer.Option("--images", metavar="DIR", help="Folder that image paths start from; found if near")
    ] = None,
    like: Annotated[
        str | None,
        typer.Option(
            "--like",
            metavar="RECIPE",
            autocompletion=complete.recipes,
            help="Recipe to extend; default: croc-7b on GPUs, else smol",
        ),
    ] = None,
    vision_tower: Annotated[
        str | None, typer.Option("--vision-tower", metavar="DIR|ID", help="Another tower than that recipe's")
    ] = None,
    llm: Annotated[str | None, typer.Option("--llm", metavar="DIR|ID", help="Another LLM than that recipe's")] = None,
    device: Annotated[str, typer.Option("--device", metavar="NAME", help="auto, cpu or cuda")] = "auto",
    ranks: RanksOption = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing file")] = False,
) -> None:
    """Write a short recipe for your own data; ask for what no flag gives."""
    from croc_cli.console import result, say
    from croc_cli.errors import UsageError
    from croc_cli.launch.devices import inspect_machine
    from croc_cli.pipeline.init import InitRequest, check_file, look_at_data, next_commands, write_recipe
    from croc_cli.recipe.issues import nearest

    if device not in ("auto", "cpu", "cuda"):
        match = "cuda" if device.lower() == "gpu" else nearest(device, ("auto", "cpu", "cuda"))
        raise UsageError(
            f"--device {device}: unknown device",
            hint=f"did you mean {match}?" if match else "one of auto, cpu, cuda",
        )
    check_file(file, force=force, data=data)
    machine = inspect_machine()
    if data is None:
        data = ask_for_path("Data file, or folder of pictures with a table")
    facts = look_at_data(data, images)
    say(f"{data}: {facts.describe()}")
    if facts.images is not None and images is None:
        say(f"images lie in {facts.images}")
    request = InitRequest(file, data, images, like, vision_tower, llm, ranks, device)
    written = write_recipe(request, facts, machine)
    say(f"wrote {written}; next commands:")
    result("\n".join(next_commands(request, facts)))


def ask_for_path(question: str) -> Path:
    """Return the path that is typed on the terminal; without one, say which flag names it.

    Raises:
        UsageError: stdin is not a terminal, or nothing was typed.
    """
    import sys

    from croc_cli.errors import UsageError

    hint = "`croc init --help` shows the flags; --data PATH names the data"
    if not sys.stdin.isatty():
        raise UsageError("croc init needs --data PATH where there is no terminal to ask on", hint=hint)
    sys.stderr.write(f"{question}: ")
    sys.stderr.flush()
    typed = sys.stdin.readline().strip()
    if not typed:
        raise UsageError("no data was named", hint=hint)
    return Path(typed).expanduser()
