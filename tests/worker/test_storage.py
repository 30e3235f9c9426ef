"""Disks that fill up, turn read-only or go away under a real worker: what is complete stays, and the run goes on."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from croc_cli.checkpoint.metadata import verify_hashes
from croc_cli.checkpoint.save import resume_folder
from croc_cli.recipe.schema import Recipe
from croc_cli.run_dir import StageDir
from tests.mounts import mounted, small_disk, unmount
from tests.worker import harness
from tests.worker.faults import Fault
from tests.worker.ranks import Ended, run_ranks

STAGE = "reconstruct"
NUM_STEPS = 4
DISK_MEBIBYTES = 24
STALL_SECONDS = 20.0


@pytest.fixture(scope="module")
def recipe(home: Path) -> Recipe:
    changes = {"zero_stage": 2, "save_every": 1, "max_steps": NUM_STEPS}
    return harness.make_recipe(home, **{STAGE: changes}, launch={"stall_timeout": STALL_SECONDS})


@pytest.fixture(scope="module")
def unbroken(home: Path, recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> StageDir:
    return run(home, recipe, tmp_path_factory.mktemp("unbroken"), codes=[0])[0]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk", mebibytes=DISK_MEBIBYTES) as folder:
        yield folder


def run(home: Path, recipe: Recipe, root: Path, *, codes: list[int], **fault: object) -> tuple[StageDir, Ended]:
    stage_dir, ended = run_ranks(recipe, STAGE, root / "run", start=home / "start", fault=Fault(**fault))  # type: ignore[arg-type]
    assert ended.codes == codes, ended.logs
    return stage_dir, ended


def check_equal(stage_dir: StageDir, unbroken: StageDir) -> None:
    """Check that a run came to what the unbroken one came to, bit for bit, and says every step once."""
    expected, found = harness.metrics(unbroken), harness.metrics(stage_dir)
    assert [row["step"] for row in found] == list(range(1, NUM_STEPS + 1))
    assert [row["loss"] for row in found] == [row["loss"] for row in expected]
    ours, theirs = harness.weights(stage_dir), harness.weights(unbroken)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert not list(stage_dir.checkpoints.glob(".*"))


def check_last_is_whole(stage_dir: StageDir, step: int) -> None:
    assert stage_dir.latest_checkpoint() == stage_dir.checkpoint(step)
    assert not list(stage_dir.checkpoints.glob(".*"))
    verify_hashes(stage_dir.checkpoint(step))
    assert resume_folder(stage_dir.checkpoint(step)) is not None


@pytest.mark.parametrize(
    "moment",
    [
        # before the first step: metrics find no room, and the first save
        pytest.param("forward", marks=pytest.mark.slow),
        "/.step-00000003.tmp/resume",
        # the first save, half of DeepSpeed's own state written
        pytest.param("written half", marks=pytest.mark.slow),
        pytest.param("/.step-00000003.tmp/croc_training_state.safetensors", marks=pytest.mark.slow),
    ],
)
def test_a_disk_that_fills_up_within_a_save_costs_nothing_but_time(
    home: Path, recipe: Recipe, unbroken: StageDir, disk: Path, moment: str
) -> None:
    stage_dir, ended = run(home, recipe, disk, codes=[1], at_rank=0, at_moment=moment, does="fill")
    assert os.path.getsize(disk / "ballast") > 2**20
    step = 3 if "step-00000003" in moment else 1
    what = rf"saving {stage_dir.checkpoint(step)} failed: disk full "
    assert ended.messages[0].startswith(what) or (not ended.messages[0] and what in ended.logs[0])
    if step == 3:
        check_last_is_whole(stage_dir, 2)
        assert f"the last complete checkpoint stays: {stage_dir.checkpoint(2)}" in ended.messages[0]
    else:
        assert stage_dir.complete_checkpoints() == []
    (disk / "ballast").unlink()
    check_equal(run(home, recipe, disk, codes=[0])[0], unbroken)


def test_a_folder_that_turns_read_only_stops_the_run_and_it_goes_on_when_it_is_not(
    home: Path, recipe: Recipe, unbroken: StageDir, tmp_path: Path
) -> None:
    checkpoints = tmp_path / "run" / STAGE / "checkpoints"
    with mounted(tmp_path, tmp_path / "trial"):  # skips where this is not allowed
        pass
    command = f"$ mount --bind {checkpoints} {checkpoints} && mount -o remount,bind,ro {checkpoints}"
    try:
        stage_dir, ended = run(home, recipe, tmp_path, codes=[1], at_step=((0, 2, command),))
        assert "Read-only file system" in ended.messages[0]
        assert f"the last complete checkpoint stays: {stage_dir.checkpoint(2)}" in ended.messages[0]
        check_last_is_whole(stage_dir, 2)
    finally:
        unmount(checkpoints)
    check_equal(run(home, recipe, tmp_path, codes=[0])[0], unbroken)


@pytest.mark.parametrize("comes_back", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_a_file_system_that_goes_away_is_waited_for_and_never_written_below(
    home: Path, recipe: Recipe, unbroken: StageDir, tmp_path: Path, comes_back: bool
) -> None:
    real, place = tmp_path / "real", tmp_path / "place"
    real.mkdir()
    patience = 8.0 if comes_back else 2.0
    impatient = recipe.model_copy(update={"launch": recipe.launch.model_copy(update={"stall_timeout": 2 * patience})})
    go = f"$ umount -l {place}"
    come = f"(sleep 3; mount --bind {real} {place}) >/dev/null 2>&1 &"
    command = f"{go}; {come}" if comes_back else go
    with mounted(real, place):
        stage_dir, _ = run(home, impatient, place, codes=[0 if comes_back else 1], at_step=((0, 2, command),))
        if not comes_back:
            assert list(place.iterdir()) == []  # nothing was written into the empty place that the mount left
    assert list(place.iterdir()) == []
    with mounted(real, place):
        if not comes_back:
            logs = (real / "run" / STAGE / "logs" / "forked_rank0.log").read_text()
            assert f"{stage_dir.root} has not been there for 2 s; its file system has gone" in logs
            check_last_is_whole(stage_dir, 2)
            stage_dir, _ = run(home, recipe, place, codes=[0])
        check_equal(stage_dir, unbroken)
