import json
import os
import stat
import sys
from pathlib import Path

import pytest

from croc_cli.launch.job import run_job
from croc_cli.launch.layout import Layout
from croc_cli.launch.node_environment import environment_to_carry, without_secrets, write_environment
from croc_cli.launch.plan import plan_stage
from croc_cli.run_dir import StageDir
from tests.launch.make import FAKE_WORKER, recipe

PDSH = f"""#!{sys.executable}
import subprocess, sys
hosts, command = sys.argv[sys.argv.index("-w") + 1].split(","), sys.argv[sys.argv.index("-w") + 2:]
with open({{log!r}}, "a") as log:
    log.write(" ".join(sys.argv))
bare = ["/usr/bin/env", "-i", "PATH=/usr/bin:/bin", "HOME=/nowhere", "bash", "-c"]
ranks = [subprocess.Popen([*bare, " ".join(command).replace("%n", str(n))]) for n in range(len(hosts))]
sys.exit(max(rank.wait() for rank in ranks))
"""
SSH = "#!/bin/sh\necho 127.0.0.1\n"


def test_what_belongs_to_a_host_a_session_or_a_rank_stays_there() -> None:
    given = {"HF_HOME": "/hf", "HTTPS_PROXY": "p", "HOME": "/root", "SSH_TTY": "x", "RANK": "3", "SLURM_NTASKS": "1"}
    assert environment_to_carry(given) == {"HF_HOME": "/hf", "HTTPS_PROXY": "p"}


def test_deepspeeds_runner_knows_no_secret() -> None:
    secrets = {"HF_TOKEN": "a", "MLFLOW_TRACKING_PASSWORD": "b", "CROC_JUDGE_API_KEY": "c", "aws_secret": "d"}
    assert without_secrets({**secrets, "HF_HOME": "/hf"}) == {"HF_HOME": "/hf"}


def test_the_file_of_variables_is_its_owners_alone(tmp_path: Path) -> None:
    file = tmp_path / "environment.json"
    file.write_text("{}")
    file.chmod(0o644)
    write_environment(file, {"HF_TOKEN": "a"})
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert json.loads(file.read_text()) == {"HF_TOKEN": "a"}


@pytest.mark.slow
def test_every_node_of_a_hostfile_gets_the_environment_and_no_command_line_a_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through DeepSpeed's runner, and a pdsh that starts commands in a bare environment, as ssh does."""
    for name, text in {"pdsh": PDSH.format(log=str(tmp_path / "argv")), "ssh": SSH}.items():
        (tmp_path / "bin" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(0o755)
    (tmp_path / "hosts").write_text("127.0.0.1 slots=1\nlocalhost slots=1\n")
    given = {"HF_HOME": "/somewhere/hf", "HF_TOKEN": "hf_canary", "MLFLOW_TRACKING_TOKEN": "mlflow_canary"}
    for name, value in {
        **given,
        "FAKE_WORKER": "environment",
        "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
    }.items():
        monkeypatch.setenv(name, value)
    changed = recipe(launch__hostfile=str(tmp_path / "hosts"), launch__device="cpu", align__batch__micro_size=8)
    stage_dir = StageDir(tmp_path / "run" / "align")
    layout = Layout("cpu", (1, 1), (), 3, "hostfile")
    plan = plan_stage(
        changed, "align", stage_dir, start=None, layout=layout, master_port=29555, counts={}, worker=FAKE_WORKER
    )
    run_job(plan, recipe_yaml="name: nano\n")
    for rank in range(2):
        found = json.loads((stage_dir.root / f"environment-{rank}.json").read_text())
        assert given.items() <= found.items()
        assert (found["OMP_NUM_THREADS"], found["DS_ACCELERATOR"], found["TOKENIZERS_PARALLELISM"]) == (
            "3",
            "cpu",
            "false",
        )
        assert (found["RANK"], found["WORLD_SIZE"]) == (str(rank), "2")
    assert "canary" not in (tmp_path / "argv").read_text()
    assert not (stage_dir.root / "environment.json").exists()
