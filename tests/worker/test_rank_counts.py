"""A run that stops on one number of ranks and goes on with another: same global batches, same masks, same losses."""

from pathlib import Path

import pytest

from croc_cli.recipe.schema import Recipe
from croc_cli.run_dir import StageDir
from tests.worker import harness
from tests.worker.faults import Fault
from tests.worker.ranks import run_ranks
from tests.worker.test_killed import seen

NUM_STEPS = 5
KILLED_BEFORE = 3


def recipe_of(home: Path, zero_stage: int) -> Recipe:
    changes = {"zero_stage": zero_stage, "max_steps": NUM_STEPS, "save_every": 2, "log_gradient_shares_every": 1}
    # groups with rates of their own: DeepSpeed's ZeRO-3 would give all of them the first one's
    changes |= {"learning_rate": {"projector": 1e-3, "llm": 2e-3, "token_pool": 3e-3}}
    return harness.make_recipe(home, reconstruct=changes)


def run(home: Path, root: Path, recipe: Recipe, *, num_ranks: int, stopped: bool = False) -> StageDir:
    """Run the stage, or let it die before a step."""
    faults = ((0, KILLED_BEFORE, "exit"),) if stopped else ()
    fault = Fault(at_step=faults, seen_to=str(root))
    stage_dir, ended = run_ranks(
        recipe, "reconstruct", root / "run", start=home / "start", num_ranks=num_ranks, fault=fault
    )
    assert (7 if stopped else 0) in ended.codes, ended.logs
    return stage_dir


@pytest.mark.parametrize(
    ("zero_stage", "before", "after"),
    [
        (2, 2, 1),
        pytest.param(2, 1, 2, marks=pytest.mark.slow),
        pytest.param(3, 2, 1, marks=pytest.mark.slow),
        pytest.param(3, 1, 2, marks=pytest.mark.slow),
    ],
)
def test_a_run_goes_on_with_another_number_of_ranks(
    home: Path, tmp_path: Path, zero_stage: int, before: int, after: int
) -> None:
    recipe = recipe_of(home, zero_stage)
    (tmp_path / "unbroken").mkdir()
    (tmp_path / "broken").mkdir()
    unbroken = run(home, tmp_path / "unbroken", recipe, num_ranks=before)
    run(home, tmp_path / "broken", recipe, num_ranks=before, stopped=True)
    stage_dir = run(home, tmp_path / "broken", recipe, num_ranks=after)

    expected, found = harness.metrics(unbroken), harness.metrics(stage_dir)
    assert [row["loss"] for row in found] == pytest.approx([row["loss"] for row in expected], abs=1e-4)
    assert [row["learning_rate"] for row in found] == [row["learning_rate"] for row in expected]
    for ours, theirs in zip(found, expected, strict=True):
        assert ours["explained_share"] == pytest.approx(theirs["explained_share"], abs=1e-3)
        assert ours["gradient_shares"] == pytest.approx(theirs["gradient_shares"], rel=1e-2)
    assert seen(tmp_path / "broken") == seen(tmp_path / "unbroken")
