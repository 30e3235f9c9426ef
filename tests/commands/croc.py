"""Runs `croc` in this process, with the fake worker in place of the real one."""

import importlib
import os
import subprocess
import sys
from dataclasses import dataclass

import pytest
from typer.testing import CliRunner

from croc_cli.commands.app import app
from croc_cli.pipeline import stage as stage_module
from tests.launch.make import FAKE_WORKER


@dataclass(frozen=True)
class Answer:
    code: int
    out: str
    err: str


def croc(*arguments: str) -> Answer:
    answer = CliRunner().invoke(app, list(arguments), prog_name="croc")
    return Answer(answer.exit_code, answer.stdout, answer.stderr)


def croc_process(*arguments: str, **environment: str) -> Answer:
    """Run it as users do, in a process of its own."""
    command = [sys.executable, "-m", "croc_cli", *arguments]
    answer = subprocess.run(command, capture_output=True, text=True, env=os.environ | environment, check=False)
    return Answer(answer.returncode, answer.stdout, answer.stderr)


def put_fake_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put the fake worker in, without the launcher.

    The ablation's module, which commands import when they run, keeps the real class whichever test comes first.
    """
    importlib.import_module("croc_cli.pipeline.ablation")
    real = stage_module.StageRequest

    def request(**fields: object) -> stage_module.StageRequest:
        return real(**fields, worker=FAKE_WORKER, through_launcher=False)  # type: ignore[arg-type]

    monkeypatch.setattr(stage_module, "StageRequest", request)
    for name in ("croc_cli.pipeline.stage.check_models", "croc_cli.pipeline.recipe_run.check_models"):
        monkeypatch.setattr(name, lambda _model: None)
