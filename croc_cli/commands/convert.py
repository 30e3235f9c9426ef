"""`croc convert`."""

from pathlib import Path
from typing import Annotated

import typer

EPILOG = "Example: croc convert llava-v1.5-7b llava-v1.5-7b-stock"


def convert(
    source: Annotated[
        str, typer.Argument(metavar="SRC", help="Folder or hub id: stock LLaVA, LLaVA-1.5, Croc or ViCToR")
    ],
    destination: Annotated[Path, typer.Argument(metavar="DST", help="Folder to write; it must not exist yet")],
    to: Annotated[
        str, typer.Option("--to", metavar="FORM", help="stock, llava (the original layout) or gguf (for llama.cpp)")
    ] = "stock",
    base: Annotated[
        str | None, typer.Option("--base", metavar="DIR|ID", help="Base LLM, for a projector alone or for LoRA")
    ] = None,
    vision_tower: Annotated[
        str | None,
        typer.Option("--vision-tower", metavar="DIR|ID", help="Vision tower to use instead of the one that SRC names"),
    ] = None,
    allow_partial: Annotated[
        bool,
        typer.Option(
            "--allow-partial", help="Drop unexpected weights, initialise missing ones at random, and list both"
        ),
    ] = False,
    allow_loss: Annotated[
        bool, typer.Option("--allow-loss", help="Allow a stock folder that only croc evaluates exactly")
    ] = False,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Run code from the tokenizer's folder")
    ] = False,
    llama_cpp: Annotated[
        Path | None, typer.Option("--llama-cpp", metavar="DIR", help="llama.cpp's folder, for --to gguf")
    ] = None,
    converter_python: Annotated[
        Path | None,
        typer.Option("--converter-python", metavar="FILE", help="Python interpreter with llama.cpp's requirements"),
    ] = None,
) -> None:
    """Write a checkpoint in another form.

    SRC may be whole, a projector alone (mm_projector.bin) or LoRA; .bin files are read as tensors and nothing else.
    """
    from croc_cli.console import result, say
    from croc_cli.errors import UsageError

    forms = {"stock": "stock", "llava": "llava", "gguf": "gguf"}
    if to not in forms:
        raise UsageError(f"--to {to}: unknown format", hint=f"one of {', '.join(forms)}")
    from croc_cli.checkpoint.convert import ConvertRequest, quiet_libraries
    from croc_cli.checkpoint.convert import convert as write
    from croc_cli.checkpoint.formats.gguf import GgufOptions
    from croc_cli.checkpoint.formats.original_load import OriginalOptions

    quiet_libraries()
    request = ConvertRequest(
        source=source,
        destination=destination,
        to=to,  # type: ignore[arg-type]  # one of the forms, as was checked above
        original=OriginalOptions(base, vision_tower, allow_partial, trust_remote_code),
        allow_loss=allow_loss,
        gguf=GgufOptions(llama_cpp, converter_python),
    )
    result(str(write(request, say=say)))
