"""`croc compare-answers`."""

from typing import Annotated, Literal

import typer

from croc_cli.commands import complete

EPILOG = 'Example: croc compare-answers image.jpg "What is this?" --model runs/a --model runs/b'


def compare_answers(
    image: Annotated[str, typer.Argument(metavar="IMAGE", help="A picture: a path or an http(s) URL")],
    prompt: Annotated[str, typer.Argument(metavar="PROMPT", help="The question")],
    model: Annotated[
        list[str],
        typer.Option(
            "--model",
            "-m",
            metavar="DIR|ID",
            autocompletion=complete.checkpoints,
            help="Checkpoint folder or hub id; once per model",
        ),
    ],
    temperature: Annotated[
        float, typer.Option("--temperature", "-t", min=0.0, max=100.0, metavar="T", help="0 = greedy")
    ] = 0.0,
    max_tokens: Annotated[
        int | None, typer.Option("--max-tokens", min=1, max=2**20, metavar="N", help="Longest answer")
    ] = None,
    seed: Annotated[
        int, typer.Option("--seed", min=0, max=2**63, metavar="N", help="Seed for sampling above temperature 0")
    ] = 0,
    device: Annotated[str, typer.Option("--device", metavar="NAME", help="auto, cpu, cuda, cuda:1")] = "auto",
    output: Annotated[Literal["text", "json"], typer.Option("--format", help="text or json")] = "text",
) -> None:
    """Ask several models the same question and show their answers side by side.

    `croc serve --model A --model B` does the same on a page.
    """
    import json
    from dataclasses import asdict

    from croc_cli.chat.compare import compare_answers as compare
    from croc_cli.chat.compare import show_answers
    from croc_cli.chat.start import ChatRequest
    from croc_cli.console import result

    request = ChatRequest(
        image=image, prompt=prompt, temperature=temperature, max_tokens=max_tokens, seed=seed, device=device
    )
    answers = compare(request, model)
    if output == "json":
        result(json.dumps([asdict(one) for one in answers], ensure_ascii=False, indent=2))
    else:
        show_answers(answers)
