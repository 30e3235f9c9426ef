"""`croc serve`."""

import os
from typing import Annotated

import typer

from croc_cli.commands import complete

EPILOG = "Example: croc serve --model runs/nano/finetune/checkpoints/step-00000240 --port 8000"


def serve(
    model: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            "-m",
            metavar="DIR|ID",
            autocompletion=complete.checkpoints,
            help="Checkpoint folder or hub id, once per model; default: newest in runs/",
        ),
    ] = None,
    host: Annotated[str, typer.Option("--host", metavar="HOST", help="Address to listen on")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, metavar="N", help="0 picks a free port")] = 8000,
    no_key: Annotated[
        bool, typer.Option("--no-key", help="Serve other machines without a key (CROC_SERVE_API_KEY)")
    ] = False,
    served_name: Annotated[
        list[str] | None, typer.Option("--served-name", metavar="NAME", help="Name for clients, once per model")
    ] = None,
    device: Annotated[str, typer.Option("--device", metavar="NAME", help="auto, cpu, cuda, cuda:1")] = "auto",
    max_tokens: Annotated[
        int, typer.Option("--max-tokens", min=1, max=2**20, metavar="N", help="Longest answer if a request names none")
    ] = 512,
    max_batch: Annotated[
        int, typer.Option("--max-batch", min=1, max=1024, metavar="N", help="Answers generated at once")
    ] = 32,
    max_queue: Annotated[
        int,
        typer.Option(
            "--max-queue", min=1, max=2**20, metavar="N", help="Waiting requests allowed; more get status 429"
        ),
    ] = 64,
    max_body: Annotated[
        int,
        typer.Option(
            "--max-body", min=1, max=1024, metavar="MIB", help="Largest request body; a larger one gets status 413"
        ),
    ] = 32,
    max_pictures: Annotated[
        int, typer.Option("--max-pictures", min=1, max=64, metavar="N", help="Most pictures in a request")
    ] = 8,
    timeout: Annotated[
        float, typer.Option("--timeout", min=1, max=86400, metavar="SECONDS", help="Longest time for an answer")
    ] = 300.0,
    allow_private: Annotated[
        bool,
        typer.Option(
            "--allow-private", "--allow-link-local", help="Also fetch pictures from private network addresses"
        ),
    ] = False,
) -> None:
    """Serve models to OpenAI-compatible clients, with a page to talk to them.

    Open http://127.0.0.1:8000 in a browser, or point a client to http://127.0.0.1:8000/v1.
    """
    from croc_cli.serve.settings import MEBIBYTE, Limits, ServeSettings, read_key

    settings = ServeSettings(
        host=host,
        port=port,
        key=read_key(os.environ, host=host, no_key=no_key),
        limits=Limits(
            body_bytes=max_body * MEBIBYTE,
            pictures=max_pictures,
            queue=max_queue,
            batch=max_batch,
            tokens=max_tokens,
            seconds=timeout,
        ),
        allow_private=allow_private,
    )
    from croc_cli.serve.run import serve as run_server

    run_server(model or [], settings, served_names=served_name or [], device=device)
