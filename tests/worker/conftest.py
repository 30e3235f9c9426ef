"""What most tests of a rank start from."""

from pathlib import Path

import pytest

from tests.tiny import make_tiny_llava, make_tiny_parts
from tests.worker import harness


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data, the parts of a tiny model, and a checkpoint of it to start from."""
    folder = tmp_path_factory.mktemp("home")
    harness.make_data(folder)
    make_tiny_parts(folder)
    make_tiny_llava(folder / "start")
    return folder
