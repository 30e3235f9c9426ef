from pathlib import Path

import pytest

from croc_cli.errors import RunError
from croc_cli.launch.joined import first_host, is_joined, launch_identity, slurm_rendezvous, wait_for_files
from croc_cli.run_dir import write_json
from tests.launch.make import fake_plan


def test_a_rank_knows_that_others_launched_it() -> None:
    assert is_joined({"RANK": "0", "WORLD_SIZE": "2"})
    assert not is_joined({"RANK": "0"})


def test_ranks_of_one_launch_share_its_identity_and_no_other_launch_has_it() -> None:
    first = {"MASTER_ADDR": "a", "MASTER_PORT": "1", "RANK": "0"}
    assert launch_identity(first) == launch_identity(first | {"RANK": "1"})
    assert launch_identity(first) != launch_identity(first | {"MASTER_PORT": "2"})


def test_other_ranks_wait_for_the_files_of_this_very_launch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    plan = fake_plan(tmp_path)
    write_json(plan.stage_dir.launch_file, {"joined": "an older launch"})
    with pytest.raises(RunError, match="rank 1 waited 0 s for rank 0"):
        wait_for_files(plan, "this launch", seconds=0.0)
    write_json(plan.stage_dir.launch_file, {"joined": "this launch"})
    wait_for_files(plan, "this launch", seconds=0.0)


@pytest.mark.parametrize(
    ("nodes", "first"),
    [("gpu-[003-005,9],cpu1", "gpu-003"), ("node1,node2", "node1"), ("one", "one"), ("r[1-2]n.local", "r1n.local")],
)
def test_the_first_host_is_read_from_slurms_list(nodes: str, first: str) -> None:
    assert first_host(nodes) == first


def test_srun_ranks_find_each_other_from_slurms_variables() -> None:
    environment = {
        "SLURM_PROCID": "9",
        "SLURM_LOCALID": "1",
        "SLURM_NTASKS": "16",
        "SLURM_JOB_ID": "41234",
        "SLURM_STEP_NODELIST": "gpu-[003-004]",
    }
    assert slurm_rendezvous(environment) == {
        "RANK": "9",
        "LOCAL_RANK": "1",
        "WORLD_SIZE": "16",
        "MASTER_ADDR": "gpu-003",
        "MASTER_PORT": "21234",
    }
