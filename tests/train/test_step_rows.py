"""A run whose figures are read a step late, against one that reads them at once."""

from pathlib import Path
from typing import Any

import pytest
import torch

from croc_cli.errors import Interrupted
from croc_cli.train.saving import CheckpointSaver
from croc_cli.train.trainer import Trainer
from tests.tiny import make_tiny_llava
from tests.worker import harness
from tests.worker.test_training import poison, stop_after


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("late")
    harness.make_data(folder)
    make_tiny_llava(folder / "start")
    return folder


def read_late(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have every trainer read figures a step late, as on a GPU."""
    original = Trainer.__init__

    def late(self: Trainer, *args: Any, **options: Any) -> None:
        original(self, *args, **options)
        self.reads_late = True

    monkeypatch.setattr(Trainer, "__init__", late)


def figures(run: Any) -> list[dict[str, Any]]:
    """Return the rows of a run without what is timed."""
    rows = harness.metrics(run)
    return [{key: row[key] for key in row if "seconds" not in key and "per_second" not in key} for row in rows]


def without_shares_of_time(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    timed = ("assignment_solver_share", "assignment_wait_share", "peak_memory_bytes")
    return [{key: value for key, value in row.items() if key not in timed} for row in rows]


def test_rows_are_written_a_step_late_and_before_each_save_and_the_end(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = harness.make_recipe(home, reconstruct={"save_every": 3, "max_steps": 5, "log_gradient_shares_every": 2})
    plain = harness.train(recipe, "reconstruct", tmp_path / "plain", start=home / "start")
    read_late(monkeypatch)
    written: dict[str, list[int]] = {"step": [], "save": []}

    def watch(owner: Any, name: str, key: str) -> None:
        original = getattr(owner, name)

        def watched(self: Any, *args: Any, **options: Any) -> Any:
            file = tmp_path / "late" / "reconstruct" / "metrics.jsonl"
            written[key].append(len(file.read_text().splitlines()) if file.exists() else 0)
            return original(self, *args, **options)

        monkeypatch.setattr(owner, name, watched)

    watch(Trainer, "_step", "step")
    watch(CheckpointSaver, "save", "save")
    late = harness.train(recipe, "reconstruct", tmp_path / "late", start=home / "start")
    assert written == {"step": [0, 0, 1, 3, 3], "save": [3, 5]}
    assert without_shares_of_time(figures(late)) == without_shares_of_time(figures(plain))
    weights, expected = harness.weights(late), harness.weights(plain)
    assert all(torch.equal(weights[name], expected[name]) for name in expected)


def test_a_late_run_that_is_stopped_has_the_last_row_and_resumes_to_the_same(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = harness.make_recipe(home)
    plain = harness.train(recipe, "reconstruct", tmp_path / "plain", start=home / "start")
    read_late(monkeypatch)
    with monkeypatch.context() as patch:
        stop_after(patch, 2)
        with pytest.raises(Interrupted, match="stopped after step 2 of 4; saved in"):
            harness.train(recipe, "reconstruct", tmp_path / "late", start=home / "start")
    late = tmp_path / "late" / "reconstruct" / "metrics.jsonl"
    assert len(late.read_text().splitlines()) == 2
    resumed = harness.train(recipe, "reconstruct", tmp_path / "late", start=home / "start")
    assert without_shares_of_time(figures(resumed)) == without_shares_of_time(figures(plain))


def test_a_late_run_names_the_samples_of_a_step_that_is_not_finite_at_once(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read_late(monkeypatch)
    poison(monkeypatch, {1})
    run = harness.train(harness.make_recipe(home), "finetune", tmp_path, start=home / "start")
    assert [row["skipped"] for row in harness.metrics(run)] == [False, True, False, False]
    assert "step 2 skipped: its loss is not finite; samples " in harness.events(run)
