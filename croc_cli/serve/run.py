"""Loads the models of a server, listens, and ends it in order."""

import contextlib
import os
import signal
import socket
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import FrameType

import torch
import uvicorn

from croc_cli.chat.session import prompt_builder
from croc_cli.chat.start import ChatRequest, find_model, usable_device
from croc_cli.checkpoint.load import load_for_inference, quiet_transformers
from croc_cli.console import say
from croc_cli.errors import UsageError
from croc_cli.eval.prompts import evaluation_encoder
from croc_cli.eval.runner import mean_colour
from croc_cli.launch.devices import count_cores
from croc_cli.serve.app import ServedModel, Service
from croc_cli.serve.connection import guarded
from croc_cli.serve.engine import Engine
from croc_cli.serve.prompt import PromptMaker
from croc_cli.serve.settings import ServeSettings

_CLOSING_SECONDS = 10
"""Time that answers under way have when the server is told to end."""


def serve(names: Sequence[str], settings: ServeSettings, *, served_names: Sequence[str], device: str) -> None:
    """Serve models until Ctrl-C or SIGTERM.

    Args:
        names: Checkpoint folders or hub ids; empty takes the newest finetuned one.
        settings: See `ServeSettings`.
        served_names: What clients call them; empty takes the folders' names.
        device: A torch device, or "auto".

    Raises:
        UsageError: A model cannot be opened, the port is taken, or the names do not fit.
    """
    folders = [find_model(ChatRequest(model=name)) for name in names or (None,)]
    labels = model_labels(folders, served_names)
    listening = listen(settings.host, settings.port)
    settings = replace(settings, port=listening.getsockname()[1])
    models = {label: open_model(label, folder, settings, device) for label, folder in zip(labels, folders, strict=True)}
    server = _Server(server_config(Service(models, settings), closing_seconds=_CLOSING_SECONDS))
    shown = f"[{settings.host}]" if ":" in settings.host else settings.host
    say(f"serving {', '.join(labels)} at http://{shown}:{settings.port} (Ctrl-C ends)")
    try:
        server.run(sockets=[listening])
    finally:
        for model in models.values():
            model.engine.close()
    say("ended")


def server_config(service: Service, *, closing_seconds: int) -> uvicorn.Config:
    """Return how a service is served: HTTP/1 alone, and no word of a request in the log."""
    return uvicorn.Config(
        service.app(),
        http=guarded(service.settings.limits.stall_seconds),
        ws="none",
        log_level="error",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=closing_seconds,
    )


def open_model(label: str, folder: Path, settings: ServeSettings, device: str) -> ServedModel:
    """Load one model and start its engine."""
    say(f"loading {folder}")
    quiet_transformers()
    spare_a_core(os.environ)
    model = load_for_inference(folder, device=usable_device(device))
    limits = settings.limits
    prompts = PromptMaker(
        prompt_builder(model),
        model.processor.image_processor,
        build_evaluation=evaluation_encoder(model).encode_prompt,
        max_positions=getattr(model.llava.config.text_config, "max_position_embeddings", None),
        max_pictures=limits.pictures,
        allow_private=settings.allow_private,
        reading=model.metadata.image_reading,
    )
    engine = Engine(model, max_batch=limits.batch, max_queue=limits.queue)
    return ServedModel(label, engine, prompts, mean_colour=mean_colour(model.processor))


def spare_a_core(environ: Mapping[str, str]) -> None:
    """Leave one core to the requests, unless OMP_NUM_THREADS says how many threads compute.

    Where threads of a matrix product have to wait for the core that serves requests, all of them wait.
    """
    if "OMP_NUM_THREADS" not in environ:
        torch.set_num_threads(max(1, count_cores() - 1))


def model_labels(folders: Sequence[Path], given: Sequence[str]) -> list[str]:
    """Return what clients call the models: the names given, or the shortest ends of the paths that differ.

    Raises:
        UsageError: There are more or fewer names than models, or two are the same.
    """
    if given and len(given) != len(folders):
        raise UsageError(
            f"{len(given)} names for {len(folders)} models", hint="give --served-name once for each --model"
        )
    for length in range(1, max(len(folder.parts) for folder in folders) + 1):
        labels = list(given) or ["/".join(folder.parts[-length:]) for folder in folders]
        if len(set(labels)) == len(labels):
            return labels
        if given:
            break
    raise UsageError("two models have the same name", hint="give each its own with --served-name")


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that is bound, before any model is loaded.

    Raises:
        UsageError: The address cannot be used; the reason is named.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        bound = socket.socket(family, kind, protocol)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except (OSError, UnicodeError) as error:  # a name may have parts that no network name has
        number = getattr(error, "errno", None)
        reason = os.strerror(number) if number and number > 0 else str(error)
        raise UsageError(f"cannot listen on {host}:{port}: {reason}", hint="--port 0 picks a free one") from error
    return bound


class _Server(uvicorn.Server):
    """Ends on SIGINT and SIGTERM with exit code 0: that is how a server is meant to end."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Let both signals end the server; a second Ctrl-C ends it at once."""

        def on_signal(number: int, frame: FrameType | None) -> None:
            self.handle_exit(number, frame)

        before = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
