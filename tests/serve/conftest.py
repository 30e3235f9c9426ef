import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import uvicorn

from croc_cli.serve.app import Service
from croc_cli.serve.run import listen, open_model, server_config
from croc_cli.serve.settings import ServeSettings
from tests.tiny import make_tiny_llava


@dataclass(frozen=True)
class Running:
    """A server of the tests: its address and what stands behind it."""

    url: str
    service: Service


@contextmanager
def running(folder: Path, settings: ServeSettings | None = None) -> Iterator[Running]:
    """Serve one model on a free port of the loopback address, in a thread."""
    settings = settings or ServeSettings(port=0)
    sock = listen(settings.host, 0)
    model = open_model("tiny", folder, settings, "cpu")
    service = Service({"tiny": model}, settings)
    server = uvicorn.Server(server_config(service, closing_seconds=2))
    server.install_signal_handlers = lambda: None  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.run, kwargs={"sockets": [sock]}, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield Running(f"http://127.0.0.1:{sock.getsockname()[1]}", service)
    finally:
        server.should_exit = True
        thread.join()
        model.engine.close()


@pytest.fixture(scope="package")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model with random weights: it says nonsense, always the same."""
    return make_tiny_llava(tmp_path_factory.mktemp("serve") / "model", seed=3)


@pytest.fixture(scope="package")
def server(folder: Path) -> Iterator[Running]:
    """A server with the default limits."""
    with running(folder) as one:
        yield one


@pytest.fixture
def serve(folder: Path) -> Callable[[ServeSettings], object]:
    """Starts a server with settings of a test's own."""
    return lambda settings: running(folder, settings)
