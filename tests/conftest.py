"""Settings that must stand before any test imports torch, and the fixture that several rooms share."""

import os
from pathlib import Path

import pytest

from croc_cli.launch.plan import SPIN_TURNS

# Threads that wait for each other spin for a moment only, as in croc's own ranks: beside other work, libgomp's default
# makes tests take ten times as long.
os.environ.setdefault("GOMP_SPINCOUNT", SPIN_TURNS)


@pytest.fixture
def fake_worker(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Put a fake worker in place of the real one, without the launcher, and return a folder for runs."""
    from tests.commands.croc import put_fake_worker

    put_fake_worker(monkeypatch)
    return tmp_path / "run"
