"""`croc chat`."""

from typing import Annotated

import typer

from croc_cli.commands import complete
from croc_cli.commands.options import MOST, MOST_SEED

EPILOG = 'Example: croc chat image.jpg "What is this?"'


def chat(
    image: Annotated[
        str | None, typer.Argument(metavar="IMAGE", help="A picture: a path or an http(s) URL", show_default=False)
    ] = None,
    prompt: Annotated[
        str | None,
        typer.Argument(
            metavar="PROMPT", help="Answer this prompt and exit; without it, start a conversation", show_default=False
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "-m",
            metavar="DIR|ID",
            autocompletion=complete.checkpoints,
            help="Checkpoint folder or hub id; default: newest finetuned in runs/",
        ),
    ] = None,
    temperature: Annotated[
        float | None,
        typer.Option(
            "--temperature", "-t", min=0.0, max=100.0, metavar="T", help="0 = greedy; default: the checkpoint's recipe"
        ),
    ] = None,
    max_tokens: Annotated[
        int | None,
        typer.Option(
            "--max-tokens", min=1, max=MOST, metavar="N", help="Longest answer; default: the checkpoint's recipe"
        ),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option("--seed", min=0, max=MOST_SEED, metavar="N", help="Seed for sampling above temperature 0"),
    ] = None,
    device: Annotated[str, typer.Option("--device", metavar="NAME", help="auto, cpu, cuda, cuda:1")] = "auto",
    allow_private: Annotated[
        bool,
        typer.Option(
            "--allow-private", "--allow-link-local", help="Also fetch pictures from private network addresses"
        ),
    ] = False,
) -> None:
    """Talk to a model about pictures.

    On a terminal this is a conversation; with a PROMPT, or text on stdin, it prints one answer.
    """
    from croc_cli.chat.start import ChatRequest, run_chat

    run_chat(
        ChatRequest(
            image=image,
            prompt=prompt,
            model=model,
            temperature=temperature,
            max_tokens=max_tokens,
            seed=seed,
            device=device,
            allow_private=allow_private,
        )
    )
