"""Whole reconstruct stages whose assignments are begun ahead of their step, against stages that wait for each."""

from pathlib import Path

import pytest
import torch

from croc_cli.train import trainer
from croc_cli.train.ahead import make_ready
from tests.worker import harness

TIMES = ("assignment_solver_seconds", "assignment_wait_seconds", "assignment_solver_share", "assignment_wait_share")
EQUAL = ("loss", "reconstruction_loss", "gradient_norm", "pool_used_share", "pool_window_share", "pool_entropy")


@pytest.mark.parametrize("matching", ["hungarian", "nearest"])
def test_losses_weights_and_pool_use_are_those_of_micro_batches_that_wait(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, matching: str
) -> None:
    changes = {"batch": {"global_size": 6, "micro_size": 2}, "matching": matching}
    recipe = harness.make_recipe(home, reconstruct=changes)
    ahead = harness.train(recipe, "reconstruct", tmp_path / "ahead", start=home / "start")
    flags = []

    def plainly(*args, ahead, outside):  # type: ignore[no-untyped-def]
        flags.append(ahead)
        return make_ready(*args, ahead=False)

    monkeypatch.setattr(trainer, "make_ready", plainly)
    plain = harness.train(recipe, "reconstruct", tmp_path / "plain", start=home / "start")

    assert flags == [True] * 4
    rows = [harness.metrics(run) for run in (ahead, plain)]
    assert [[row[key] for key in EQUAL] for row in rows[0]] == [[row[key] for key in EQUAL] for row in rows[1]]
    assert all(key in row for row in rows[0] for key in TIMES)
    weights, expected = harness.weights(ahead), harness.weights(plain)
    assert weights.keys() == expected.keys()
    assert all(torch.equal(weights[name], expected[name]) for name in expected)
