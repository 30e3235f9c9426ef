"""A loss or gradient that is not finite, made on purpose on one of two ranks: all skip the same step."""

import json
from pathlib import Path

import pytest
import torch

from tests.tiny import make_tiny_llava, make_tiny_parts
from tests.worker import harness
from tests.worker.faults import Fault
from tests.worker.ranks import run_ranks

NUM_STEPS = 7


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("not_finite")
    harness.make_data(folder, num_text=0)
    make_tiny_parts(folder)
    make_tiny_llava(folder / "start")
    return folder


@pytest.mark.parametrize(
    ("stage", "zero_stage"),
    [("reconstruct", 2), *(pytest.param(*kind, marks=pytest.mark.slow) for kind in [("finetune", 3), ("finetune", 0)])],
)
def test_all_ranks_skip_the_step_that_is_not_finite_on_one_and_stop_after_three_in_a_row(
    home: Path, tmp_path: Path, stage: str, zero_stage: int
) -> None:
    recipe = harness.make_recipe(
        home,
        **{stage: {"zero_stage": zero_stage, "max_steps": NUM_STEPS, "log_gradient_shares_every": None}}
        if stage == "reconstruct"
        else {stage: {"zero_stage": zero_stage, "max_steps": NUM_STEPS}},
    )
    bad = ((1, 0, "nan_loss"), (1, 2, "nan_gradient"), *((1, step, "nan_loss") for step in (3, 4)))
    run = {"start": home / "start", "num_ranks": 2}
    stage_dir, ended = run_ranks(recipe, stage, tmp_path, fault=Fault(at_step=bad), **run)
    assert ended.codes == [1, 1], ended.logs
    for message in ended.messages:
        assert message.startswith("3 steps in a row had a loss that is not finite; the last had samples image-")
    rows = harness.metrics(stage_dir)
    assert [row["skipped"] for row in rows] == [True, False, True, True, True]
    assert rows[0]["learning_rate"]  # a skipped step is a line like any other
    assert "step 1 skipped: its loss is not finite; samples image-" in harness.events(stage_dir)
    assert "step 3 skipped: its gradient is not finite; samples image-" in harness.events(stage_dir)
    saved = stage_dir.latest_checkpoint()
    assert saved is not None
    assert saved.name == "step-00000005"
    assert all(bool(torch.isfinite(tensor).all()) for tensor in harness.weights(stage_dir).values())

    stage_dir, ended = run_ranks(recipe, stage, tmp_path, **run)
    assert ended.codes == [0, 0], ended.logs
    assert [row["skipped"] for row in harness.metrics(stage_dir)[5:]] == [False, False]
    assert json.loads(stage_dir.summary_file.read_text())["counts"]["skipped_steps"] == 4
