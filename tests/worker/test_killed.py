"""Ranks killed with SIGKILL at any moment, also in the middle of a save: the same command goes on, nothing is lost."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch

from croc_cli.recipe.schema import Recipe
from croc_cli.run_dir import StageDir
from tests.worker import harness
from tests.worker.faults import Fault
from tests.worker.ranks import run_ranks

STAGES = ("align", "reconstruct", "finetune")
NUM_STEPS = 4


def recipe_of(home: Path, stage: str, zero_stage: int) -> Recipe:
    return harness.make_recipe(home, **{stage: {"zero_stage": zero_stage, "save_every": 1, "max_steps": NUM_STEPS}})


class Unbroken:
    """Runs that nothing happened to, one for each kind, with the number of moments that their ranks had."""

    def __init__(self, home: Path, folder: Path) -> None:
        self.home, self.folder = home, folder
        self.known: dict[tuple[str, int, int], tuple[StageDir, list[int]]] = {}

    def run(self, stage: str, zero_stage: int, num_ranks: int) -> tuple[StageDir, list[int]]:
        key = (stage, zero_stage, num_ranks)
        if key not in self.known:
            root = self.folder / f"{stage}-zero{zero_stage}-{num_ranks}"
            (root / "seen").mkdir(parents=True)
            stage_dir, ended = run_ranks(
                recipe_of(self.home, stage, zero_stage),
                stage,
                root / "run",
                start=self.home / "start",
                num_ranks=num_ranks,
                fault=Fault(count_to=str(root), seen_to=str(root / "seen")),
            )
            assert ended.codes == [0] * num_ranks, ended.logs
            moments = [len((root / f"{rank}.txt").read_text().splitlines()) for rank in range(num_ranks)]
            self.known[key] = stage_dir, moments
        return self.known[key]


@pytest.fixture(scope="module")
def unbroken(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Unbroken:
    return Unbroken(home, tmp_path_factory.mktemp("unbroken"))


def seen(folder: Path) -> dict[int, list[Any]]:
    """Return what all ranks trained on at each step, in an order that does not depend on the ranks; last run counts."""
    steps: dict[int, dict[str, list[Any]]] = {}
    for file in sorted(folder.glob("rank-*.jsonl")):
        for line in file.read_text().splitlines():
            entry = json.loads(line)
            ranks = steps.setdefault(entry["step"], {})
            for sample in entry["samples"]:
                ranks[sample] = [mask for owner, mask in entry["masks"] if owner == sample]
    return {step: sorted(samples.items()) for step, samples in steps.items()}


def check_nothing_lost(
    home: Path,
    tmp_path: Path,
    unbroken: Unbroken,
    *,
    stage: str,
    zero_stage: int,
    num_ranks: int,
    moment: float,
    does: str = "kill",
    clock_jumps: bool = False,
) -> None:
    """Kill a rank or all at a share of a rank's moments, run again, and compare with the unbroken run."""
    expected_dir, moments = unbroken.run(stage, zero_stage, num_ranks)
    rank = random.Random(f"{stage}{zero_stage}{moment}").randrange(num_ranks)
    at = 1 + int(moment * moments[rank])
    fault = Fault(at_rank=rank, at_moment=at, does=does, seen_to=str(tmp_path), clock_jumps=clock_jumps)
    recipe = recipe_of(home, stage, zero_stage)
    run = {"start": home / "start", "num_ranks": num_ranks}
    _, killed = run_ranks(recipe, stage, tmp_path / "run", fault=fault, **run)
    assert killed.codes[rank] == -9, (fault, killed)
    if does == "kill_all":
        assert killed.codes == [-9] * num_ranks
    going_on = Fault(seen_to=str(tmp_path), clock_jumps=clock_jumps)
    stage_dir, ended = run_ranks(recipe, stage, tmp_path / "run", fault=going_on, **run)
    assert ended.codes == [0] * num_ranks, (fault, ended.logs)

    assert json.loads(stage_dir.summary_file.read_text())["finished"] is True
    assert not list(stage_dir.checkpoints.glob(".*"))
    expected, found = harness.metrics(expected_dir), harness.metrics(stage_dir)
    assert [row["step"] for row in found] == list(range(1, NUM_STEPS + 1))
    assert seen(tmp_path) == seen(expected_dir.root.parents[1] / "seen")
    if num_ranks == 1:
        assert [row["loss"] for row in found] == [row["loss"] for row in expected]
        ours, theirs = harness.weights(stage_dir), harness.weights(expected_dir)
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    else:
        losses = pytest.approx([row["loss"] for row in expected], abs=1e-5)
        assert [row["loss"] for row in found] == losses


@pytest.mark.parametrize(
    ("stage", "zero_stage", "num_ranks", "moment"),
    [("reconstruct", 2, 1, 0.55), ("finetune", 0, 1, 0.98), ("reconstruct", 3, 2, 0.7)],
)
def test_a_killed_rank_costs_nothing_but_time(
    home: Path, tmp_path: Path, unbroken: Unbroken, stage: str, zero_stage: int, num_ranks: int, moment: float
) -> None:
    check_nothing_lost(home, tmp_path, unbroken, stage=stage, zero_stage=zero_stage, num_ranks=num_ranks, moment=moment)


def test_clocks_that_jump_by_a_day_at_every_look_change_nothing(home: Path, tmp_path: Path, unbroken: Unbroken) -> None:
    kind = {"stage": "reconstruct", "zero_stage": 2, "num_ranks": 1, "moment": 0.6}
    check_nothing_lost(home, tmp_path, unbroken, **kind, clock_jumps=True)


def seeded_moments(count: int) -> list[tuple[str, int, int, float, str]]:
    """Return (stage, ZeRO stage, ranks, share of the rank's moments, what is done).

    Every stage, ZeRO-2 and 3, one rank and two; of two, one is killed or both.
    """
    draw = random.Random(6)
    kinds = [(stage, zero, ranks) for ranks in (1, 2) for stage in STAGES for zero in (2, 3)]
    does = ("kill", "kill_all")
    return [
        (*kinds[index % len(kinds)], round(draw.random(), 3), does[index // len(kinds) % 2]) for index in range(count)
    ]


@pytest.mark.slow
@pytest.mark.parametrize(("stage", "zero_stage", "num_ranks", "moment", "does"), seeded_moments(24))
def test_twenty_four_seeded_moments_cost_nothing_but_time(
    home: Path,
    tmp_path: Path,
    unbroken: Unbroken,
    stage: str,
    zero_stage: int,
    num_ranks: int,
    moment: float,
    does: str,
) -> None:
    kind = {"stage": stage, "zero_stage": zero_stage, "num_ranks": num_ranks, "moment": moment}
    check_nothing_lost(home, tmp_path, unbroken, **kind, does=does)
