"""Figures reach DeepSpeed's monitor and trackio, and a trackio that fails ends no run."""

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from croc_cli.train.monitors import Monitors, Trackio

ROW = {"step": 7, "loss": 0.5, "held_out": {"caption_loss": 2.0}, "reconstruction_loss": None}


class FakeRun:
    def __init__(self, **given: Any) -> None:
        self.given, self.rows, self.is_finished, self.fails = given, [], False, False

    def log(self, figures: dict[str, float], step: int) -> None:
        if self.fails:
            raise OSError("disk full")
        self.rows.append((step, figures))

    def finish(self) -> None:
        self.is_finished = True


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[FakeRun]:
    """Return the runs that a trackio of this test's own makes."""
    made: list[FakeRun] = []
    module = ModuleType("trackio")

    def init(**given: Any) -> FakeRun:
        made.append(FakeRun(**given))
        return made[-1]

    module.init = init  # type: ignore[attr-defined]  # a module made here has no such name yet
    monkeypatch.setitem(sys.modules, "trackio", module)
    return made


def quiet() -> Any:
    return SimpleNamespace(enabled=False)


def test_trackio_gets_every_figure_under_one_run_and_is_finished(runs: list[FakeRun]) -> None:
    monitors = Monitors(quiet(), Trackio("croc", group="nano-align", name="nano-align", resumes=False, warn=print))
    with monitors.until_the_end():
        monitors.tell(ROW)
    [run] = runs
    assert run.given == {
        "project": "croc",
        "group": "nano-align",
        "name": "nano-align",
        "resume": "never",
        "embed": False,
    }
    assert run.rows == [(7, {"croc/loss": 0.5, "croc/held_out/caption_loss": 2.0})]
    assert run.is_finished


def test_a_resumed_run_goes_on_in_its_own(runs: list[FakeRun]) -> None:
    Trackio("croc", group="g", name="n", resumes=True, warn=print)
    assert runs[0].given["resume"] == "allow"


def test_a_trackio_that_fails_is_told_once_and_the_run_goes_on(runs: list[FakeRun]) -> None:
    told: list[str] = []
    monitors = Monitors(quiet(), Trackio("croc", group="g", name="n", resumes=False, warn=told.append))
    runs[0].fails = True
    with monitors.until_the_end():
        monitors.tell(ROW)
        monitors.tell(ROW)
    assert told == ["trackio failed, and the run goes on without it: disk full"]


def test_deepspeeds_monitor_gets_the_same_figures() -> None:
    events: list[Any] = []
    Monitors(SimpleNamespace(enabled=True, write_events=events.extend)).tell(ROW)
    assert events == [("croc/loss", 0.5, 7), ("croc/held_out/caption_loss", 2.0, 7)]
